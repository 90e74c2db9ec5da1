"""The tables of the record's PostgreSQL database, and their versions."""

from collections.abc import Sequence
from typing import Final

from taskqueue.errors import RecordDamaged, RecordUnavailable
from taskqueue.monitor.store import histograms, spans
from taskqueue.monitor.store.day_file import GROUP_OF, GROUPS
from taskqueue.monitor.store.postgresql.session import SCHEMA, Session
from taskqueue.monitor.store.query import IS_LOST

#: Columns of a workitem in `live` and `done`, in the order of plan.COLUMNS. Times are seconds since 1970. Ids
#: are compared by bytes, so that the beginning of an id is a range.
_WORKITEM: Final = """
    seq bigint NOT NULL, -- its time and a number (sequence.py)
    id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    state smallint NOT NULL, -- index into events.STATES
    tenant text COLLATE "C" NOT NULL,
    labels text,
    queued double precision,
    due double precision,
    started double precision,
    ended double precision,
    again_at double precision,
    attempts bigint NOT NULL,
    host text COLLATE "C" NOT NULL,
    worker text NOT NULL,
    "user" text NOT NULL,
    size bigint,
    result_size bigint,
    error text,
    head text,
    routed smallint NOT NULL, -- whether a dispatcher told of it
    emitter bigint NOT NULL, -- who told of its last run; of `live` only
    more text -- JSON: runs, progress, result, lines
"""
_LOG: Final = """(id text COLLATE "C" NOT NULL, number bigint NOT NULL, at double precision NOT NULL,
    worker text NOT NULL, level text NOT NULL, text text NOT NULL, tenant text COLLATE "C" NOT NULL)"""
#: The separators of words, as in SQLite's index: every character that is no letter or
#: digit. PostgreSQL's parser would keep names of files and hosts in one piece.
_PUNCTUATION: Final = "".join(chr(code) for code in range(32, 127) if not chr(code).isalnum())
_WORDS: Final = f"""
CREATE FUNCTION words(text) RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT to_tsvector('pg_catalog.simple', translate(left($1, 100000),
        '{_PUNCTUATION.replace("'", "''")}', '{" " * len(_PUNCTUATION)}'))
$$;
"""
_STATES_OF: Final = {
    group: ", ".join(str(code) for code, its in GROUP_OF.items() if its == group) for group in GROUPS
}
_GROUPS: Final = "".join(
    f"CREATE TABLE done_{group} PARTITION OF done FOR VALUES IN ({states}) PARTITION BY RANGE (seq);\n"
    for group, states in _STATES_OF.items()
)

#: One script for each version: the first makes version 1, each further one the next version.
VERSIONS: Final[Sequence[str]] = (
    f"""
{_WORDS}
CREATE TABLE state(version bigint NOT NULL, position bigint, began_at double precision); -- one row
INSERT INTO state VALUES(0, NULL, NULL);
CREATE TABLE meta(key text PRIMARY KEY, value double precision NOT NULL);
CREATE TABLE name(text text COLLATE "C" PRIMARY KEY, seen double precision NOT NULL);
CREATE TABLE live({_WORKITEM}, PRIMARY KEY(seq));
CREATE INDEX ON live(id);
CREATE INDEX ON live(state, type, seq);
CREATE INDEX ON live(tenant, seq) WHERE tenant > '';
CREATE INDEX ON live(type, due) WHERE state = 1; -- scheduled
CREATE TABLE log{_LOG};
ALTER TABLE log ADD PRIMARY KEY(id, tenant, number);
CREATE TABLE done({_WORKITEM}) PARTITION BY LIST (state);
CREATE INDEX ON done(seq);
CREATE INDEX ON done(id);
CREATE INDEX ON done(type, seq);
CREATE INDEX ON done(tenant, seq) WHERE tenant > '';
CREATE INDEX ON done USING gin(string_to_array(labels, ' ')) WHERE labels IS NOT NULL;
CREATE INDEX ON done USING gin(words(error)) WHERE error IS NOT NULL;
CREATE INDEX ON done USING gin(words(head)) WHERE head IS NOT NULL;
{_GROUPS}
CREATE TABLE log_over{_LOG}; -- its tables of days have the lines
CREATE TABLE tally(type text COLLATE "C", state smallint, count bigint NOT NULL, PRIMARY KEY(type, state));
CREATE TABLE emitter(no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, host text NOT NULL,
    kind text NOT NULL, grp text NOT NULL, pid bigint NOT NULL, started double precision NOT NULL,
    next bigint NOT NULL, last_seen double precision NOT NULL, state text NOT NULL, slots bigint NOT NULL,
    busy bigint NOT NULL, rss bigint NOT NULL, cpu double precision NOT NULL, is_blocked bigint NOT NULL,
    lost bigint NOT NULL,
    missed bigint NOT NULL, state_at double precision);
CREATE TABLE gap(no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, emitter bigint NOT NULL,
    at double precision NOT NULL, first bigint NOT NULL, "end" bigint NOT NULL);
CREATE TABLE minute(at bigint, type text COLLATE "C", tenant text COLLATE "C", state smallint,
    count bigint NOT NULL, run double precision NOT NULL, wait double precision NOT NULL, runs text NOT NULL,
    waits text NOT NULL, PRIMARY KEY(at, type, tenant, state));
CREATE TABLE crash(at bigint, type text COLLATE "C", tenant text COLLATE "C",
    cause text COLLATE "C", count bigint NOT NULL, PRIMARY KEY(at, type, tenant, cause));
CREATE TABLE action(no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at double precision NOT NULL,
    "user" text NOT NULL, action text NOT NULL, filter text NOT NULL, count bigint NOT NULL);
CREATE TABLE cancel(no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE,
    at double precision NOT NULL);
""",
    """
ALTER TABLE emitter ADD COLUMN unix_user text NOT NULL DEFAULT '',
    ADD COLUMN version text NOT NULL DEFAULT '', ADD COLUMN prefetch bigint NOT NULL DEFAULT 0,
    ADD COLUMN crashes bigint NOT NULL DEFAULT 0,
    ADD COLUMN crash text NOT NULL DEFAULT '', ADD COLUMN workers text NOT NULL DEFAULT '';
CREATE TABLE software(no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at double precision NOT NULL,
    host text NOT NULL, kind text NOT NULL, grp text NOT NULL, version text NOT NULL);
""",
    f"""
CREATE TABLE type_sum(span bigint, at bigint, type text COLLATE "C", state smallint, count bigint NOT NULL,
    run double precision NOT NULL, PRIMARY KEY(span, at, type, state));
CREATE TABLE all_sum(span bigint, at bigint, state smallint, count bigint NOT NULL,
    PRIMARY KEY(span, at, state));
{spans.FILL}
""",
    """
ALTER TABLE cancel RENAME TO earlier;
CREATE TABLE cancel(no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL, at double precision NOT NULL, UNIQUE(id, tenant));
INSERT INTO cancel(id, tenant, at)
    SELECT earlier.id, live.tenant, at FROM earlier JOIN live USING(id) ORDER BY no;
DROP TABLE earlier;
""",
    f"{histograms.FUNCTIONS}{spans.FILL_TIMES}",
    f"CREATE INDEX ON done_failed(seq) WHERE {IS_LOST};",
)


def migrate(session: Session, versions: Sequence[str] = VERSIONS) -> None:
    """Make the tables, or bring them to the newest version; the session must have the lock."""
    with session.transaction():
        session.execute("SET LOCAL statement_timeout = 0")
        session.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        version = version_of(session)
        if version > len(versions):
            raise RecordDamaged(
                f"record {session.shown} has version {version}; expected at most {len(versions)}: "
                "a later release of taskqueue wrote it. Install that release, or choose another database"
            )
        for script in versions[version:]:
            with session.translated():
                session.connection.execute(script.encode())
        session.execute("UPDATE state SET version = ?", (len(versions),))


def check_version(session: Session, versions: Sequence[str] = VERSIONS) -> None:
    """Raise RecordUnavailable unless a reader knows the tables."""
    version = version_of(session)
    if version != len(versions):
        raise RecordUnavailable(
            f"record {session.shown} has version {version}; expected {len(versions)}. "
            "The monitor converts it when it starts to record"
            if version
            else f"{session.shown} has no record: no monitor has run yet"
        )


def version_of(session: Session) -> int:
    """Return the version of the tables; 0 if there are none."""
    (found,) = session.execute(f"SELECT to_regclass('{SCHEMA}.state')").fetchone()
    return int(session.execute("SELECT version FROM state").fetchone()[0]) if found else 0

"""The record in PostgreSQL: the plans of its statements, and its sessions."""

import threading
from collections.abc import Iterator

import pytest
from support.postgresql import PostgreSQL
from support.proxy import Proxy
from support.record import CONSUMER, DISPATCHER, NOON, Stream, failed, routed, states, succeeded
from support.waiting import wait_until

from taskqueue.errors import RecordDamaged, RecordUnavailable
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.opening import open_store
from taskqueue.monitor.store.postgresql.schema import VERSIONS, migrate
from taskqueue.monitor.store.postgresql.session import Session
from taskqueue.monitor.store.reading import Record
from taskqueue.postgresql import patience


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.new_database()


def name_in(url: str) -> str:
    return url.removeprefix("postgresql:///").partition("?")[0]


@pytest.mark.parametrize("lag", [0, 1], ids=["at once", "later"])
def test_a_write_reads_the_rows_that_it_names_and_no_others(tmp_path, postgresql, url, lag):
    stream, writes, size = Stream(), 20, 300
    with open_store(tmp_path, url) as store:
        store.acquire()
        for number in range(writes + lag):
            ids = [[f"{write} {each}" for each in range(size)] for write in (number, number - lag)]
            routes = [routed(id_, NOON + number) for id_ in ids[0]]
            ends = [succeeded(id_, NOON + number + 2) for id_ in ids[1] if number >= lag]
            store.write([stream.batch(DISPATCHER, *routes), stream.batch(CONSUMER, *ends)], NOON)
    assert rows_read(postgresql, url) <= lag * 4 * writes * size + 1000


def test_rare_labels_words_and_states_are_found_without_reading_the_other_rows(tmp_path, postgresql, url):
    stream, count = Stream(), 20_000
    with open_store(tmp_path, url) as store:
        store.acquire()
        routes = [routed(f"{n}", NOON + n, head=f"body{n}", labels=f"label{n}") for n in range(count)]
        ends = [failed(f"{n}", NOON + n, error=f"error{n}", labels=f"label{n}") for n in range(count)]
        store.write([stream.batch(DISPATCHER, *routes), stream.batch(CONSUMER, *ends)], NOON)
    before = rows_read(postgresql, url)
    with Record(tmp_path, url) as record:
        for wanted in (Filter(label="label77"), Filter(body_text="body77"), Filter(error_text="error77")):
            assert [each.id for each in record.page(wanted, limit=1).workitems] == ["77"]
        assert record.page(Filter(states=frozenset(["lost"]))).workitems == (), "and 20,000 have failed"
    assert rows_read(postgresql, url) - before < 100


def rows_read(postgresql: PostgreSQL, url: str) -> int:
    """Return how many rows of workitems the statements of ended sessions have read."""
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name_in(url)}'"
    wait_until(lambda: postgresql.query(sessions) == "0", what="the end of all sessions")
    query = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables "
    return int(postgresql.query(query + "WHERE relname ~ '^(live|done)'", name_in(url)))


# --- a line that hangs, a session that is interrupted ---


@pytest.fixture
def line(url: str, postgresql: PostgreSQL) -> Iterator[tuple[Proxy, str]]:
    """A line to the server that can be cut, and the URL of the database that leads through it."""
    postgresql.query("ALTER ROLE postgres PASSWORD 'secret'")
    place = f"127.0.0.1:{postgresql.port}/{name_in(url)}"
    with Proxy(f"postgresql://postgres:secret@{place}") as proxy:
        yield proxy, proxy.url


def test_a_statement_that_is_never_answered_fails_in_time_and_the_next_session_works(
    tmp_path, line, monkeypatch
):
    proxy, url = line
    monkeypatch.setattr(patience, "PATIENCE", 1.0)
    stream = Stream()
    with open_store(tmp_path, url) as store:
        assert store.acquire()
        store.write([stream.batch(DISPATCHER, routed("a"))], NOON)
        proxy.stall()
        lost = stream.batch(DISPATCHER, routed("b"))
        with pytest.raises(RecordUnavailable, match=r"record postgresql://postgres@.*: no answer"):
            store.write([lost], NOON)
        with pytest.raises(RecordUnavailable):
            store.acquire()
        proxy.resume()
        wait_until(store.acquire, what="the lock")
        store.write([lost], NOON)
    with Record(tmp_path, url) as record:
        assert states(record) == {"a": "queued", "b": "queued"}


def test_a_session_whose_statement_was_interrupted_counts_as_closed(url, postgresql):
    session = Session(url, is_reader=True)
    query = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(61)' AND state = 'active'"

    def interrupt() -> None:
        wait_until(lambda: postgresql.query(query) == "1", what="the statement")
        session.interrupt()

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(RecordUnavailable, match="no answer"):
        session.execute("SELECT pg_sleep(61)")
    other.join()
    assert not session.is_open
    session.close()


def test_an_interrupt_does_not_wait_for_a_server_that_does_not_answer(tmp_path, line):
    proxy, url = line
    with open_store(tmp_path, url) as store:
        store.acquire()
    with Record(tmp_path, url) as record:
        assert record.page(Filter()).workitems == ()
        proxy.stall()
        failed: list[Exception] = []

        def read() -> None:
            try:
                record.page(Filter())
            except RecordUnavailable as error:
                failed.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        while reader.is_alive():
            record.interrupt()
            reader.join(0.05)
        assert failed
        proxy.resume()
        assert record.page(Filter()).workitems == ()


# --- two that write, a record of an earlier version ---


def test_of_two_monitors_that_both_have_the_lock_the_later_writer_is_stopped_and_nothing_is_doubled(
    tmp_path, url
):
    stream = Stream()
    batches = [stream.batch(CONSUMER, succeeded(f"w{number}")) for number in range(3)]
    with open_store(tmp_path / "a", url) as first, open_store(tmp_path / "b", url) as second:
        assert first.acquire()
        assert not second.acquire()
        first._session.execute("SELECT pg_advisory_unlock_all()")  # as a pooler of connections may do
        assert second.acquire()
        first.write(batches[:2], NOON)
        with pytest.raises(RecordUnavailable, match="another monitor has written it"):
            second.write(batches[:1], NOON)
        assert second.acquire()
        assert second.position() == batches[1][0]
        second.write(batches, NOON)
        with pytest.raises(RecordUnavailable, match="another monitor has written it"):
            first.write(batches[2:], NOON)
    with Record(tmp_path / "a", url) as record:
        assert states(record) == dict.fromkeys(["w0", "w1", "w2"], "succeeded")
        assert sum(minute.count for minute in record.minutes(0, NOON + 1e6)) == 3


def test_a_record_of_the_first_version_is_converted_and_one_of_a_later_version_refused(tmp_path, url):
    session = Session(url)
    migrate(session, VERSIONS[:1])
    session.execute(
        "INSERT INTO emitter(host, kind, grp, pid, started, next, last_seen, state, slots, busy, rss, cpu, "
        "is_blocked, lost, missed) VALUES(?, ?, ?, ?, ?, 4, ?, 'takes work', 2, 0, 0, 0, 0, 0, 0)",
        (*CONSUMER, NOON),
    )
    session.execute("UPDATE state SET position = 7, began_at = ?", (NOON - 60,))
    stream = Stream()
    stream.offset, stream.numbers = 7, {CONSUMER: 4}
    with Record(tmp_path, url) as record, open_store(tmp_path, url) as store:
        if len(VERSIONS) > 1:
            with pytest.raises(RecordUnavailable, match="has version 1; expected"):
                record.emitters()
        assert store.acquire()
        assert store.position() == 7
        store.write([stream.batch(CONSUMER, succeeded("a"))], NOON)
        assert states(record) == {"a": "succeeded"}
        assert [(row.emitter, row.slots, row.missed) for row in record.emitters()] == [(CONSUMER, 2, 0)]
        assert record.began_at() == NOON - 60
    session.execute("UPDATE state SET version = 1000")
    session.close()
    with (
        open_store(tmp_path, url) as store,
        pytest.raises(RecordDamaged, match="version 1000; expected at most"),
    ):
        store.acquire()

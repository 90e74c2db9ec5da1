"""Pages of the record: each filter, by comparison with a plain one; and text of any kind."""

from random import Random

import pytest
from support.record import CONSUMER, CONSUMERS, DISPATCHER, NOON, Stream

from taskqueue.messages import states
from taskqueue.messages.events import Begun, Ended, LogLine, ProcessState, Progress, Rejected, Routed
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.opening import open_store
from taskqueue.monitor.store.reading import Record

TYPES = ["thumbs", "mail", "report", *[f"rare{n}" for n in range(12)]]
TENANTS = ["", "acme", "globex"]
WORDS = ["disk", "full", "customer_77", "customer", "timeout", "Ünïcode", "100%", "a-b"]
HOUR = 3600.0
SILENT = CONSUMERS[0]


@pytest.fixture(scope="module", params=["SQLite", "PostgreSQL"])
def filled(tmp_path_factory, request):
    """A record of three days with workitems in every state."""
    directory, random, stream = tmp_path_factory.mktemp("record"), Random(3), Stream()
    is_sqlite = request.param == "SQLite"
    url = None if is_sqlite else request.getfixturevalue("postgresql").new_database()
    with open_store(directory, url) as store:
        store.acquire()
        for number in range(0, 900, 30):
            some = [history(random, each) for each in range(number, number + 30)]
            store.write([stream.batch(*each) for events_ in some for each in events_], NOON + 90 * HOUR)
        store.write([stream.batch(CONSUMER, ProcessState(NOON, "takes work"))])
        with Record(directory, url) as record:
            yield record


def history(random, number):
    """Yield what happens to a workitem: emitters and events."""
    id_, at = f"{random.getrandbits(32):08x}-{number}", NOON + number * 240
    type_, tenant = random.choice(TYPES), random.choice(TENANTS)
    labels = " ".join(random.sample(["red", "blue", "blueish"], random.randrange(3)))
    about = {"tenant": tenant, "labels": labels}
    text = " ".join(random.choices(WORDS, k=3))
    due = random.choice([None, None, at + 5, 4e9])
    yield DISPATCHER, Routed(id_, type_, at, 10, due, head=text, **about)
    state = random.choice(["queued", "running", "retrying", *sorted(states.OVER)])
    consumer = random.choice([CONSUMER, SILENT])
    if state == "running":
        yield consumer, Begun(id_, type_, 1, at + 1, "w1", **about)
    elif state != "queued":
        error = "" if state == "succeeded" else text
        if state == "duplicate":
            state, error = "cancelled", f"duplicate of {text}"
        yield (
            consumer,
            Ended(id_, type_, 1, "failed", state, at + random.random() * 9, at, error=error, **about),
        )


def everything(record):
    return record.page(Filter(), limit=10_000).workitems


def time_of(row):
    return row.ended if row.ended is not None and row.state != "retrying" else row.queued


def words_in(words, text):
    """Whether a text has all words, as whole ones."""
    return all(f" {word.lower()} " in f" {text.lower()} " for word in words.split())


FILTERS = {
    "everything": (Filter(), bool),
    "a state": (Filter(states=frozenset(["failed"])), lambda row: row.state == "failed"),
    **{
        f"only {state}": (Filter(states=frozenset([state])), lambda row, state=state: row.state == state)
        for state in states.SHOWN
    },
    "only cancelled": (
        Filter(states=frozenset(["cancelled"])),
        lambda row: row.state in {"cancelled", "duplicate"},
    ),
    "duplicates and failed ones": (
        Filter(states=frozenset(["duplicate", "failed"])),
        lambda row: row.state in {"duplicate", "failed"},
    ),
    "some states": (
        Filter(states=frozenset(["queued", "lost", "rejected"])),
        lambda row: row.state in {"queued", "lost", "rejected"},
    ),
    "a type": (Filter(worker_types=frozenset(["mail"])), lambda row: row.worker_type == "mail"),
    "an unknown type": (
        Filter(worker_types=frozenset(["nothing"])),
        lambda row: row.worker_type == "nothing",
    ),
    "two types": (
        Filter(worker_types=frozenset(["mail", "thumbs"])),
        lambda row: row.worker_type in {"mail", "thumbs"},
    ),
    "many types": (
        Filter(worker_types=frozenset(TYPES) - {"mail"}),
        lambda row: row.worker_type != "mail",
    ),
    "a tenant": (Filter(tenants=frozenset(["acme"])), lambda row: row.tenant == "acme"),
    "no tenant": (Filter(tenants=frozenset([""])), lambda row: not row.tenant),
    "tenant, type and state": (
        Filter(frozenset(["failed", "queued"]), frozenset(["mail"]), frozenset(["acme"])),
        lambda row: (row.worker_type, row.tenant) == ("mail", "acme") and row.state in {"failed", "queued"},
    ),
    "tenant and types": (
        Filter(worker_types=frozenset(["mail", "thumbs"]), tenants=frozenset(["acme"])),
        lambda row: row.tenant == "acme" and row.worker_type in {"mail", "thumbs"},
    ),
    "failed and lost, of a tenant": (
        Filter(frozenset(["failed", "lost"]), tenants=frozenset(["acme"])),
        lambda row: row.tenant == "acme" and row.state in {"failed", "lost"},
    ),
    "lost, of a type, with a label": (
        Filter(frozenset(["lost"]), frozenset(["mail"]), label="red"),
        lambda row: row.state == "lost" and row.worker_type == "mail" and "red" in row.labels,
    ),
    "failed, with an error and a label": (
        Filter(frozenset(["failed"]), label="blue", error_text="disk"),
        lambda row: row.state == "failed" and "blue" in row.labels and words_in("disk", row.error),
    ),
    "a label": (Filter(label="blue"), lambda row: "blue" in row.labels),
    "a host": (Filter(host="host2"), lambda row: row.host == "host2"),
    "an id": (Filter(id_prefix="a"), lambda row: row.id.startswith("a")),
    "a longer id": (Filter(id_prefix="00f41"), lambda row: row.id.startswith("00f41")),
    "a time": (
        Filter(since=NOON + 20 * HOUR, until=NOON + 30 * HOUR),
        lambda row: NOON + 20 * HOUR <= time_of(row) < NOON + 30 * HOUR,
    ),
    "an error": (Filter(error_text="disk TIMEOUT"), lambda row: words_in("disk timeout", row.error)),
    "a body": (Filter(body_text="full"), lambda row: words_in("full", row.head)),
    "a word with a mark": (Filter(body_text="customer_77"), lambda row: "customer_77" in row.head),
    "a percent sign": (Filter(error_text="100%"), lambda row: "100%" in row.error),
    "error and body": (
        Filter(error_text="disk", body_text="full", label="red"),
        lambda row: words_in("disk", row.error) and words_in("full", row.head) and "red" in row.labels,
    ),
    "body, type and label": (
        Filter(body_text="a-b", worker_types=frozenset(["mail", "thumbs", "report"]), label="red"),
        lambda row: (
            "a-b" in row.head and row.worker_type in {"mail", "thumbs", "report"} and "red" in row.labels
        ),
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_returns_what_matches(filled, name):
    wanted, matches = FILTERS[name]
    expected = [row for row in everything(filled) if matches(row)]
    assert list(filled.page(wanted, limit=10_000).workitems) == expected
    assert expected or name in {"an unknown type", "a longer id"}
    assert filled.count(wanted) == len(expected)
    assert filled.count(wanted, 3) == min(3, len(expected))


@pytest.mark.parametrize("more", [{}, {"worker_types": frozenset(["mail"])}, {"error_text": "disk"}])
def test_letters_are_the_newest_failed_and_rejected_workitems(filled, more):
    wanted = Filter(states=frozenset(["failed", "rejected"]), **more)
    expected = filled.page(wanted, limit=10_000).workitems
    assert len(expected) > 7
    found = [tuple(letter) for letter in filled.letters(wanted, 10_000)]
    assert found == [(row.id, row.worker_type, row.state, row.ended, row.error) for row in expected]
    assert filled.letters(wanted, 7) == filled.letters(wanted, 10_000)[:7]


@pytest.mark.parametrize("name", ["everything", "two types", "a body", "a label", "only lost"])
@pytest.mark.parametrize("limit", [7, 50])
def test_pages_follow_each_other(filled, name, limit):
    wanted, _ = FILTERS[name]
    found, cursor = [], None
    for _ in range(1000):
        page = filled.page(wanted, cursor, limit)
        found += page.workitems
        cursor = page.next
        if cursor is None:
            break
    assert found == list(filled.page(wanted, limit=10_000).workitems)


def test_the_newest_come_first(filled):
    times = [time_of(row) for row in everything(filled)]
    assert len(times) == 900
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("cursor", ["", "x", "1.5", "-1'", "9" * 99])
def test_a_cursor_that_is_none_is_refused(filled, cursor):
    with pytest.raises(ValueError, match="cursor"):
        filled.page(Filter(), cursor)


HOSTILE = [
    "'; DROP TABLE done; --",
    '" OR 1=1',
    "\x00nul",
    "\x1b[31m",
    "<script>alert(1)</script>",
    "a\tb\nc\\",
    "\udc80",
    "\u202ertl",
    "😀" * 60,
    "NEAR(a b)",
    "col:x*",
    "%_\\",
    "{",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_kept_as_it_is_and_found(tmp_path, database, text):
    stream = Stream()
    read = text.replace("\udc80", "?")  # what no UTF-8 text can have
    if database is not None:  # no text of PostgreSQL has NUL
        text = read = read.replace("\0", "\ufffd")
    name = read.replace("\0", "\ufffd")  # SQLite's JSON functions, by which ids are looked for, stop at NUL
    some = [
        Routed(text, text, NOON, 1, None, text, text.replace(" ", ""), text),
        LogLine(text, NOON, text, text, text, text),
        Begun(text, text, 1, NOON, text, text),
        Progress(text, NOON, 0.5, text, text),
    ]
    end = Ended(text, text, 1, text, "failed", NOON, NOON, worker=text, user=text, error=text, tenant=text)
    end = end._replace(traceback=text)
    with open_store(tmp_path, database) as store, Record(tmp_path, database) as record:
        store.acquire()
        store.write([stream.batch(DISPATCHER, *some)])
        assert record.find(name).progress == (0.5, read)
        assert [row.id for row in record.page(Filter(body_text=read, error_text="")).workitems] == [name]
        store.write(
            [stream.batch(CONSUMER, end), stream.batch(DISPATCHER, Rejected(f"r{text}", text, NOON, text))]
        )
        details = record.find(name)
        assert (details.workitem.id, details.workitem.worker_type, details.workitem.head) == (
            name,
            read,
            read,
        )
        assert (details.runs[0].error, details.runs[0].traceback, details.runs[0].worker) == (read,) * 3
        assert [line.text for line in record.logs(name)] == [read]
        wanted = Filter(error_text=read, id_prefix=name, worker_types=frozenset([read]), host="host2")
        assert [row.id for row in record.page(wanted).workitems] == [name]


@pytest.mark.parametrize("at", [0.0, -1e11, 1e11, 4e9, 9.9e11])
def test_times_of_wrong_clocks_break_nothing(tmp_path, database, at):
    stream = Stream()
    with open_store(tmp_path, database) as store, Record(tmp_path, database) as record:
        store.acquire()
        store.write([stream.batch(DISPATCHER, Routed("a", "t", at, 1), Routed("b", "t", at, 1, at))], NOON)
        store.write([stream.batch(CONSUMER, Ended("a", "t", 1, "failed", "failed", at, at))], NOON)
        store.write([stream.batch(CONSUMER, Begun("b", "t", 1, at, "w"))], NOON)
        assert (record.find("a").workitem.ended, record.find("b").workitem.started) == (at, at)
        assert len(record.page(Filter()).workitems) == 2
        keep = dict.fromkeys(("succeeded", "failed", "rejected", "cancelled"), HOUR)
        store.prune(NOON + 90 * 86400, keep, HOUR, 10**9)
        assert record.find("a") is None


def test_as_many_workitems_as_there_are_may_end_at_the_same_time(tmp_path, database):
    stream = Stream()
    with open_store(tmp_path, database) as store, Record(tmp_path, database) as record:
        store.acquire()
        for number in range(3):
            some = [Rejected(f"{number}-{n}", "t", NOON, "no") for n in range(1000)]
            store.write([stream.batch(DISPATCHER, *some)])
        assert len({row.id for row in record.page(Filter(), limit=9999).workitems}) == 3000

"""The store's files: damage, interrupted writes, earlier versions, and readers beside a writer."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.record import (
    CONSUMER,
    DISPATCHER,
    FILES,
    KEEP,
    NOON,
    failed,
    routed,
    rows,
    states,
    succeeded,
)
from support.waiting import wait_until

from taskqueue.errors import AlreadyRunning, ExitStatus, RecordDamaged, RecordUnavailable
from taskqueue.messages import events
from taskqueue.monitor.record import Crashes, Filter
from taskqueue.monitor.store import names, plan, schema, sources
from taskqueue.monitor.store.causes import crash_cause
from taskqueue.monitor.store.day_file import DayFile
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.store import Store
from taskqueue.process.children import Exit


@FILES
def test_a_second_store_of_a_directory_is_refused(store, tmp_path):
    imports = "from pathlib import Path; from taskqueue.monitor.store.store import Store"
    code = f"{imports}; Store(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"AlreadyRunning: another monitor writes the record in {tmp_path}" in done.stderr
    with pytest.raises(AlreadyRunning) as caught:
        Store(tmp_path)
    assert caught.value.status is ExitStatus.LOCKED


def test_a_store_can_be_opened_once_the_other_is_closed(tmp_path):
    for _ in range(2):
        Store(tmp_path).close()


@pytest.mark.parametrize("name", ["live.db", "2025-01-01.succeeded.db"])
def test_a_damaged_file_is_named_with_what_mends_it(tmp_path, stream, name):
    with Store(tmp_path) as store:
        store.write([stream.batch(CONSUMER, succeeded("a"))])
    (tmp_path / name).write_bytes(b"no database" * 1000)
    with (
        pytest.raises(RecordDamaged, match=rf"{name} is damaged: .*`taskqueue monitor rebuild`"),
        Store(tmp_path) as store,
    ):
        store.write([stream.batch(CONSUMER, succeeded("b"))])
    with pytest.raises(RecordDamaged, match=f"{name} is damaged"), Record(tmp_path) as record:
        record.find("a")


@pytest.mark.parametrize("name", ["live.db", "2025-01-01.succeeded.db"])
def test_a_file_of_a_later_version_is_refused(tmp_path, stream, name):
    with Store(tmp_path) as store:
        store.write([stream.batch(CONSUMER, succeeded("a"))])
    rows(tmp_path / name, "PRAGMA user_version=99")
    with (
        pytest.raises(RecordDamaged, match=r"has version 99; expected at most \d:"),
        Store(tmp_path) as store,
    ):
        store.write([stream.batch(CONSUMER, succeeded("b"))])


@FILES
def test_a_record_that_is_not_there_is_unavailable(tmp_path, record):
    with pytest.raises(RecordUnavailable, match=f"{tmp_path} has no record"):
        record.find("a")
    with pytest.raises(RecordUnavailable, match="absent"), Record(tmp_path / "absent") as absent:
        absent.types()


def test_what_a_write_could_not_finish_is_done_by_the_next_one(tmp_path, stream, monkeypatch):
    """A day's file cannot be made, as on a full disk."""
    blocker = tmp_path / "2025-01-01.succeeded.db"
    with Store(tmp_path) as store, Record(tmp_path) as record:
        blocker.mkdir()
        batches = [stream.batch(DISPATCHER, routed("a")), stream.batch(CONSUMER, succeeded("a"))]
        for _ in range(3):
            with pytest.raises(RecordUnavailable, match=r"succeeded\.db: unable to open database file"):
                store.write(batches)
        blocker.rmdir()
        store.write(batches)
        assert states(record) == {"a": "succeeded"}
        assert len(record.find("a").runs) == 1


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (Exit(1, -signal.SIGSEGV, 0).cause, "SIGSEGV"),
        (Exit(1, -signal.SIGXCPU, 0).cause, "SIGXCPU"),
        (Exit(1, -signal.SIGRTMAX, 0).cause, "SIGRTMAX"),
        (Exit(1, -signal.SIGRTMIN - 3, 0).cause, f"signal {signal.SIGRTMIN + 3}"),
        (f"{Exit(1, -9, 0).cause}: it closed its connection to the consumer and did not end", "SIGKILL"),
        (Exit(1, 3, 0).cause, "exit status 3"),
        (Exit(1, ExitStatus.CUT_OFF, 0).cause, "exit status 76"),
    ],
)
def test_crashes_are_counted_by_the_cause_that_the_supervisor_tells(store, stream, record, cause, expected):
    event = failed("a", state=events.RETRYING, error=cause, tenant="acme")
    crash = event._replace(outcome="crashed")
    for _ in range(2):
        store.write([stream.batch(CONSUMER, crash._replace(id="b"), crash, failed("c", error=crash.error))])
    assert record.crashes(NOON, NOON + 60) == [Crashes(NOON, "thumbs", "acme", expected, 4)]
    assert record.crashes(NOON + 60, NOON + 120) == []
    store.prune(NOON + 200, KEEP, 100, 10**12)
    assert record.crashes(0, 1e10) == []


@pytest.mark.parametrize("error", ["", "killed by SIGNOTHING7", "exit status 3000", "killed by a lion"])
def test_a_cause_of_another_wording_makes_no_new_cause(error):
    assert crash_cause(error) == "other"


@FILES
def test_a_record_of_the_first_version_is_converted(tmp_path, stream, record):
    with contextlib.closing(schema.open_for_writing(tmp_path / "live.db", schema.LIVE[:1])) as old:
        old.execute("INSERT INTO gap VALUES(1, 1, 2, 3, 4)")
    with Store(tmp_path) as store:
        store.write([stream.batch(CONSUMER, failed("a", error="exit status 1")._replace(outcome="crashed"))])
    assert [each.cause for each in record.crashes(0, 1e10)] == ["exit status 1"]
    assert rows(tmp_path / "live.db", "SELECT no FROM gap") == [(1,)]


def test_a_file_has_its_tables_before_it_has_its_name(tmp_path):
    for name, versions in (("2025-01-01.failed.db", schema.DAY), ("live.db", schema.LIVE)):
        (tmp_path / f"{name}.new").write_bytes(b"half of a file that a killed process was making")
        (tmp_path / f"{name}.new-wal").touch()
        with contextlib.closing(schema.open_for_writing(tmp_path / name, versions)):
            assert not schema.is_old(tmp_path / name, versions)
            with contextlib.closing(
                schema.open_for_reading(tmp_path / name, versions, is_in_use=False)
            ) as read:
                assert read.execute("SELECT count(*) FROM meta").fetchall() == [(0,)]
        assert [path.name for path in tmp_path.iterdir() if ".new" in path.name] == []


def test_a_reader_waits_for_what_is_on_its_way_to_its_file(tmp_path, stream):
    found = []

    def find(id_):
        with Record(tmp_path) as record:
            found.append(record.find(id_))

    with Store(tmp_path) as store:
        send, plans = store._send, []
        store._send = plans.append
        store.write([stream.batch(CONSUMER, succeeded("a"))])
        find("b")
        thread = threading.Thread(target=find, args=["a"])
        thread.start()
        thread.join(0.05)
        assert found == [None]
        send(plans[0])
        thread.join()
    assert found[1].workitem.state == "succeeded"


def test_a_plan_that_is_on_its_way_is_finished_when_the_store_opens(tmp_path, stream):
    with Store(tmp_path) as store:
        store._send = lambda _plan: None  # the process ends here
        store.write([stream.batch(CONSUMER, succeeded("a"))])
    assert not list(tmp_path.glob("2025*"))
    Store(tmp_path).close()
    Store(tmp_path).close()
    assert rows(tmp_path / "2025-01-01.succeeded.db", "SELECT id FROM done") == [("a",)]


def test_files_of_an_earlier_version_are_converted_when_the_store_opens(tmp_path, stream, monkeypatch):
    with Store(tmp_path) as store:
        store.write([stream.batch(CONSUMER, succeeded("a"))])
    for name in ("LIVE", "DAY"):
        versions = (*getattr(schema, name), "CREATE TABLE later(x)")
        for module in ("schema", "store", "day_file", "sources"):
            monkeypatch.setattr(f"taskqueue.monitor.store.{module}.{name}", versions, raising=False)
    with Record(tmp_path) as record:
        with pytest.raises(
            RecordUnavailable, match=rf"live\.db has version {len(schema.LIVE) - 1}; expected"
        ):
            record.find("a")
        with Store(tmp_path) as store:
            assert states(record) == {"a": "succeeded"}
            assert store.position() == 0
    for name in ("live.db", "2025-01-01.succeeded.db"):
        assert rows(tmp_path / name, "SELECT * FROM later") == []


def test_a_record_without_cancels_is_converted(tmp_path, stream):
    schema.open_for_writing(tmp_path / "live.db", schema.LIVE[:2]).close()
    with Store(tmp_path) as store:
        store.write([stream.batch(DISPATCHER, routed("a"))])
        store.cancels.keep([("", "a")], NOON)
        assert store.cancels.kept(NOON) == [("", "a")]


@FILES
def test_lines_without_tenant_get_that_of_their_workitem(tmp_path, stream, record, monkeypatch):
    """Versions 4 of live.db and 1 of a day's file had one workitem for an id."""
    line = "INSERT INTO log VALUES(?, 0, 1.0, 'w', 'info', 'text')"
    columns = "(seq, id, type, state, tenant, attempts, host, worker, user, routed, emitter)"
    with contextlib.closing(schema.open_for_writing(tmp_path / "live.db", schema.LIVE[:4])) as old:
        old.execute("INSERT INTO name VALUES(1, 'thumbs'), (2, 'acme')")
        old.execute(f"INSERT INTO live{columns} VALUES(8, 'a', 1, 2, 2, 1, 0, 0, 0, 1, 0)")
        old.executemany(line, [("a",), ("nobody",)])
        old.execute("INSERT INTO cancel VALUES(1, 'a', 1.0)")
    path = tmp_path / "2025-01-01.failed.db"
    with contextlib.closing(schema.open_for_writing(path, schema.DAY[:1])) as old:
        old.execute("INSERT INTO name VALUES(1, 'acme'), (2, 'thumbs')")
        old.execute(f"INSERT INTO done{columns} VALUES(9, 'b', 2, 5, 1, 1, 0, 0, 0, 1, 0)")
        old.execute(line, ("b",))
    with Store(tmp_path) as store:
        for id_ in ("a", "b"):
            assert record.find(id_).workitem.tenant == "acme"
            assert [each.text for each in record.logs(id_)] == ["text"]
        assert len(record.logs("nobody")) == 1
        assert store.cancels.kept(2.0) == [("acme", "a")]
        store.write([stream.batch(CONSUMER, succeeded("a", tenant="acme"))])
        assert store.cancels.kept(2.0) == []
    assert states(record) == {"a": "succeeded", "b": "failed"}


def test_a_plan_of_lines_without_tenants_is_read():
    row = ["a", "thumbs", 4, "acme"]
    old = [
        [7],
        [[1.0, row]],
        [["a", 0, 1.0, "w", "info", "text"], ["b", 1, 1.0, "w", "info", "other"]],
        [["a", 3]],
    ]
    found = plan.decode(json.dumps({"2025-01-01.succeeded.db": old}))["2025-01-01.succeeded.db"]
    assert [(line[0], line[-1]) for line in found.lines] == [("a", "acme"), ("b", "")]
    assert found.trims == [(("acme", "a"), 3)]
    assert plan.encode(plan.decode(plan.encode({"x": found}))) == plan.encode({"x": found})


def test_tenants_beyond_the_names_of_a_file_share_a_workitem(store, stream, record, monkeypatch):
    monkeypatch.setattr(names, "MOST", 6)
    for number in range(9):
        store.write([stream.batch(DISPATCHER, routed("a", tenant=f"tenant{number}"))])
    store.write([stream.batch(CONSUMER, succeeded("a", tenant="tenant8"))])
    found = {each.tenant: each.state for each in record.page(Filter(), limit=99).workitems}
    assert (found["(others)"], found["tenant0"]) == ("succeeded", "queued")


def test_a_reader_that_may_not_write_reads_files_that_nobody_writes(tmp_path, stream):
    with Store(tmp_path) as store:
        store.write([stream.batch(CONSUMER, succeeded("a"))])
    assert {path.name for path in tmp_path.iterdir()} == {"live.db", "2025-01-01.succeeded.db", "lock"}
    DayFile(tmp_path / "2025-01-01.succeeded.db").close()


@FILES
def test_files_without_tables_are_completed_when_the_monitor_starts(stream, record, tmp_path):
    with Store(tmp_path) as store:
        store.write([stream.batch(CONSUMER, succeeded("a"))])
    (tmp_path / "2025-01-01.failed.db").touch()
    with pytest.raises(RecordUnavailable, match=rf"failed.db has version 0; expected {len(schema.DAY)}"):
        states(record)
    with Store(tmp_path) as store:
        assert states(record) == {"a": "succeeded"}
        store.write([stream.batch(CONSUMER, failed("b"))])
        assert states(record) == {"a": "succeeded", "b": "failed"}


def test_a_file_that_was_written_and_closed_between_two_looks_is_read_anew(tmp_path, stream):
    with Store(tmp_path) as store:
        store.write([stream.batch(CONSUMER, *(succeeded(f"a{n}") for n in range(50)))])
    with Record(tmp_path) as record:
        assert len(states(record)) == 50
        for turn in range(3):
            with Store(tmp_path) as store:
                store.write([stream.batch(CONSUMER, *(succeeded(f"b{turn}.{n}") for n in range(500)))])
            assert len(states(record)) == min(50 + 500 * (turn + 1), 1000)
            assert record.count(Filter(states=frozenset(("succeeded",)))) == 50 + 500 * (turn + 1)
            assert record.find(f"b{turn}.499") is not None


#: Adds workitems to a day's file again and again, and closes it each time.
_REOPENING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.record import CONSUMER, Stream, succeeded
from taskqueue.monitor.store.store import Store

stream = Stream()
for turn in range(30):
    with Store(Path(sys.argv[1])) as store:
        some = (succeeded(f"{turn}.{n}", error="some text " * 50) for n in range(200))
        store.write([stream.batch(CONSUMER, *some)])
"""


def test_a_reader_never_sees_a_file_in_the_middle_of_a_change(tmp_path):
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", _REOPENING, str(tmp_path), tests]) as writer:
        wait_until(lambda: list(tmp_path.glob("2025*.db")), 20)
        with Record(tmp_path) as record:
            count = 0
            while writer.poll() is None:
                found = record.count(Filter(error_text="text"))
                assert found >= count
                assert found % 200 == 0
                count = found
                assert len(record.page(Filter(), limit=1000).workitems) >= min(count, 1000)
            assert record.count(Filter(error_text="text")) == 30 * 200
    assert writer.returncode == 0


@FILES
def test_a_reader_keeps_a_bounded_number_of_files_open(tmp_path, stream, record, monkeypatch):
    monkeypatch.setattr(sources, "_MOST_OPEN", 20)
    with Store(tmp_path) as store:
        for day in range(40):
            store.write([stream.batch(CONSUMER, succeeded(f"a{day}", NOON - day * 86400.0))], NOON)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert len(states(record)) == 40
    assert record.find("a39").workitem.state == "succeeded"
    assert record.find("none") is None
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 22

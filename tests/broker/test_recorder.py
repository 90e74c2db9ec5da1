"""The recorder, as a daemon with the real broker: what foreign clients publish is in the record."""

import collections
import contextlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.foreign_events import batch, ended, publish
from support.forked import Forked
from support.ground import Ground
from support.processes import children, kill, name, run_cli
from support.waiting import wait_until

from taskqueue.config import AmqpSettings, MonitorSettings
from taskqueue.errors import RecordUnavailable
from taskqueue.messages.events import LARGEST_BATCH
from taskqueue.monitor import recorder
from taskqueue.monitor.record import Filter
from taskqueue.monitor.report import Report, read_report
from taskqueue.monitor.store.opening import open_store
from taskqueue.monitor.store.reading import Record
from taskqueue.process.daemon import Signals

EVENTS = "taskqueue_events"


def config(ground: Ground) -> str:
    return (
        f"[monitor]\ndatabase: {place(ground)}\nuser: taskqueue-worker\nlisten: 127.0.0.1:0\n"
        "stream_segment_size: 1000000\n"
    )


def place(ground: Ground) -> Path:
    return ground.directory / "record"


def start(ground: Ground):
    """Start a monitor, and wait until it records."""
    return ground.start("monitor", config(ground), ready="INFO monitor: records")


def recorded(ground: Ground) -> dict[str, str]:
    """Return the states of the recorded workitems by id; none while a file of the record is being made."""
    found: dict[str, str] = {}
    cursor = None
    with Record(place(ground)) as record, contextlib.suppress(RecordUnavailable):
        while True:
            page = record.page(Filter(), cursor, 500)
            found |= {each.id: each.state for each in page.workitems}
            cursor = page.next
            if cursor is None:
                return found
    return {}


def wait_for_end_of(ground: Ground, workitem: str) -> None:
    def is_recorded() -> bool:
        with contextlib.suppress(RecordUnavailable):  # a file of the record is being made
            return record.find(workitem) is not None
        return False

    with Record(place(ground)) as record:
        wait_until(is_recorded, 20, workitem)


def wait_for(ground: Ground, expected: dict[str, str], timeout: float = 20) -> None:
    wait_until(lambda: recorded(ground) == expected, timeout, lambda: recorded(ground))


def missed(ground: Ground) -> int:
    with Record(place(ground)) as record:
        return sum(gap.missed for gap in record.gaps())


def test_a_batch_of_another_client_is_recorded(ground: Ground) -> None:
    start(ground)
    publish(ground, batch(1, ended("a"), ended("b", "failed")))
    wait_for(ground, {"a": "succeeded", "b": "failed"})
    assert missed(ground) == 0


def test_what_happened_while_no_monitor_ran_is_recorded(ground: Ground) -> None:
    assert start(ground).stop() == 0
    publish(ground, batch(1, ended("a")))
    start(ground)
    wait_for(ground, {"a": "succeeded"})


def test_after_each_kill_minus_9_the_record_is_what_the_stream_has_row_for_row(
    ground: Ground, request: pytest.FixtureRequest
) -> None:
    kills, size = request.config.getoption("--kills"), 5
    number = 1
    for _ in range(kills):
        monitor = start(ground)
        for _ in range(2):
            bodies = []
            for _ in range(25):
                names = [f"w{number + index}" for index in range(size)]
                states = ["failed" if index == 0 else "succeeded" for index in range(size)]
                bodies.append(batch(number, *map(ended, names, states)))
                number += size
            ground.foreign.publish_many(bodies, EVENTS)
            if random.choice((True, False)):  # the kill comes before a write, within it, or after it
                wait_for_end_of(ground, f"w{random.randrange(number - 125, number)}")
        monitor.kill()
        wait_until(lambda monitor=monitor: not monitor.processes(), what=monitor.processes)
    start(ground)
    expected = rows_in(ground.foreign.read_stream(EVENTS, lambda texts: len(texts) == kills * 50))
    assert len(expected) == number - 1 == kills * 250
    with Record(place(ground)) as record:
        wait_until(lambda: record.count(Filter()) == len(expected), 120)
    assert missed(ground) == 0
    with Record(place(ground)) as record:
        assert rows_of(record) == expected
        counted = collections.Counter[str]()
        for minute in record.minutes(0, time.time() + 60):
            counted[minute.state] += minute.count
        assert counted == collections.Counter(row[1] for row in expected)


Row = tuple[str, str, float, float, float, str]


def rows_in(texts: list[str]) -> list[Row]:
    """Return id, state, times and worker of each workitem in some batches, as docs/protocol.md has them."""
    lines = [line.split("\t") for text in texts for line in text.split("\n") if line.startswith("ended\t")]
    return sorted((f[1], f[5], float(f[6]), float(f[7]), float(f[8]), f[9]) for f in lines)


def rows_of(record: Record) -> list[Row]:
    """Return the same of each workitem in a record."""
    rows: list[Row] = []
    cursor = None
    while True:
        page = record.page(Filter(), cursor, 1000)
        for each in page.workitems:
            assert None not in (each.ended, each.started, each.queued)
            rows.append((each.id, each.state, each.ended, each.started, each.queued, each.worker))  # type: ignore[arg-type]
        cursor = page.next
        if cursor is None:
            return sorted(rows)


def test_a_recorder_that_ends_is_followed_by_another_one(ground: Ground) -> None:
    monitor = start(ground)
    publish(ground, batch(1, ended("a")))
    wait_for(ground, {"a": "succeeded"})
    kill_recorder(monitor)
    publish(ground, batch(2, ended("b")))
    monitor.wait_for("INFO monitor: records", times=2)
    wait_for(ground, {"a": "succeeded", "b": "succeeded"})


def kill_recorder(monitor) -> None:
    for child in children(monitor.pid):
        if name(child) == "tq:recorder":
            kill(child)


def test_a_stream_that_is_deleted_is_declared_again_and_the_gap_is_shown(ground: Ground) -> None:
    monitor = start(ground)
    publish(ground, batch(1, ended("a")))
    wait_for(ground, {"a": "succeeded"})
    ground.foreign.delete(EVENTS)
    monitor.wait_for("declared queue taskqueue_events", times=2)
    publish(ground, batch(4, ended("d")))
    wait_for(ground, {"a": "succeeded", "d": "succeeded"})
    assert missed(ground) == 2


def test_a_stream_that_was_deleted_while_no_monitor_ran_is_read_from_its_beginning(ground: Ground) -> None:
    monitor = start(ground)
    publish(ground, *(batch(number, ended(f"old{number}")) for number in range(1, 6)))
    expected = {f"old{number}": "succeeded" for number in range(1, 6)}
    wait_for(ground, expected)
    assert monitor.stop() == 0
    ground.foreign.delete(EVENTS)
    start(ground)
    publish(ground, batch(6, ended("new")))
    wait_for(ground, expected | {"new": "succeeded"})
    assert missed(ground) == 0


def test_a_stream_that_was_cut_while_no_monitor_ran_leaves_a_gap_of_its_size(ground: Ground) -> None:
    small = config(ground) + "stream_max_size: 2000000\n"
    monitor = ground.start("monitor", small, ready="INFO monitor: records")
    publish(ground, batch(1, ended("w1")))
    wait_for_end_of(ground, "w1")
    assert monitor.stop() == 0
    total, size = 100_000, 1000
    for first in range(
        2, total, size
    ):  # 100 times 70 kB, of which the broker keeps the last segments of 1 MB
        publish(ground, batch(first, *(ended(f"w{first + index}") for index in range(size))))
    number = total + 1
    ground.start("monitor", small, ready="INFO monitor: records")
    wait_for_end_of(ground, f"w{number}")
    with Record(place(ground)) as record:
        assert missed(ground) > 0
        assert missed(ground) + record.count(Filter()) == number


def test_a_batch_as_large_as_a_message_may_be_is_recorded(ground: Ground) -> None:
    start(ground)
    line = f"log\ta\t{time.time()}\tdigest-1\tINFO\t{'x' * 16_000}"
    publish(ground, batch(1, ended("a"), *[line] * (LARGEST_BATCH // 16_100)), batch(1100, ended("b")))
    wait_for(ground, {"a": "succeeded", "b": "succeeded"})


DAMAGED = [
    b"",
    b"\xff" * 100,
    b"\0" * 16 * 1024 * 1024,
    b"taskqueue-events\t2\tfar\tconsumer\tgood\t1\t1.0\t1\n",  # a later version
    b"taskqueue-events\t1\tfar\n",
    b"taskqueue-events\t1\tfar\tconsumer\tgood\t-1\tnan\t1\n",
]


def test_messages_that_are_no_batches_are_skipped_and_said_and_probes_warn(ground: Ground) -> None:
    monitor = start(ground)
    publish(ground, *DAMAGED, batch(1, ended("a"), "ended\t\t", f"routed\t{'x' * 10_000}\tdigest\t1.0\t1"))
    wait_for(ground, {"a": "succeeded"})
    monitor.wait_for("messages that are no events")
    assert "Traceback" not in monitor.output()
    wait_until(lambda: probe(ground)[0] == 1, 20, lambda: probe(ground))
    assert "6 messages on taskqueue_events were no events" in probe(ground)[1]


def test_more_damaged_messages_than_are_delivered_at_once_do_not_block(ground: Ground) -> None:
    start(ground)
    ground.foreign.publish_many([b"junk"] * 2500, EVENTS)
    publish(ground, batch(1, ended("a")))
    wait_for(ground, {"a": "succeeded"})


def probe(ground: Ground) -> tuple[int, str]:
    done = run_cli("monitor", "--check", "-c", ground.write(config(ground)))
    return done.returncode, done.stdout + done.stderr


def test_a_second_monitor_refuses_the_directory_of_the_first(ground: Ground) -> None:
    start(ground)
    second = ground.start("monitor", config(ground), ready="another monitor writes the record")
    assert second.wait() == 73
    assert str(place(ground)) in second.output()
    assert "Traceback" not in second.output()


def test_a_probe_tells_whether_a_monitor_records(ground: Ground) -> None:
    assert probe(ground) == (2, f"MONITOR CRITICAL: no monitor records into {place(ground)}\n")
    monitor = start(ground)
    publish(ground, batch(1, ended("a"), ended("b")))
    ground.foreign.declare("worker_digest")
    ground.foreign.publish(b"", "worker_digest")
    expected = "MONITOR OK: 2 events recorded since its start, 1 workitems waiting\n"
    wait_until(lambda: probe(ground) == (0, expected), 30, lambda: probe(ground))
    assert monitor.stop() == 0
    assert probe(ground)[0] == 2


def test_a_reload_replaces_the_recorder_and_misses_nothing(ground: Ground) -> None:
    monitor = start(ground)
    publish(ground, batch(1, ended("a")))
    monitor.signal(signal.SIGHUP)
    publish(ground, batch(2, ended("b")))
    monitor.wait_for("INFO monitor: records", times=2)
    publish(ground, batch(3, ended("c")))
    wait_for(ground, dict.fromkeys("abc", "succeeded"))
    assert missed(ground) == 0
    assert "ERROR" not in monitor.output()


def test_a_rebuilt_record_is_the_one_before(ground: Ground) -> None:
    monitor = start(ground)
    publish(ground, batch(1, ended("a"), ended("b", "failed")))
    wait_for(ground, {"a": "succeeded", "b": "failed"})
    rebuild = ["monitor", "rebuild", "-c", ground.write(config(ground))]
    refused = run_cli(*rebuild)
    assert refused.returncode == 73
    assert "Traceback" not in refused.stderr
    assert monitor.stop() == 0
    done = run_cli(*rebuild)
    assert done.returncode == 0, done.stderr
    (aside,) = place(ground).glob("before-*")
    assert str(aside) in done.stdout
    assert (aside / "live.db").exists()
    assert not (place(ground) / "live.db").exists()
    start(ground)
    wait_for(ground, {"a": "succeeded", "b": "failed"})


@pytest.fixture
def small_disk(ground: Ground):
    """The record's directory on a file system of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("to mount takes root")
    place(ground).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=1777", "tmpfs", place(ground)], check=True)
    yield place(ground)
    subprocess.run(["umount", "-l", place(ground)], check=True)


def fill(path: Path) -> None:
    """Fill a file system with a file."""
    with path.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096) == 4096:
            pass


def test_on_a_full_disk_the_monitor_says_so_and_goes_on_when_there_is_room(
    ground: Ground, small_disk: Path
) -> None:
    monitor = start(ground)
    with pytest.raises(OSError, match="No space"):
        fill(small_disk / "ballast")
    names = [f"w{number}" for number in range(1, 2001)]
    failed = [f"{ended(name, 'failed')}\t\t0\t\tError: {'x' * 200}" for name in names]
    bodies = [batch(at + 1, *failed[at : at + 100]) for at in range(0, 2000, 100)]
    ground.foreign.publish_many(bodies, EVENTS)
    monitor.wait_for("events cannot be recorded: ")
    (small_disk / "ballast").unlink()
    monitor.wait_for("events are recorded again", timeout=60)
    wait_for(ground, dict.fromkeys(names, "failed"), 60)
    assert missed(ground) == 0
    assert "Traceback" not in monitor.output()


def test_while_another_program_locks_the_record_the_monitor_says_so_and_goes_on_then(ground: Ground) -> None:
    monitor = start(ground)
    other = sqlite3.connect(place(ground) / "live.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    publish(ground, batch(1, ended("a")))
    monitor.wait_for("events cannot be recorded: ")
    assert "database is locked" in monitor.output()
    wait_until(lambda: probe(ground)[0] == 2, 20, lambda: probe(ground))
    other.close()
    monitor.wait_for("events are recorded again", timeout=60)
    wait_for(ground, {"a": "succeeded"})
    assert monitor.output().count("events cannot be recorded: ") == 1


def test_queues_of_recorded_types_are_counted_after_a_restart(ground: Ground) -> None:
    monitor = start(ground)
    publish(ground, batch(1, f"routed\ta\tdigest\t{time.time()}\t1"))
    wait_for(ground, {"a": "queued"})
    assert monitor.stop() == 0
    ground.foreign.declare("worker_digest")
    ground.foreign.publish(b"", "worker_digest")
    start(ground)
    wait_until(lambda: probe(ground)[1].endswith(", 1 workitems waiting\n"), 30, lambda: probe(ground))


def test_the_report_has_the_broker_and_the_queues_with_their_consumers(ground: Ground) -> None:
    ground.start("dispatcher")
    start(ground)
    publish(ground, batch(1, f"routed\ta\tdigest\t{time.time()}\t1"))
    wait_until(lambda: "worker_digest" in report(ground).consumers, 30, lambda: report(ground))
    found = report(ground)
    assert (found.consumers["taskqueue"], found.consumers["worker_digest"]) == (1, 0)
    version = re.escape(ground.foreign.server_version())
    assert re.fullmatch(rf"RabbitMQ {version}, cluster \S+, at 127\.0\.0\.1:[0-9]+", found.broker)


def report(ground: Ground) -> Report:
    with Record(place(ground)) as record:
        found = record.report()
    assert found is not None
    return found


def test_impossible_times_make_no_files_of_days_that_the_record_does_not_keep(ground: Ground) -> None:
    kept = "".join(f"keep_{state}: 1d\n" for state in ("succeeded", "failed", "rejected", "cancelled"))
    monitor = ground.start("monitor", config(ground) + kept, ready="INFO monitor: records")
    lines = [f"ended\told{day}\tdigest\t1\tsucceeded\tsucceeded\t{day * 86400}" for day in range(60)]
    publish(ground, batch(1, *lines, ended("now")))
    wait_until(lambda: "now" in recorded(ground), 20)
    assert len(list(place(ground).glob("*.succeeded.db"))) <= 3
    assert "replaced the times of " in monitor.output()


def test_a_queue_that_differs_from_the_record_is_shown(ground: Ground) -> None:
    ground.foreign.declare("worker_digest")
    ground.foreign.publish_many([b"{}"] * 5, "worker_digest")
    start(ground)
    publish(ground, batch(1, *(f"routed\tw{number}\tdigest\t{time.time()}\t1" for number in range(3))))
    wait_until(lambda: compared(ground) == (3, 5, 2), 40, lambda: compared(ground))
    shown = run_cli("status", "-c", ground.write(config(ground))).stdout
    (line,) = [each for each in shown.splitlines() if each.startswith("digest")]
    assert "5 (+2)" in line
    ground.foreign.purge("worker_digest")
    wait_until(lambda: compared(ground) == (3, 0, -3), 40, lambda: compared(ground))


def test_the_lanes_of_a_type_are_part_of_its_queue(ground: Ground) -> None:
    for queue, number in (("worker_digest", 1), ("worker_digest:0", 2), ("worker_digest:3", 4)):
        ground.foreign.declare(queue)
        ground.foreign.publish_many([b"{}"] * number, queue)
    ground.start("monitor", f"{config(ground)}\n[digest]\nlanes: 4", ready="INFO monitor: records")
    publish(ground, batch(1, *(f"routed\tw{number}\tdigest\t{time.time()}\t1" for number in range(7))))
    wait_until(lambda: compared(ground) == (7, 7, 0), 40, lambda: compared(ground))


def compared(ground: Ground) -> tuple[int, int | None, int | None]:
    """Return what waits of a type in the record, the messages in its queue, and the difference."""
    with Record(place(ground)) as record:
        rows = [row for row in record.types() if row.worker_type == "digest"]
    return (rows[0].waiting, rows[0].depth, rows[0].difference) if rows else (0, None, None)


def test_queues_are_counted_when_the_monitor_records_and_soon_those_of_a_new_type(
    ground: Ground, forked: Callable[[Callable[[], int]], Forked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "REPORT_DELAY", 3600.0)  # seconds: there is no other occasion
    for queue in ("taskqueue", "worker_digest"):
        ground.foreign.declare(queue)
        ground.foreign.publish(b"{}", queue)

    def record() -> int:
        amqp = AmqpSettings.from_url(ground.url)
        with open_store(place(ground), None) as store, Signals(recorder.SIGNALS) as signals:
            return recorder.Recorder(MonitorSettings(), amqp, store, signals, print, lanes={}).run()

    running = forked(record)
    wait_until(lambda: depths(ground).get("taskqueue") == 1, 30, running.output)
    assert "worker_digest" not in depths(ground)
    publish(ground, batch(1, f"routed\ta\tdigest\t{time.time()}\t1"))
    wait_until(lambda: depths(ground).get("worker_digest") == 1, 30, running.output)


def depths(ground: Ground) -> Mapping[str, int]:
    found = read_report(place(ground)) if place(ground).exists() else None
    return found.depths if found is not None else {}

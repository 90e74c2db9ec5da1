"""What `taskqueue doctor` takes from the record."""

import contextlib
import sqlite3
import time

from support.record import CONSUMER, DISPATCHER, Stream, failed, routed, succeeded

from taskqueue.doctor import record
from taskqueue.monitor.client import DirectReader
from taskqueue.monitor.store.sources import LIVE_NAME
from taskqueue.monitor.store.store import Store

DAY = 86400.0


def collected(directory, began_at, *workitems):
    """Return the facts of a record that began at a time.

    workitems -- when each was routed, its type, and the event of its end
    """
    stream = Stream()
    with Store(directory) as store:
        store.acquire()
        for number, (at, worker_type, end) in enumerate(workitems):
            told = [routed(str(number), at), end(str(number), at + 1)]
            each = [event._replace(worker_type=worker_type) for event in told]
            store.write([stream.batch(DISPATCHER, each[0]), stream.batch(CONSUMER, each[1])])
    with contextlib.closing(sqlite3.connect(directory / LIVE_NAME)) as live, live:
        live.execute("UPDATE meta SET value = ? WHERE key = 'began_at'", (began_at,))
    return record.collect(DirectReader(directory), ["busy", "idle", "never"])


def test_new_dead_letters_and_types_without_work_are_seen(tmp_path):
    now = time.time()
    old, newer = now - 20 * DAY, now - 16 * DAY
    some = [(old, "busy", succeeded), (newer, "idle", failed), (now - 60, "busy", failed)]
    found = collected(tmp_path / "old", old, *some)
    assert found.new_letters == {"taskqueue_failed": 1, "taskqueue_rejected": 0}
    assert found.idle_since.keys() == {"idle", "never"}
    assert abs(found.idle_since["idle"] - newer) < 60
    assert found.idle_since["never"] == old


def test_a_young_record_tells_of_no_idle_type(tmp_path):
    found = collected(tmp_path / "young", time.time() - 13 * DAY, (time.time() - 13 * DAY, "busy", succeeded))
    assert (found.new_letters["taskqueue_failed"], found.idle_since) == (0, {})

"""The answer for an id that the record does not have, and the comparison of queues with the record."""

import time

import pytest
from support.record import DISPATCHER, NOON, Stream, routed, succeeded

from taskqueue.messages.events import Begun, Emitter, ProcessState
from taskqueue.monitor.record import EmitterRow
from taskqueue.monitor.report import STALE_AFTER, Report, write_report
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web.rights import OWN_RIGHTS, Rights
from taskqueue.monitor.web.unseen import unseen
from taskqueue.monitor.web.view import View

OTHER = Emitter("host3", "dispatcher", "", 40, NOON - 1000)
BEGIN = "the record begins at 2025-01-01 11:50:00 UTC"
NEVER = f"workitem 'x': never existed (before 2025-01-01 12:00:00 UTC; {BEGIN})"
UNKNOWN = f"workitem 'x': never seen; {BEGIN}"
AHEAD = (
    "workitem 'x': not routed yet, if it was submitted: 3 ahead in the queue taskqueue, "
    f"as of 2025-01-01 12:00:00 UTC; {BEGIN}"
)


def report(depth=0, at=NOON, **depths):
    return Report(
        at + 10, "records", depths={"taskqueue": depth, **depths}, depths_at=at, depths_until=at + 1
    )


def row(emitter=DISPATCHER, reach=NOON + 5, **more):
    return EmitterRow(emitter, **{"last_seen": reach, "state_at": reach, **more})


@pytest.mark.parametrize(
    ("found", "rows", "expected"),
    [
        (report(), [row(), row(OTHER)], NEVER),
        (report(), [row(), row(Emitter("host2", "consumer", "a", 1, NOON), NOON - 9, missed=1)], NEVER),
        (report(), [row(), row(OTHER, NOON - 400)], NEVER),
        (report(), [row(), row(OTHER, NOON - 100, state="ended")], NEVER),
        (report(), [row(OTHER, NOON - 100, state="ended")], UNKNOWN),
        (report(3), [row()], AHEAD),
        (report(), [], UNKNOWN),
        (report(), [row(OTHER, NOON - 400)], UNKNOWN),
        (report(), [row(), row(OTHER, NOON + 0.9)], UNKNOWN),
        (report(), [row(), row(OTHER, NOON - 100)], UNKNOWN),
        (report(), [row(state_at=NOON - 1)], UNKNOWN),
        (report(), [row(state_at=NOON + 900, last_seen=NOON + 0.5)], UNKNOWN),
        (report(), [row(state_at=None)], UNKNOWN),
        (report(), [row(), row(OTHER, NOON - 400, missed=1)], UNKNOWN),
        (report(), [row(), row(OTHER, lost=1)], UNKNOWN),
        (report(), [row(is_blocked=True)], UNKNOWN),
        (report(at=NOON - 700), [row()], UNKNOWN),
        (Report(NOON, "records", depths={"worker_a": 1}, depths_at=NOON), [row()], UNKNOWN),
        (Report(NOON, "waits for the broker"), [row()], UNKNOWN),
        (None, [row()], UNKNOWN),
    ],
)  # fmt: skip
def test_never_existed_is_said_only_if_it_is_known(found, rows, expected):
    assert unseen("x", NOON - 600, found, rows) == expected


def test_an_empty_record_knows_nothing():
    assert unseen("x", None, report(), []) == "workitem 'x': never seen; the record is empty"
    assert unseen("x", None, report(3), []).endswith("12:00:00 UTC; the record is empty")


@pytest.fixture
def record(tmp_path):
    """A record of which the queues were counted 2 s ago, and with a workitem in each state that counts."""
    now, stream = time.time(), Stream()
    with Store(tmp_path) as store:
        store.write([stream.batch(DISPATCHER, routed("first", now - 100))], now - 100)
        events = [
            *(
                routed("now", now - 50),
                routed("due", now - 50, due=now - 9),
                routed("later", now - 50, due=now + 900),
            ),
            *(routed("over", now - 50)._replace(worker_type="mail"), ProcessState(now, "takes work", 1000)),
        ]
        consumer = Emitter("host2", "consumer", "thumbs", 20, now - 1000)
        ends = [Begun("first", "thumbs", 1, now - 40, "w1"), succeeded("over", now - 30)]
        store.write([stream.batch(DISPATCHER, *events), stream.batch(consumer, *ends)], now)
        write_report(tmp_path, report(at=now - 3, worker_thumbs=5, worker_mail=0, worker_new=2, worker_old=0))
        with Record(tmp_path) as record:
            yield record


def test_the_queue_of_a_type_is_compared_with_what_the_record_has_queued(record):
    rows = {row.worker_type: (row.waiting, row.depth, row.difference) for row in record.types()}
    assert rows == {"thumbs": (3, 5, 3), "mail": (0, 0, 0), "new": (0, 2, 2)}


def test_old_numbers_are_not_compared(record, tmp_path):
    write_report(tmp_path, report(at=time.time() - STALE_AFTER - 1, worker_thumbs=5, worker_new=2))
    rows = {row.worker_type: (row.depth, row.difference) for row in record.types()}
    assert rows == {"thumbs": (None, None), "mail": (None, None)}


def test_a_user_with_limits_learns_nothing_of_queues(record):
    assert View(record, OWN_RIGHTS).unseen("x").startswith("workitem 'x': never existed (before ")
    some = View(record, Rights("ann", tenants=frozenset(("south",))))
    assert some.unseen("x").startswith("workitem 'x': never seen; the record begins at ")
    assert View(record, Rights("bob", types=("mail",))).unseen("x") == some.unseen("x")
    assert all(row.depth is None for row in some.types())

"""The queue of a shard is found missing while workitems of its steps are on their way to the broker."""

import json
import time
from collections.abc import Iterator
from functools import partial

import pytest
from support.flows import Mill, step

from taskqueue.broker.publisher import PublishResult
from taskqueue.broker.standby import SIGNALS
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.topology import SHARDS, shard_of
from taskqueue.config import AmqpSettings
from taskqueue.flow.flow import Flow
from taskqueue.flow.schema import State
from taskqueue.flow.store import SqliteStore
from taskqueue.process.daemon import Signals
from taskqueue.workflows.wire import KIND, TICK

ID = "ab" * 16


@pytest.fixture
def flow(tmp_path) -> Iterator[Flow]:
    """Return a process without a connection that has published the first step of a workflow."""
    amqp = AmqpSettings.from_url("amqp://localhost:1")
    store = partial(SqliteStore, tmp_path / "flow" / "flow.db")
    with Signals(SIGNALS) as signals:
        found = Flow(amqp, store, signals, lambda _: None, keep=60.0, records={}, lanes={})
        assert found._open_ledger()
        for shard in range(SHARDS):
            found._ledger.take(shard)
        start = Mill.incoming({KIND: "start", "workflow": "w", "id": ID, "steps": [step("a")]})
        found._in_flight.publish(found._ledger.apply([start], room=10).drawn, is_more=False)
        yield found
        found._close_ledger()
        found._loop.close()


def find_missing(flow: Flow) -> None:
    """Let the first message come after the queue was missing, and with it the receipts in it."""
    queue = flow._queues[shard_of(ID)]
    flow._lost(queue)
    queue.missing_since = time.time()
    flow._pending.add(queue, Delivery(1, 0, False, b"\0\0", json.dumps({KIND: TICK}).encode()))
    flow._round()


def confirm(flow: Flow) -> None:
    """Let the broker confirm the workitem of the step."""
    (publication,) = (each for each in flow._outbound._open if each.queue == "worker_work")
    flow._outbound._published(publication, PublishResult.CONFIRMED, "")


def record(flow: Flow) -> None:
    """Let the broker confirm the event on it."""
    (_, recorded), *_ = flow._events._batch.waiting
    recorded()


@pytest.mark.parametrize("order", [[confirm, record], [confirm, find_missing, record]])
def test_a_step_that_is_not_noted_is_published_again(flow, order):
    """The broker had its workitem before: it may have run, and its receipt may have been in that queue."""
    for act in order:
        act(flow)
    if find_missing not in order:
        find_missing(flow)
    flow._round()
    assert flow._ledger.store.rows("SELECT state FROM step") == [(State.READY,)]
    assert [run.run for run in flow._in_flight.runs] == [1]
    assert [each.queue for each in flow._outbound._open].count("worker_work") == 1

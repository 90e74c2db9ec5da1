"""The ends of workitems, as the broker has them when everything is over."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import amqp
from support.foreign import Foreign
from support.work import Result

from chaos.workload import RESULTS, TICKS


@dataclass(frozen=True, slots=True)
class End:
    """One message that says what a workitem came to."""

    workitem: str
    queue: str
    message: str  # its own id
    state: str  # succeeded, failed or rejected
    reason: str  # of one that did not succeed
    worker: str  # "quick_a/1"; "" where no worker had it
    started: float  # seconds since 1970
    ended: float
    history: tuple[str, ...] = ()  # what each run came to: failed, crashed, rejected
    tick: str = ""  # of a tick: its schedule and its time

    @property
    def run(self) -> tuple[str, float]:
        """Return the mark that tells one run of a workitem from another."""
        return self.worker, self.started

    @property
    def pool(self) -> str:
        """The place of the run."""
        return f"pool {self.worker.partition('/')[0].rpartition('_')[2]}"


def take_ends(foreign: Foreign, queue: str) -> list[End]:
    """Take every message of a queue that nothing comes to any more."""
    read = _result if queue in (RESULTS, TICKS) else _kept
    ends = []
    while (message := foreign.poll(queue)) is not None:
        if "x-taskqueue-workflow" not in message.headers:  # the ends of steps are those of their workflows
            ends.append(read(queue, message))
    return ends


def _result(queue: str, message: amqp.Message) -> End:
    result = Result(message)
    reason = "" if result.status == "succeeded" else result.error
    end = _end(queue, message, result.headers["x-taskqueue-workitem"], result.status, reason)
    return end if reason else replace(end, tick=result.value["tick"])


def _kept(queue: str, message: amqp.Message) -> End:
    state = {"taskqueue_failed": "failed", "taskqueue_rejected": "rejected"}[queue]
    reason = message.headers["x-taskqueue-reason"]
    return _end(queue, message, message.properties["message_id"], state, reason)


def _end(queue: str, message: amqp.Message, workitem: str, state: str, reason: str) -> End:
    headers: Mapping[str, Any] = message.headers
    ended = headers["x-taskqueue-ended"]
    return End(
        workitem,
        queue,
        message.properties["message_id"],
        state,
        reason,
        headers.get("x-taskqueue-worker", ""),
        headers.get("x-taskqueue-started", ended),
        ended,
        tuple(entry["what"] for entry in headers.get("x-taskqueue-history", ())),
    )

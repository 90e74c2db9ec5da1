"""What the monitor's record tells of days and weeks: new dead letters, and worker types without work."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from taskqueue.broker.topology import FAILED_QUEUE, REJECTED_QUEUE
from taskqueue.doctor.queues import IDLE_AFTER
from taskqueue.messages.events import FAILED, REJECTED
from taskqueue.monitor.client import Reader

_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class RecordFacts:
    """What is taken from the record.

    Args:
        new_letters: workitems that failed or were rejected within a day, by queue.
        idle_since: of worker types that are idle, when they last had work, or when the record begins.
    """

    new_letters: dict[str, int] = field(default_factory=dict)
    idle_since: dict[str, float] = field(default_factory=dict)


def collect(reader: Reader, worker_types: Iterable[str]) -> RecordFacts:
    """Ask the record. Raises what `Reader.ask` raises."""
    now = time.time()
    states = {FAILED_QUEUE: FAILED, REJECTED_QUEUE: REJECTED}
    since = [repr(now - _DAY)]
    new = {
        queue: int(reader.ask("count", {"state": [state], "since": since})["count"])
        for queue, state in states.items()
    }
    began_at = reader.ask("status")["began_at"]
    if began_at is None or now - began_at < IDLE_AFTER:
        return RecordFacts(new)
    last = {each: _last_work(reader, each, now) for each in worker_types}
    idle = {each: max(at, began_at) for each, at in last.items() if now - at >= IDLE_AFTER}
    return RecordFacts(new, idle)


def _last_work(reader: Reader, worker_type: str, now: float) -> float:
    """Return when a worker type last had work, if that is long ago; -infinity if it is in no record."""
    newest: Any = reader.ask("workitems", {"type": [worker_type], "limit": ["1"]})["workitems"]
    times = [newest[0][name] for name in ("ended", "started", "queued") if newest and newest[0][name]]
    last = max(times, default=-math.inf)
    if now - last < IDLE_AFTER:
        return last
    # The record forgets succeeded workitems earlier than the counts of minutes.
    query = {"type": [worker_type], "since": [repr(now - IDLE_AFTER)]}
    minutes = reader.ask("minutes", query)["minutes"]
    return max((each["at"] for each in minutes), default=last)

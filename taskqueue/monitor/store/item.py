"""A workitem as its events leave it: the state machine of the record.

Events of one emitter arrive in their order, those of different emitters in any order, and the clocks of hosts
differ. So attempts are compared before times, and an end is undone only by what began after it.
"""

import json
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from taskqueue.messages.events import (
    CANCELLED,
    FAILED,
    FINAL,
    LOST,
    QUEUED,
    REJECTED,
    RETRYING,
    RUNNING,
    SCHEDULED,
    STATES,
    SUCCEEDED,
    Begun,
    Cancelled,
    Ended,
    Progress,
    Rejected,
    Retried,
    Routed,
)

#: The number of each state in the database; those from FIRST_OVER on are final.
CODE: Final[Mapping[str, int]] = {state: code for code, state in enumerate(STATES)}
FIRST_OVER: Final = min(CODE[state] for state in FINAL)
_QUEUED, _SCHEDULED, _RUNNING, _RETRYING = (CODE[s] for s in (QUEUED, SCHEDULED, RUNNING, RETRYING))

#: A workitem that ended before it was routed was routed late, not again, up to so many seconds later.
_CLOCKS: Final = 300.0
_SAME_START: Final = 1.5  # seconds by which consumer and worker may differ about the start of a run
_MOST_RUNS: Final = 100
_SAME_END: Final = 1.0  # seconds by which dead letter and record may differ about the end
_MOST_RETRIES: Final = 20  # by users; the same for redeliveries
_SUCCEEDED: Final = CODE[SUCCEEDED]
_DEAD: Final = (CODE[FAILED], CODE[REJECTED])
_LONGEST_TEXT: Final = 1000  # characters of what a handler says of its progress

#: The fields of record.Run.
RunRow = tuple[int, str, float | None, float, str, str, str, str, str, int | None]


#: The key of a workitem: tenant and id. Producers choose ids, so those of two tenants may be equal.
Key = tuple[str, str]

#: The fields that have no column, without the runs.
_MORE: Final = ("progress", "content_type", "result", "lines", "timeout", "omitted", "retried", "redelivered")
_attributes: Final = attrgetter(*_MORE)


class Item:
    """A workitem while the events of a write are applied to it; see `schema` for the fields."""

    __slots__ = (
        *("id", "type", "state", "tenant", "labels", "queued", "due", "started", "ended", "again_at"),
        *("attempts", "host", "worker", "user", "size", "result_size", "error", "head", "routed", "emitter"),
        *(
            "runs",
            "progress",
            "content_type",
            "result",
            "lines",
            "place",
            "seq",
            "was",
            "is_changed",
            "retried",
        ),
        *("timeout", "omitted", "retried", "redelivered"),
    )

    def __init__(self, tenant: str, id_: str) -> None:
        self.id, self.tenant = id_, tenant
        self.type = self.labels = self.head = ""
        self.state = _QUEUED
        self.queued: float | None = None
        self.due: float | None = None
        self.started: float | None = None
        self.ended: float | None = None
        self.again_at: float | None = None
        self.attempts = 0  # the highest one that has begun or ended
        self.host = self.worker = self.user = self.error = ""
        self.size: int | None = None
        self.result_size: int | None = None
        self.routed = 0
        self.emitter = 0
        self.runs: list[RunRow] = []
        self.progress: tuple[float, str] | None = None
        self.content_type = self.result = ""
        self.redelivered: Sequence[float] = ()  # when runs began whose deliveries were not the first
        self.retried: Sequence[float] = ()  # when users sent it back to a queue
        self.lines = 0  # of output, also those that were dropped
        self.timeout: float | None = None  # of the run that runs
        self.omitted = ""  # what the last event of an end lacks
        self.place: str | None = None  # the day's file that has its row; None: none, or live.db
        self.seq = 0  # of its row; 0: it has none
        self.was: tuple[str, int] | None = None  # type and state of its row in live.db
        self.is_changed = False

    @property
    def key(self) -> Key:
        """Its tenant and id."""
        return self.tenant, self.id

    # --- events ---

    def routed_by(self, event: Routed) -> None:
        """Apply an event."""
        if self.state >= FIRST_OVER and event.at > (self.ended or 0.0) + (0.0 if self.routed else _CLOCKS):
            self._reopen()
            self.routed = 0
        if self.routed:
            return
        self._complete(event)
        self.routed = 1
        self.queued, self.due, self.size, self.head = event.at, event.due, event.size, event.head
        if self.state == _QUEUED and event.due is not None and event.due > event.at:
            self.state = _SCHEDULED

    def retried_by(self, event: Retried) -> None:
        """Apply an event: the workitem waits again, unless it has begun or ended anew since."""
        if event.at in self.retried:
            return
        self._complete(event)
        self.retried = [*self.retried[-_MOST_RETRIES + 1 :], event.at]
        ended = self.ended or 0.0
        is_this_end = event.at > ended if event.failed is None else abs(event.failed - ended) < _SAME_END
        if self.state in _DEAD and is_this_end:
            self._reopen()
            self.queued, self.routed = event.at, event.is_routed

    def begun(self, event: Begun, host: str, emitter: int) -> None:
        """Apply an event of an emitter."""
        is_new = self.ended is None or event.at > self.ended or event.attempt > self.attempts
        if self.state >= FIRST_OVER:
            if not is_new:
                return
            self._reopen()
        if event.attempt < self.attempts or not is_new:
            return
        self._add_lost(event, emitter, event.at)
        self._complete(event)
        if event.redelivered and event.at not in self.redelivered:
            self.redelivered = [*self.redelivered[-_MOST_RETRIES + 1 :], event.at]
        self.state = _RUNNING
        self.started, self.ended, self.again_at = event.at, None, None
        self.attempts, self.host, self.worker, self.emitter = event.attempt, host, event.worker, emitter
        self.user, self.timeout, self.omitted = event.user, event.timeout, ""

    def ended_by(self, event: Ended, host: str, emitter: int) -> None:
        """Apply an event of an emitter, with a state that is final or RETRYING."""
        if not self._add_run(event, host, emitter):
            return
        self._complete(event)
        if self.queued is None:
            self.queued = event.queued
        if not self._is_last(event):
            return
        self._add_lost(event, emitter, event.started)
        self.state, self.again_at = CODE[event.state], event.again_at
        self.started, self.ended = event.started, event.ended
        self.attempts, self.host, self.worker, self.user = event.attempt, host, event.worker, event.user
        self.error, self.result_size, self.emitter = event.error, event.size, emitter
        self.content_type, self.result, self.progress = event.content_type, event.result, None
        self.timeout, self.omitted = None, event.omitted

    def cancelled(self, event: Cancelled, host: str, emitter: int) -> None:
        """Apply an event of an emitter."""
        run = Ended(
            *(event.id, event.worker_type, event.attempt, CANCELLED, CANCELLED, event.at, event.started),
            worker=event.worker,
            tenant=event.tenant,
            labels=event.labels,
        )
        self.ended_by(run, host, emitter)

    def rejected(self, event: Rejected, host: str) -> None:
        """Apply an event of a host."""
        if self.state >= FIRST_OVER and self.ended is not None and event.at <= self.ended:
            return
        self._complete(event)
        self.state, self.ended, self.error, self.host = CODE[REJECTED], event.at, event.reason, host
        self.again_at = None
        self.size = event.size if self.size is None else self.size
        self.head = self.head or event.head

    def progressed(self, event: Progress) -> None:
        """Apply an event."""
        if self.state == _RUNNING:
            self.progress = min(max(event.fraction, 0.0), 1.0), event.text[:_LONGEST_TEXT]
            self.is_changed = True

    def _complete(self, event: Routed | Ended | Rejected | Retried | Begun) -> None:
        """Enter what an event of any kind may be the first to tell."""
        self.is_changed = True
        self.type = self.type or event.worker_type
        self.labels = self.labels or event.labels

    def _reopen(self) -> None:
        """Begin anew: the workitem came again after its end."""
        self.state = _QUEUED
        self.attempts = 0
        self.started = self.ended = self.again_at = self.due = self.result_size = self.progress = None
        self.host = self.worker = self.user = self.error = self.content_type = self.result = ""
        self.timeout, self.omitted = None, ""

    def _add_lost(self, event: Begun | Ended, emitter: int, started: float | None) -> None:
        """Add the run that was lost with its consumer: another one has begun the same attempt later."""
        is_same = emitter == self.emitter or event.attempt != self.attempts
        if is_same or self.state != _RUNNING:
            return
        least = 0.0 if isinstance(event, Begun) and event.redelivered else _SAME_START
        if self.started is not None and started is not None and started - self.started > least:
            run = (self.attempts, LOST, self.started, started, self.host, self.worker, "")
            self._append((*run, "its consumer was killed", "", None))

    def _append(self, run: RunRow) -> None:
        self.runs.append(run)
        if len(self.runs) > _MOST_RUNS:
            del self.runs[1]

    def _add_run(self, event: Ended, host: str, emitter: int) -> bool:
        """Add a run; return False if it is known, as after the record was rebuilt."""
        for known in self.runs:
            if known[3] == event.ended and known[0] == event.attempt and known[5] == event.worker:
                return False
        if (
            emitter != self.emitter or self.state != _RUNNING
        ):  # else it is the end of the run after the lost one
            self.runs = [known for known in self.runs if not _was_not_lost(known, event)]
        run = (event.attempt, event.outcome, event.started, event.ended, host, event.worker, event.user)
        self._append((*run, event.error, event.traceback, event.peak_memory))
        return True

    def _is_last(self, event: Ended) -> bool:
        """Whether no later run has begun or ended."""
        if self.ended is None:
            return event.attempt >= self.attempts
        if self.state >= FIRST_OVER and (event.started or event.ended) > self.ended:
            return True
        return (event.attempt, event.ended) > (self.attempts, self.ended)

    # --- rows ---

    def more(self) -> str | None:
        """Return what has no column, as JSON."""
        told: dict[str, Any] = {}
        values = _attributes(self)
        if any(values):
            told = {name: value for name, value in zip(_MORE, values, strict=True) if value}
        if self.runs and (self.state != _SUCCEEDED or self.runs != [self._plain_run()]):
            told["runs"] = self.runs
        return json.dumps(told, ensure_ascii=False) if told else None

    def read_more(self, text: str | None) -> None:
        """Take what `more` returned, once the columns are taken."""
        told: dict[str, Any] = json.loads(text) if text else {}
        self.runs = [tuple(run) for run in told.get("runs", ())]
        if not self.runs and self.state == _SUCCEEDED:
            self.runs = [self._plain_run()]
        progress = told.get("progress")
        self.progress = (progress[0], progress[1]) if progress else None
        self.content_type, self.result = told.get("content_type", ""), told.get("result", "")
        self.lines, self.retried = told.get("lines", 0), told.get("retried", ())
        self.timeout, self.omitted = told.get("timeout"), told.get("omitted", "")
        self.redelivered = told.get("redelivered", ())

    def _plain_run(self) -> RunRow:
        """Return the run that the columns tell if it is the only one and succeeded."""
        ended = self.ended or 0.0
        run = (self.attempts, SUCCEEDED, self.started, ended, self.host, self.worker, self.user)
        return (*run, "", "", None)


def _was_not_lost(run: RunRow, event: Ended) -> bool:
    """Whether a run that was taken for lost is the one that has ended: the workitem ran twice at a time."""
    is_it = run[1] == LOST and (run[0], run[5]) == (event.attempt, event.worker)
    return is_it and abs((run[2] or 0.0) - (event.started or 0.0)) < _SAME_START

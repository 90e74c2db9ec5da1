"""The values that the record returns; no I/O. Times are seconds since 1970; None is unknown."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from taskqueue.messages.events import ENDED, FAILED, LOST, REJECTED, Emitter

#: A workitem is shown as lost if its emitter has said nothing for so many seconds.
SILENT_AFTER: Final = 600.0
_SILENCE: Final = 60.0  # seconds without an event after which a process is taken for ended

#: Lines of output that are kept of each workitem: the first and the last ones; and characters of each.
FIRST_LINES, LAST_LINES, LONGEST_LINE = 100, 900, 8192

#: Upper bounds of a histogram's counts in seconds; the last count has no bound.
BUCKETS: Final = (
    *(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    *(10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0),
)


@dataclass(frozen=True, slots=True)
class Workitem:
    """A workitem as a page shows it."""

    id: str
    worker_type: str  # "" if it is unknown
    state: str  # one of states.SHOWN
    tenant: str = ""
    labels: tuple[str, ...] = ()
    queued: float | None = None  # when it was routed, else when a consumer received it
    due: float | None = None  # when it may run for the first time, if not at once
    started: float | None = None  # of the last run
    ended: float | None = None  # of the last run, or when it was settled without one
    again_at: float | None = None  # when it runs again, if it is retrying
    attempts: int = 0
    host: str = ""  # of the last run
    worker: str = ""
    size: int | None = None  # bytes of the body
    result_size: int | None = None  # bytes of the result
    error: str = ""  # one line
    head: str = ""  # the beginning of the body
    user: str = ""  # of the worker
    timeout: float | None = None  # seconds that the run may take, of one that runs; None: no limit is known
    omitted: tuple[str, ...] = ()  # what its last event lacks: it would have been too large for the broker


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a workitem that has ended, or a settlement without a run (`started` is None)."""

    attempt: int
    outcome: str  # succeeded, failed, crashed, rejected, cancelled, or lost with its consumer
    started: float | None
    ended: float  # of a lost one, when the next run began
    host: str
    worker: str
    user: str = ""
    error: str = ""
    traceback: str = ""
    peak_memory: int | None = None  # bytes, of a crashed worker


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A line that a handler printed or logged."""

    number: int  # from 0; the numbers between the first and the last lines of many are absent
    at: float
    worker: str
    level: str  # a level of logging, or stdout or stderr
    text: str


@dataclass(frozen=True, slots=True)
class Details:
    """All that is known of a workitem except its output."""

    workitem: Workitem
    runs: tuple[Run, ...]  # by their end
    progress: tuple[float, str] | None = None  # fraction (0 to 1) and text
    content_type: str = ""  # of the result
    result: bytes | None = None  # None: not recorded
    redelivered: tuple[float, ...] = ()  # when runs began whose deliveries were not the first
    retried: tuple[float, ...] = ()  # when users sent it back to a queue after it had failed or was rejected


@dataclass(frozen=True, slots=True)
class Filter:
    """Which workitems are wanted: those that match every condition; an empty one matches all."""

    states: frozenset[str] = frozenset()
    worker_types: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    label: str = ""
    host: str = ""
    since: float | None = None  # of `ended`, else of `queued`
    until: float | None = None  # exclusive
    id_prefix: str = ""
    error_text: str = ""  # words that the error has, in any order
    body_text: str = ""  # words that the recorded head of the body has, in any order


class Letter(NamedTuple):
    """The reason why a workitem has failed or was rejected."""

    id: str
    worker_type: str
    state: str
    ended: float | None
    error: str


@dataclass(frozen=True, slots=True)
class Page:
    """Workitems, newest first."""

    workitems: tuple[Workitem, ...]
    next: str | None  # the cursor of the next page; None: this is the last one


@dataclass(frozen=True, slots=True)
class TypeRow:
    """A worker type now and in the last hour."""

    worker_type: str
    waiting: int  # queued or scheduled
    running: int
    retrying: int
    oldest: float | None  # seconds since the oldest waiting workitem was queued; None: none waits
    ends: dict[str, int] = field(default_factory=dict)  # of the last hour, by state
    depth: int | None = None  # ready messages in its queue; None: they were not counted lately
    difference: int | None = None  # so many more than the record has queued
    consumers: int | None = None  # of its queue; None: they were not counted lately


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process, as its consumer told it last."""

    pid: int
    rss: int | None  # bytes of resident memory


@dataclass(frozen=True, slots=True)
class EmitterRow:
    """A process that emits events, as it was when it last did."""

    emitter: Emitter
    last_seen: float  # on the clock of the monitor's host
    state: str = ""  # in words
    slots: int = 0
    busy: int = 0
    rss: int = 0  # bytes
    cpu: float = 0.0  # seconds
    is_blocked: bool = False
    lost: int = 0  # events that it could not emit
    missed: int = 0  # events of it that the reader missed
    state_at: float | None = None  # when it told its state, on its host's clock
    user: str = ""
    version: str = ""  # of taskqueue, then of the plugin
    prefetch: int = 0  # workitems that the broker delivers to it at most before it has settled any
    crashes: int = 0  # workers that ended unexpectedly since its start
    crash: str = ""  # the cause of the last of these ends
    workers: str = ""  # as events.ProcessState has it

    @property
    def named_workers(self) -> dict[str, Worker]:
        """Its workers by their names; {} if it is no consumer, or does not tell."""
        found = {}
        for text in self.workers.split():
            number, _, rest = text.partition(":")
            pid, _, rss = rest.partition(":")
            if pid.isdecimal() and rss.isdecimal():
                found[f"{self.emitter.group}/{number}"] = Worker(int(pid), int(rss) or None)
        return found

    def is_alive(self, now: float) -> bool:
        """Whether it was heard of in the last minute, and not of its end."""
        return self.state != ENDED and now - self.last_seen < _SILENCE


@dataclass(frozen=True, slots=True)
class Minute:
    """The counts of a minute for the workitems of a type and a tenant."""

    at: float  # when the minute began
    worker_type: str
    tenant: str
    state: str  # queued: were routed; retrying or one of events.FINAL: came to that state
    count: int
    run_seconds: float = 0.0  # sum
    wait_seconds: float = 0.0  # sum, from queued to started
    run_histogram: tuple[int, ...] = ()  # counts by BUCKETS; () if none has a run time
    wait_histogram: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """The minutes that are summed.

    Args:
        since: seconds since 1970, as `until`.
        until: exclusive.
        types: the worker types; None for all.
        tenants: the tenants; None for all.
    """

    since: float
    until: float
    types: Collection[str] | None = None
    tenants: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class TimeSum:
    """The number of workitems that came to a state in a time, as in Minute."""

    at: float  # when the time began
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class TypeSum:
    """The number of workitems of a type that came to a state, as in Minute."""

    worker_type: str
    state: str
    count: int
    run_seconds: float  # sum


@dataclass(frozen=True, slots=True)
class TypeTimes:
    """The run and wait times of a type, as in Minute."""

    worker_type: str
    run_histogram: tuple[int, ...]
    wait_histogram: tuple[int, ...]


def unsuccessful(counts: Mapping[str, int]) -> int:
    """Return how many of the ends, counted by state, are failures, rejections or losses."""
    return sum(counts.get(state, 0) for state in (FAILED, REJECTED, LOST))


@dataclass(frozen=True, slots=True)
class Crashes:
    """The number of crashes for one cause in a minute, with workitems of a type and a tenant."""

    at: float  # when the minute began
    worker_type: str
    tenant: str
    cause: str  # a signal, as SIGSEGV, an exit status, as "exit status 3", or "other"
    count: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of an emitter that the reader missed."""

    at: float  # when it was noticed
    emitter: Emitter
    missed: int


@dataclass(frozen=True, slots=True)
class Version:
    """From when on the processes of a host, kind and group had a version."""

    at: float
    host: str
    kind: str  # as Emitter has it, like the group
    group: str
    version: str  # of taskqueue, then of the plugin


@dataclass(frozen=True, slots=True)
class Action:
    """An action of a user through the monitor: a row of the audit."""

    at: float
    user: str
    action: str
    filter: str  # JSON
    count: int  # workitems that it concerned

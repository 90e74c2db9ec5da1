r"""Events: what daemons report of workitems and of themselves, in batches (docs/protocol.md).

A batch is one message of UTF-8 text. Its lines end with "\n" and have fields separated by tabs; in a field,
a backslash, a tab, a line feed and a carriage return are written ``\\``, ``\t``, ``\n`` and ``\r``. The first
line is the head: format, version, emitter, running number. Each other line is one event: its kind, then the
fields of its class in order. An absent value is an empty field. A later version of the format may append
fields and add kinds; readers ignore both.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

from taskqueue.amqp.properties import Properties
from taskqueue.errors import TaskqueueError
from taskqueue.messages.relatives import Gone, Other

FORMAT: Final = "taskqueue-events"
VERSION: Final = 1
LARGEST_BATCH: Final = 16 * 1024 * 1024  # bytes; RabbitMQ 4 accepts no larger message by default
_LONGEST_ID: Final = 255  # characters; AMQP allows 255 bytes
#: Characters that are read of a text: no process of taskqueue writes more, but others may.
_LONGEST_NAME: Final = 255
_LONGEST_TEXTS: Final = {
    "labels": 500,
    "head": 65_536,  # as record_body
    "error": 8192,
    "reason": 8192,
    "traceback": 16_384,
    "text": 16_384,
    "workers": 65_536,
}
_LONGEST_RESULT: Final = 1_400_000  # characters; record_result allows 1 MiB, in Base64
_LARGEST_NUMBER: Final = 2**63 - 1

CRASHED: Final = "crashed"  # the outcome of a run that ended with its worker
#: The states of a workitem in the record. FINAL are those after which it does not change.
QUEUED, SCHEDULED, RUNNING, RETRYING = "queued", "scheduled", "running", "retrying"
SUCCEEDED, FAILED, REJECTED, CANCELLED, LOST = "succeeded", "failed", "rejected", "cancelled", "lost"
FINAL: Final = frozenset((SUCCEEDED, FAILED, REJECTED, CANCELLED, LOST))
STATES: Final = (QUEUED, SCHEDULED, RUNNING, RETRYING, SUCCEEDED, FAILED, REJECTED, CANCELLED, LOST)


#: The kind of an emitter that runs workitems.
CONSUMER: Final = "consumer"
#: The kind of an emitter that fires schedules.
SCHEDULER: Final = "scheduler"
#: The kinds of emitters that keep the keys of unique work, grant permits, and keep workflows.
KEEPER, GATE, FLOW = "keeper", "gate", "flow"
#: The state of a consumer that receives workitems and cancellations.
TAKES_WORK: Final = "takes work"
#: The last state that a process tells of itself.
ENDED: Final = "ended"
#: The state of a consumer without a worker that is ready.
WAITS_FOR_WORKER: Final = "waits for a worker"


class UnreadableBatch(TaskqueueError):
    """A message on the events' exchange is no batch of events, or one of an unknown version."""


class Emitter(NamedTuple):
    """A process that emits events; its events are numbered without gaps."""

    host: str
    kind: str  # dispatcher, consumer, feeder or retry
    group: str
    pid: int
    started: float  # seconds since 1970

    def __str__(self) -> str:
        name = f"{self.kind} {self.group}" if self.group else self.kind
        return f"{name} on {self.host}, process {self.pid}"


class Routed(NamedTuple):
    """A workitem is published to the queue of its worker type: by a dispatcher, feeder or flow process."""

    id: str
    worker_type: str
    at: float  # seconds since 1970
    size: int  # bytes of the body
    due: float | None = None  # seconds since 1970; None: at once
    tenant: str = ""
    labels: str = ""  # separated by spaces
    head: str = ""  # the beginning of the body


class Ended(NamedTuple):
    """A run of a workitem has ended, or a consumer has settled a workitem without a run."""

    id: str
    worker_type: str
    attempt: int
    outcome: str  # of this run: succeeded, failed, crashed, rejected or cancelled
    state: str  # of the workitem from now on: RETRYING or one of OVER
    ended: float  # seconds since 1970
    started: float | None = None  # None: no worker has begun it
    queued: float | None = None  # when the consumer received it, if it was not routed
    worker: str = ""  # the worker's name
    user: str = ""  # the worker's Unix user
    size: int = 0  # bytes of the result
    again_at: float | None = None  # when it runs again
    error: str = ""  # class and message in one line; of a crash, its cause
    traceback: str = ""
    peak_memory: int | None = None  # bytes, of a crashed worker
    tenant: str = ""
    labels: str = ""
    content_type: str = ""  # of the recorded result
    result: str = ""  # in Base64, if the group records results
    omitted: str = ""  # names of fields without which the event fits into a message, separated by spaces


class Rejected(NamedTuple):
    """A message was put into the rejected queue: it is no workitem, or cannot be routed."""

    id: str
    worker_type: str  # "" if it is unknown
    at: float
    reason: str
    size: int = 0
    tenant: str = ""
    labels: str = ""
    head: str = ""


class Cancelled(NamedTuple):
    """A workitem was cancelled."""

    id: str
    worker_type: str
    at: float
    worker: str = ""  # the worker that ran it; "" if none did
    attempt: int = 1
    started: float | None = None
    tenant: str = ""
    labels: str = ""


class Retried(NamedTuple):
    """A failed or rejected workitem was sent back to a queue by a user."""

    id: str
    worker_type: str  # "" if it is unknown
    at: float
    failed: float | None = None  # when it had failed or was rejected, if that is known
    is_routed: int = 1  # 0: it goes by the dispatchers' queue
    tenant: str = ""
    labels: str = ""


class Begun(NamedTuple):
    """A run has lasted for a second, or has begun after the workitem had been delivered before."""

    id: str
    worker_type: str
    attempt: int
    at: float  # when it began
    worker: str
    tenant: str = ""
    labels: str = ""
    user: str = ""  # the worker's Unix user
    timeout: float | None = None  # seconds that the run may take; None: as long as it likes
    redelivered: int = 0  # 1: its delivery is not the first, so that an earlier run may have been lost


class Progress(NamedTuple):
    """The handler has reported its progress."""

    id: str
    at: float
    fraction: float  # 0 to 1
    text: str = ""
    tenant: str = ""


class LogLine(NamedTuple):
    """A handler has printed or logged a line."""

    id: str
    at: float
    worker: str
    level: str  # a level of logging, or stdout or stderr
    text: str
    tenant: str = ""


class ProcessState(NamedTuple):
    """The state of the emitter itself, every five seconds."""

    at: float
    state: str  # in words
    slots: int = 0  # workers; of a dispatcher, its window
    busy: int = 0  # workers that run a workitem; of a dispatcher, unconfirmed messages
    rss: int = 0  # bytes of resident memory of the process
    cpu: float = 0.0  # seconds of processor time since its start
    is_blocked: int = 0  # 1 while the broker has an alarm
    lost: int = 0  # events that it could not emit since its start
    user: str = ""  # its Unix user
    version: str = ""  # of taskqueue, then of the plugin: "taskqueue 1.0, digest 2.1"
    prefetch: int = 0  # workitems that the broker delivers to it at most before it has settled any
    crashes: int = 0  # workers that ended unexpectedly since its start
    crash: str = ""  # the cause of the last of these ends
    workers: str = ""  # of each worker NUMBER:PID:RSS, separated by spaces; RSS in bytes
    broker_user: str = ""  # as whom it signs messages in internal queues


Event = (
    Routed | Ended | Rejected | Cancelled | Retried | Begun | Progress | LogLine | ProcessState | Other | Gone
)

#: The classes of events by their kinds, as they are written.
KINDS: Final[Mapping[str, type[Any]]] = {
    "routed": Routed,
    "ended": Ended,
    "rejected": Rejected,
    "cancelled": Cancelled,
    "retried": Retried,
    "begun": Begun,
    "progress": Progress,
    "log": LogLine,
    "process": ProcessState,
    "other": Other,
    "gone": Gone,
}
_NAMES: Final = {kind: name for name, kind in KINDS.items()}
#: Fields of an event without those that have a default, and with its kind.
_SHORTEST: Final = {kind: 1 + len(kind._fields) - len(kind._field_defaults) for kind in _NAMES}
#: Fields that an event may do without. A missing head is not told: a body is recorded only in part anyhow.
_OMITTED: Final[Mapping[str, tuple[str, ...]]] = {
    "ended": ("result", "traceback"),
    "routed": ("head",),
    "rejected": ("head",),
}


class Batch(NamedTuple):
    """The events of one message."""

    emitter: Emitter
    number: int  # running number of the first event
    size: int  # events, readable or not: the next batch has the number `number + size`
    events: list[Event]
    damaged: int  # events of a known kind that cannot be read


# --- writing ---


def message_properties() -> bytes:
    """Return the encoded properties of a batch's message."""
    return Properties(content_type="text/tab-separated-values", delivery_mode=2, type=FORMAT).encode()


def encode(emitter: Emitter, number: int, lines: Iterable[str]) -> bytes:
    """Return the body of a batch.

    number -- running number of the first event
    lines -- as `line` returns them
    """
    text = "".join((_head(emitter, number), *lines))
    return text.encode("utf-8", "replace")


def _head(emitter: Emitter, number: int) -> str:
    return "\t".join((FORMAT, str(VERSION), *[_field(value) for value in emitter], str(number))) + "\n"


def line(event: Event) -> str:
    """Return an event as a line."""
    kind = type(event)
    fields = [_NAMES[kind], *[_field(value) for value in event]]
    while not fields[-1] and len(fields) > _SHORTEST[kind]:
        fields.pop()
    return "\t".join(fields) + "\n"


def within(text: str, most: int) -> tuple[str, int]:
    """Return a line of at most `most` bytes, and its size: fields that make it larger are left out.

    text -- as `line` returns it. If no such field is left, the line is larger.
    """
    size = len(text.encode("utf-8", "replace"))
    if size <= most:
        return text, size
    kind, *fields = text[:-1].split("\t")
    names = KINDS[kind]._fields
    omitted = []
    for name in _OMITTED.get(kind, ()):
        place = names.index(name)
        if size > most and place < len(fields) and fields[place]:
            size -= len(fields[place].encode("utf-8", "replace"))
            fields[place] = ""
            omitted.append(name)
    if not omitted:
        return text, size
    if kind == "ended":
        fields += [""] * (len(names) - len(fields))
        fields[names.index("omitted")] = " ".join(omitted)
        if "result" in omitted:
            fields[names.index("content_type")] = ""
    shorter = "\t".join((kind, *fields)) + "\n"
    return shorter, len(shorter.encode("utf-8", "replace"))


def _field(value: str | float | None) -> str:
    if type(value) is str:
        return value if value.isprintable() and "\\" not in value else _escaped(value)
    if value is None:
        return ""
    return f"{value:.6f}" if type(value) is float else str(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


# --- reading ---


def decode(body: bytes) -> Batch:
    """Read a batch. Unknown kinds are skipped, and events that cannot be read are counted.

    Raises UnreadableBatch if the first line is not the head of a batch of a known version.
    """
    if len(body) > LARGEST_BATCH:
        raise UnreadableBatch(f"{len(body)} bytes; expected at most {LARGEST_BATCH}")
    first, *lines = body.decode("utf-8", "replace").split("\n")
    emitter, number = _read_head(first)
    if lines and not lines[-1]:
        lines.pop()
    events: list[Event] = []
    damaged = 0
    for text in lines:
        kind, *fields = text.split("\t")
        reader = _READERS.get(kind)
        if reader is None:
            continue
        try:
            events.append(reader(text, fields))
        except (ValueError, TypeError):
            damaged += 1
    return Batch(emitter, number, len(lines), events, damaged)


def _read_head(head: str) -> tuple[Emitter, int]:
    name, *fields = head[:10_000].split("\t")
    if name != FORMAT or not fields:
        raise UnreadableBatch(f"its first line begins with {head[:40]!r}; expected {FORMAT!r}")
    if fields[0] != str(VERSION):
        raise UnreadableBatch(f"version {fields[0][:20]!r} of the format; expected {VERSION}")
    try:
        host, kind, group, pid, started, number = fields[1:7]
        names = (_name(host), _name(kind), _name(group))
        return Emitter(*names, _int(pid), _float(started)), _int(number)
    except ValueError as error:
        raise UnreadableBatch(f"its first line names no emitter: {str(error)[:200]}") from None


def _text(field: str) -> str:
    if "\\" not in field:
        return field
    parts = field.split("\\\\")
    return "\\".join(part.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r") for part in parts)


def _bounded(longest: int) -> Callable[[str], str]:
    """Return a function that reads a text and cuts it to `longest` characters."""

    def read(field: str) -> str:
        if len(field) <= longest and "\\" not in field:
            return field
        return _text(field[: 2 * longest])[:longest]  # an escaped character has two

    return read


_name: Final = _bounded(_LONGEST_NAME)


def _result(field: str) -> str:
    """Return a result in Base64; "" for one that is too large, as a part of it cannot be decoded."""
    return _text(field) if len(field) <= _LONGEST_RESULT else ""


def _id(field: str) -> str:
    if not 0 < len(field) <= _LONGEST_ID:
        raise ValueError(f"an id of {len(field)} characters")
    return _text(field).replace("\0", "\ufffd")  # the functions of SQLite by which ids are found stop at NUL


def _int(field: str) -> int:
    number = int(field[:20])
    if not 0 <= number <= _LARGEST_NUMBER:
        raise ValueError(f"number {number}")
    return number


def _float(field: str) -> float:
    number = float(field[:40])
    if not -1e12 < number < 1e12:  # 30,000 years; nor NaN
        raise ValueError(f"number {number}")
    return number


def _optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda field: read(field) if field else None


_READ_FIELD: Final[Mapping[Any, Callable[[str], Any]]] = {
    int: _int,
    float: _float,
    int | None: _optional(_int),
    float | None: _optional(_float),
}
_READ_TEXT: Final[Mapping[str, Callable[[str], str]]] = {
    "id": _id,
    "result": _result,
    **{name: _bounded(longest) for name, longest in _LONGEST_TEXTS.items()},
}


def _reader(kind: type[Any]) -> Callable[[str, list[str]], Event]:
    """Return a function that makes an event of its line and fields; absent fields take their defaults."""
    hints = kind.__annotations__
    readers = [
        (_plain(name), _READ_TEXT.get(name, _name)) if hints[name] is str else (-1, _READ_FIELD[hints[name]])
        for name in kind._fields
    ]
    every = list(enumerate(readers))
    always = [(index, each) for index, each in every if each[0] < 0]

    def read(line: str, fields: list[str]) -> Event:
        is_plain = len(line) <= _LONGEST_NAME and "\\" not in line  # as most are: no text is looked at
        for index, (plain, reader) in always if is_plain else every:
            if index < len(fields) and (len(fields[index]) > plain or "\\" in fields[index]):
                fields[index] = reader(fields[index])
        return cast("Event", kind(*fields[: len(every)]))

    return read


def _plain(name: str) -> int:
    """Return the length up to which a text without a backslash needs no call to be read; -1: always one."""
    return -1 if name in ("id", "result") else _LONGEST_TEXTS.get(name, _LONGEST_NAME)


_READERS: Final = {name: _reader(kind) for name, kind in KINDS.items()}

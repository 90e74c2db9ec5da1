"""Frames between a consumer and a worker over their socket pair.

A frame is its kind (1 byte), its length (4 bytes, big-endian) and as many bytes. Bodies and properties
pass as the bytes they are; the consumer parses nothing in them. A worker runs foreign code: each field that
it fills is checked for its type and its bound where it is decoded.
"""

import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

from taskqueue.errors import LONGEST_DELAY, Unroutable
from taskqueue.messages.routing import checked_type

#: The longest frame that is believed; RabbitMQ takes messages of up to 128 MiB.
LONGEST_FRAME: Final = 160 * 1024 * 1024

#: The largest body, in bytes, that is sent to a worker: room is left for properties (AMQP's frame-max).
LARGEST_BODY: Final = LONGEST_FRAME - 1024 * 1024

#: The most worker types that one worker serves: each takes a channel, and a connection has 2047.
MOST_SERVICES: Final = 1000

LONGEST_TEXT: Final = 8192  # bytes of an error, or of a word about progress
LATEST: Final = 253_402_300_800.0  # seconds since 1970 until the year 10000
MOST_RETRIES: Final = 1_000_000

_CONTENT_TYPE: Final = re.compile(r"[ -~]{0,255}")  # it becomes an AMQP short string

_HEAD: Final = struct.Struct(">BI")
_TASK: Final = struct.Struct(">QIIB")
_TASK_FRAME: Final = struct.Struct(">BIQIIB")  # the two above in one
_OUTCOME: Final = struct.Struct(">QBdddBI")
_OUTCOME_FRAME: Final = struct.Struct(">BIQBdddBI")  # with the head before it
_PROGRESS: Final = struct.Struct(">Qd")


class Kind(IntEnum):
    """The kind of a frame."""

    READY = 1  # worker: set up, and can take work
    TASK = 2  # consumer: perform this workitem
    OUTCOME = 3  # worker: this is what became of it
    RETIRING = 4  # worker: I have done or grown enough, and end; give what I have not begun to others
    PROGRESS = 5  # worker: so far I am with this workitem


_KINDS: Final = {kind.value: kind for kind in Kind}  # in a third of the time that Kind() takes
_LONGEST: Final = {  # bytes of a payload; the others may be as long as any frame
    Kind.READY.value: 256 * 1024,
    Kind.RETIRING.value: 0,
    Kind.PROGRESS.value: 8 + 8 + LONGEST_TEXT,
}
_TASK_KIND, _OUTCOME_KIND = Kind.TASK.value, Kind.OUTCOME.value


class Verdict(IntEnum):
    """How a run ended, in the worker's view."""

    SUCCEEDED = 1
    FAILED = 2  # the handler raised
    RETRY = 3  # the handler asks for another run
    REJECTED = 4  # the handler wants no more runs


_VERDICTS: Final = {verdict.value: verdict for verdict in Verdict}


class FrameError(ValueError):
    """The other side does not speak this language; whoever it is, it is not believed any more."""


@dataclass(frozen=True, slots=True)
class Service:
    """A worker type that a worker serves, and what holds for it instead of the group's settings."""

    worker_type: str
    timeout: float | None = None  # seconds; None: the group's
    retries: int | None = None  # None: the group's


class TaskFrame(NamedTuple):
    """A workitem on its way to a worker."""

    number: int  # counts the consumer's tasks; the outcome names it
    attempt: int
    worker_type: str
    properties: bytes
    body: bytes

    def encode(self) -> bytes:
        """Return the whole frame."""
        number, attempt, worker_type, properties, body = self
        name = worker_type.encode()
        size = _checked(_TASK.size + len(name) + len(properties) + len(body))
        head = _TASK_FRAME.pack(_TASK_KIND, size, number, attempt, len(properties), len(name))
        return b"".join((head, name, properties, body))

    @classmethod
    def decode(cls, payload: bytes) -> "TaskFrame":
        """Read the payload of a TASK frame; FrameError where it is none."""
        if len(payload) < _TASK.size:
            raise FrameError("a task that ends early")
        number, attempt, size, name_size = _TASK.unpack_from(payload)
        start = _TASK.size + name_size
        end = start + size
        if end > len(payload):
            raise FrameError("a task that ends early")
        name = payload[_TASK.size : start].decode("utf-8", "replace")
        return cls(number, attempt, name, payload[start:end], payload[end:])


class Outcome(NamedTuple):
    """The outcome of a workitem, as its worker reports it."""

    number: int
    verdict: Verdict
    started: float  # seconds since 1970
    ended: float
    delay: float  # seconds until the run that RETRY asks for; negative: as the settings say
    content_type: str
    error: str  # a failure in one line; empty for a success
    body: bytes  # the result's body, or the failure's

    def encode(self) -> bytes:
        """Return the whole frame."""
        number, verdict, started, ended, delay, content_type, text, body = self
        kind, error = content_type.encode(), text.encode("utf-8", "replace")
        size = _checked(_OUTCOME.size + len(kind) + len(error) + len(body))
        sizes = len(kind), len(error)
        head = _OUTCOME_FRAME.pack(_OUTCOME_KIND, size, number, verdict, started, ended, delay, *sizes)
        return b"".join((head, kind, error, body))

    @classmethod
    def decode(cls, payload: bytes) -> "Outcome":
        """Read the payload of an OUTCOME frame; FrameError where it is none."""
        try:
            number, verdict, started, ended, delay, kind_size, error_size = _OUTCOME.unpack_from(payload)
            kind_end = _OUTCOME.size + kind_size
            error_end = kind_end + error_size
            if error_end > len(payload):
                raise FrameError("an outcome that ends early")
            kind = payload[_OUTCOME.size : kind_end].decode("ascii")
            error = payload[kind_end:error_end].decode("utf-8", "replace")
            ending = _VERDICTS[verdict]
        except (struct.error, ValueError, KeyError) as fault:
            raise FrameError(f"an outcome that cannot be read: {fault}") from None
        # Each comparison with NaN is false.
        if not (0 <= started <= LATEST and 0 <= ended <= LATEST and -1 <= delay <= LONGEST_DELAY):
            raise FrameError(f"an outcome with impossible times: {started}, {ended}, delay {delay}")
        if error_size > LONGEST_TEXT or not _CONTENT_TYPE.fullmatch(kind):
            raise FrameError(f"an outcome with {error_size} bytes of error and content type {kind[:80]!r}")
        return cls(number, ending, started, ended, delay, kind, error, payload[error_end:])


class ProgressFrame(NamedTuple):
    """How far a worker is with a workitem, as it tells it."""

    number: int
    fraction: float  # 0 to 1
    text: str

    def encode(self) -> bytes:
        """Return the whole frame."""
        text = self.text.encode("utf-8", "replace")
        return (
            _head(Kind.PROGRESS, _PROGRESS.size + len(text))
            + _PROGRESS.pack(self.number, self.fraction)
            + text
        )

    @classmethod
    def decode(cls, payload: bytes) -> "ProgressFrame":
        """Read the payload of a PROGRESS frame; FrameError where it is none."""
        if len(payload) < _PROGRESS.size:
            raise FrameError("progress that ends early")
        number, fraction = _PROGRESS.unpack_from(payload)
        if not 0 <= fraction <= 1:
            raise FrameError(f"progress of {fraction}, expected a number from 0 to 1")
        return cls(number, fraction, payload[_PROGRESS.size :].decode("utf-8", "replace"))


def ready(services: Iterable[Service] = ()) -> bytes:
    """Return a READY frame; without services the worker serves the worker type of its group."""
    listed = [(service.worker_type, service.timeout, service.retries) for service in services]
    payload = json.dumps(listed).encode() if listed else b""
    return _head(Kind.READY, len(payload)) + payload


def services_of(payload: bytes) -> tuple[Service, ...]:
    """Read the payload of a READY frame; FrameError where it is none."""
    try:
        listed = json.loads(payload or b"[]")
        if len(listed) > MOST_SERVICES:
            raise FrameError(f"{len(listed)} worker types; a worker serves at most {MOST_SERVICES}")
        services = tuple(_service(*entry) for entry in listed)
    except FrameError:
        raise
    except (ValueError, TypeError, RecursionError, Unroutable) as error:
        raise FrameError(f"services that cannot be read: {error}") from None
    names = Counter(service.worker_type for service in services)
    for name, count in names.items():
        if count > 1:
            raise FrameError(f"worker type {name!r} is named {count} times")
    return services


def _service(worker_type: Any, timeout: Any, retries: Any) -> Service:
    if timeout is not None and not 0 <= timeout <= LONGEST_DELAY:
        raise ValueError(f"timeout {timeout}")
    if retries is not None and not 0 <= retries <= MOST_RETRIES:
        raise ValueError(f"retries {retries}")
    return Service(
        checked_type(worker_type),
        None if timeout is None else float(timeout),
        None if retries is None else int(retries),
    )


def retiring() -> bytes:
    """Return a RETIRING frame."""
    return _head(Kind.RETIRING, 0)


def _head(kind: Kind, size: int) -> bytes:
    return _HEAD.pack(kind, _checked(size))


def _checked(size: int) -> int:
    if size > LONGEST_FRAME:
        raise FrameError(f"{size} bytes do not fit into a frame of at most {LONGEST_FRAME}")
    return size


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._rest = bytearray()  # the beginning of a frame

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Take bytes in; yield each frame that is complete, as its kind and payload.

        FrameError for a kind or a length that no frame has.
        """
        unread: bytes | bytearray = data
        if self._rest:
            self._rest += data  # a long frame comes in many pieces, and grows here without being copied
            unread, self._rest = self._rest, bytearray()
        start = 0
        while len(unread) >= start + _HEAD.size:
            number, size = _HEAD.unpack_from(unread, start)
            kind = _KINDS.get(number)
            if kind is None:
                raise FrameError(f"a frame of the unknown kind {number}")
            if size > _LONGEST.get(number, LONGEST_FRAME):
                longest = _LONGEST.get(number, LONGEST_FRAME)
                raise FrameError(f"a frame {kind.name} of {size} bytes; the longest has {longest}")
            payload = start + _HEAD.size
            if len(unread) < payload + size:
                break
            start = payload + size
            yield kind, bytes(unread[payload:start])
        if start == 0 and isinstance(unread, bytearray):
            self._rest = unread
        else:
            self._rest += unread[start:]

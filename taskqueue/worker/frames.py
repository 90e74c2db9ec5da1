"""Frames between a consumer and a worker over their socket pair.

A frame is its kind (1 byte), its length (4 bytes, big-endian) and as many bytes of payload. Bodies and
properties pass as bytes; the consumer does not parse them. A worker runs foreign code: the decoder checks the
type and the bound of each field that a worker sends.
"""

import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

from taskqueue.errors import LONGEST_DELAY, BadSchedule, Unroutable
from taskqueue.messages.routing import checked_type
from taskqueue.schedules.definition import Definition

#: The longest valid frame, in bytes; RabbitMQ accepts messages of up to 128 MiB.
LONGEST_FRAME: Final = 160 * 1024 * 1024

#: The largest body, in bytes, that is sent to a worker; the rest is for properties (AMQP's frame-max).
LARGEST_BODY: Final = LONGEST_FRAME - 1024 * 1024

#: Maximum number of worker types of one worker: each takes a channel, and a connection has 2047.
MOST_SERVICES: Final = 1000

LONGEST_TEXT: Final = 8192  # bytes of an error, or of a progress text
LATEST: Final = 253_402_300_800.0  # seconds since 1970 until the year 10000
MOST_RETRIES: Final = 1_000_000

_CONTENT_TYPE: Final = re.compile(r"[ -~]{0,255}")  # it must fit into an AMQP short string

_HEAD: Final = struct.Struct(">BI")
_TASK: Final = struct.Struct(">QIIB")
_TASK_FRAME: Final = struct.Struct(">BIQIIB")  # _HEAD and _TASK in one
_OUTCOME: Final = struct.Struct(">QBdddBI")
_OUTCOME_FRAME: Final = struct.Struct(">BIQBdddBI")  # _HEAD and _OUTCOME in one
_PROGRESS: Final = struct.Struct(">Qd")


class Kind(IntEnum):
    """The kind of a frame."""

    READY = 1  # from a worker: set up, ready for work
    TASK = 2  # from a consumer: perform this workitem
    OUTCOME = 3  # from a worker: the outcome of a task
    RETIRING = 4  # from a worker: it is about to end; others take its tasks that are not begun
    PROGRESS = 5  # from a worker: the progress of a task


_KINDS: Final = {kind.value: kind for kind in Kind}  # takes a third of the time of Kind()
_LONGEST: Final = {  # maximum bytes of a payload; for other kinds, those of any frame
    Kind.READY.value: 256 * 1024,
    Kind.RETIRING.value: 0,
    Kind.PROGRESS.value: 8 + 8 + LONGEST_TEXT,
}
_TASK_KIND, _OUTCOME_KIND = Kind.TASK.value, Kind.OUTCOME.value


class Verdict(IntEnum):
    """The result of a run, as the worker reports it."""

    SUCCEEDED = 1
    FAILED = 2  # the handler raised
    RETRY = 3  # the handler asks for another run
    REJECTED = 4  # the handler wants no more runs


_VERDICTS: Final = {verdict.value: verdict for verdict in Verdict}


class FrameError(ValueError):
    """The peer broke the protocol; nothing more is read from it."""


@dataclass(frozen=True, slots=True)
class Service:
    """A worker type that a worker serves, with settings that replace the group's."""

    worker_type: str
    timeout: float | None = None  # seconds; None: the group's
    retries: int | None = None  # None: the group's
    schedules: tuple[Definition, ...] = ()


class TaskFrame(NamedTuple):
    """A workitem for a worker."""

    number: int  # counts the consumer's tasks; the outcome refers to it
    attempt: int
    worker_type: str
    properties: bytes
    body: bytes

    def encode(self) -> bytes:
        """Encode the whole frame."""
        number, attempt, worker_type, properties, body = self
        name = worker_type.encode()
        size = _checked(_TASK.size + len(name) + len(properties) + len(body))
        head = _TASK_FRAME.pack(_TASK_KIND, size, number, attempt, len(properties), len(name))
        return b"".join((head, name, properties, body))

    @classmethod
    def decode(cls, payload: bytes) -> "TaskFrame":
        """Decode the payload of a TASK frame; FrameError if it is invalid."""
        if len(payload) < _TASK.size:
            raise FrameError("truncated TASK frame")
        number, attempt, size, name_size = _TASK.unpack_from(payload)
        start = _TASK.size + name_size
        end = start + size
        if end > len(payload):
            raise FrameError("truncated TASK frame")
        name = payload[_TASK.size : start].decode("utf-8", "replace")
        return cls(number, attempt, name, payload[start:end], payload[end:])


class Outcome(NamedTuple):
    """The outcome of a workitem, as its worker reports it."""

    number: int
    verdict: Verdict
    started: float  # seconds since 1970
    ended: float
    delay: float  # seconds until the run that RETRY requests; negative: by the settings
    content_type: str
    error: str  # the failure in one line; empty for a success
    body: bytes  # the result's body, or the failure's

    def encode(self) -> bytes:
        """Encode the whole frame."""
        number, verdict, started, ended, delay, content_type, text, body = self
        kind, error = content_type.encode(), text.encode("utf-8", "replace")
        size = _checked(_OUTCOME.size + len(kind) + len(error) + len(body))
        sizes = len(kind), len(error)
        head = _OUTCOME_FRAME.pack(_OUTCOME_KIND, size, number, verdict, started, ended, delay, *sizes)
        return b"".join((head, kind, error, body))

    @classmethod
    def decode(cls, payload: bytes) -> "Outcome":
        """Decode the payload of an OUTCOME frame; FrameError if it is invalid."""
        try:
            number, verdict, started, ended, delay, kind_size, error_size = _OUTCOME.unpack_from(payload)
            kind_end = _OUTCOME.size + kind_size
            error_end = kind_end + error_size
            if error_end > len(payload):
                raise FrameError("truncated OUTCOME frame")
            kind = payload[_OUTCOME.size : kind_end].decode("ascii")
            error = payload[kind_end:error_end].decode("utf-8", "replace")
            ending = _VERDICTS[verdict]
        except (struct.error, ValueError, KeyError) as fault:
            raise FrameError(f"invalid OUTCOME frame: {fault}") from None
        # Each comparison with NaN is false.
        if not (0 <= started <= LATEST and 0 <= ended <= LATEST and -1 <= delay <= LONGEST_DELAY):
            raise FrameError(f"OUTCOME frame with invalid times: {started}, {ended}, delay {delay}")
        if error_size > LONGEST_TEXT or not _CONTENT_TYPE.fullmatch(kind):
            raise FrameError(
                f"OUTCOME frame with an error of {error_size} bytes and content type {kind[:80]!r}"
            )
        return cls(number, ending, started, ended, delay, kind, error, payload[error_end:])


class ProgressFrame(NamedTuple):
    """The progress of a workitem, as its worker reports it."""

    number: int
    fraction: float  # 0 to 1
    text: str

    def encode(self) -> bytes:
        """Encode the whole frame."""
        text = self.text.encode("utf-8", "replace")
        return (
            _head(Kind.PROGRESS, _PROGRESS.size + len(text))
            + _PROGRESS.pack(self.number, self.fraction)
            + text
        )

    @classmethod
    def decode(cls, payload: bytes) -> "ProgressFrame":
        """Decode the payload of a PROGRESS frame; FrameError if it is invalid."""
        if len(payload) < _PROGRESS.size:
            raise FrameError("truncated PROGRESS frame")
        number, fraction = _PROGRESS.unpack_from(payload)
        if not 0 <= fraction <= 1:
            raise FrameError(f"PROGRESS frame with fraction {fraction}, expected 0 to 1")
        return cls(number, fraction, payload[_PROGRESS.size :].decode("utf-8", "replace"))


def ready(services: Iterable[Service] = ()) -> bytes:
    """Return a READY frame. Without services the worker serves its group's worker type."""
    listed = [
        (each.worker_type, each.timeout, each.retries, [schedule.as_json() for schedule in each.schedules])
        for each in services
    ]
    payload = json.dumps(listed).encode() if listed else b""
    return _head(Kind.READY, len(payload)) + payload


def services_of(payload: bytes) -> tuple[Service, ...]:
    """Decode the payload of a READY frame; FrameError if it is invalid."""
    try:
        listed = json.loads(payload or b"[]")
        if len(listed) > MOST_SERVICES:
            raise FrameError(f"READY frame with {len(listed)} worker types; the maximum is {MOST_SERVICES}")
        services = tuple(_service(*entry) for entry in listed)
    except FrameError:
        raise
    except (ValueError, TypeError, RecursionError, Unroutable, BadSchedule) as error:
        raise FrameError(f"invalid READY frame: {error}") from None
    names = Counter(service.worker_type for service in services)
    for name, count in names.items():
        if count > 1:
            raise FrameError(f"READY frame with worker type {name!r} {count} times")
    return services


def _service(worker_type: Any, timeout: Any, retries: Any, schedules: Any = ()) -> Service:
    if timeout is not None and not 0 <= timeout <= LONGEST_DELAY:
        raise ValueError(f"timeout {timeout}")
    if retries is not None and not 0 <= retries <= MOST_RETRIES:
        raise ValueError(f"retries {retries}")
    own = {"worker_type": checked_type(worker_type)}  # whatever the worker says
    return Service(
        own["worker_type"],
        None if timeout is None else float(timeout),
        None if retries is None else int(retries),
        tuple(Definition.checked({**each, **own}) for each in schedules),
    )


def retiring() -> bytes:
    """Return a RETIRING frame."""
    return _head(Kind.RETIRING, 0)


def _head(kind: Kind, size: int) -> bytes:
    return _HEAD.pack(kind, _checked(size))


def _checked(size: int) -> int:
    if size > LONGEST_FRAME:
        raise FrameError(f"frame of {size} bytes; the maximum is {LONGEST_FRAME}")
    return size


class FrameReader:
    """Splits a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()  # an incomplete frame

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Add bytes; yield the kind and the payload of each complete frame.

        FrameError for an unknown kind or an excessive length.
        """
        unread: bytes | bytearray = data
        if self._rest:
            self._rest += data  # a long frame comes in many pieces; it grows here without a copy of the whole
            unread, self._rest = self._rest, bytearray()
        start = 0
        while len(unread) >= start + _HEAD.size:
            number, size = _HEAD.unpack_from(unread, start)
            kind = _KINDS.get(number)
            if kind is None:
                raise FrameError(f"frame of unknown kind {number}")
            longest = _LONGEST.get(number, LONGEST_FRAME)
            if size > longest:
                raise FrameError(f"{kind.name} frame of {size} bytes; the maximum is {longest}")
            payload = start + _HEAD.size
            if len(unread) < payload + size:
                break
            start = payload + size
            yield kind, bytes(unread[payload:start])
        if start == 0 and isinstance(unread, bytearray):
            self._rest = unread
        else:
            self._rest += unread[start:]

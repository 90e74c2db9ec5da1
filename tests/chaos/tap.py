"""A tap on the lines: it sees which workitem was in whose hands, and when."""

import math
import re
import struct
import time
from collections import defaultdict

#: A workitem's id, wherever it stands in a message: as workload.py makes it, or a tick's UUID, of version 5.
ID = re.compile(rb"<\d+-[a-z-]+>|[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")

# AMQP 0-9-1, sections 2.3.5 and 4.2.3: a frame has a type, a channel and a size, its payload and an end.
# A method's payload begins with its class and its number.
_GREETING = b"AMQP"
_GREETING_SIZE = 8
_FRAME = struct.Struct(">BHI")
_METHOD, _HEADER = 1, 2
_NAME = struct.Struct(">HH")
_CHANNEL_CLOSE, _CONSUME, _DELIVER = (20, 40), (60, 20), (60, 60)
_ACK, _REJECT, _NACK = (60, 80), (60, 90), (60, 120)
_TAG = struct.Struct(">Q")

#: Queues with workitems. What waits unacknowledged in others, such as a log, is in nobody's hands.
_WORK = re.compile("taskqueue$|worker_")

Span = list[float]  # from when to when, in seconds since 1970; infinite until it is over


class Tap:
    """Notes which workitems a service has, by all its connections; a moment is seconds since 1970."""

    def __init__(self) -> None:
        """Have seen nothing yet."""
        self.had: dict[str, list[Span]] = defaultdict(list)  # from its delivery until it is acknowledged
        self.went: dict[str, list[float]] = defaultdict(list)  # published by the service, or its event was

    def connection(self) -> "TappedConnection":
        """Return what hears one connection."""
        return TappedConnection(self)


class TappedConnection:
    """Hears what passes over a connection of a service."""

    def __init__(self, tap: Tap) -> None:
        """Enter what is heard into `tap`."""
        self._tap = tap
        self._queues: dict[tuple[int, bytes], str] = {}  # by channel and consumer tag
        self._delivering: dict[int, int] = {}  # by channel: the tag of a delivery whose header comes next
        self._open: dict[tuple[int, int], Span] = {}  # by channel and delivery tag

    def __call__(self, is_from_service: bool, data: bytes) -> bytes:  # noqa: FBT001 -- what a proxy calls
        """Take in what passes; return its end, an incomplete frame."""
        begin = _GREETING_SIZE if data.startswith(_GREETING) else 0
        while len(data) >= begin + _FRAME.size:
            kind, channel, size = _FRAME.unpack_from(data, begin)
            end = begin + _FRAME.size + size
            if len(data) <= end:
                break
            self._take(is_from_service, kind, channel, data[begin + _FRAME.size : end])
            begin = end + 1
        return data[begin:]

    def close(self) -> None:
        """Take in that the connection has ended: the broker gives what is open to somebody else."""
        self._end(list(self._open))

    def _take(self, is_from_service: bool, kind: int, channel: int, payload: bytes) -> None:  # noqa: FBT001
        if kind == _METHOD:
            name, arguments = _NAME.unpack_from(payload), payload[_NAME.size :]
            (self._sent if is_from_service else self._received)(channel, name, arguments)
        elif is_from_service:
            for found in ID.finditer(payload):
                self._tap.went[found[0].decode()].append(time.time())
        elif kind == _HEADER and (tag := self._delivering.pop(channel, 0)):
            for found in {found[0] for found in ID.finditer(payload)}:
                span = self._open.setdefault((channel, tag), [time.time(), math.inf])
                self._tap.had[found.decode()].append(span)

    def _received(self, channel: int, name: tuple[int, int], arguments: bytes) -> None:
        if name == _DELIVER:
            consumer, rest = _short_string(arguments)
            if _WORK.match(self._queues.get((channel, consumer), "")):
                self._delivering[channel] = _TAG.unpack_from(rest)[0]
        elif name == _CHANNEL_CLOSE:
            self._end(self._up_to(channel, math.inf))

    def _sent(self, channel: int, name: tuple[int, int], arguments: bytes) -> None:
        if name == _CONSUME:
            queue, rest = _short_string(arguments[2:])
            self._queues[channel, _short_string(rest)[0]] = queue.decode()
        elif name in (_ACK, _NACK, _REJECT):
            tag, is_multiple = _TAG.unpack_from(arguments)[0], name != _REJECT and arguments[_TAG.size] & 1
            self._end(self._up_to(channel, tag) if is_multiple else [(channel, tag)])
        elif name == _CHANNEL_CLOSE:
            self._end(self._up_to(channel, math.inf))

    def _up_to(self, channel: int, last: float) -> list[tuple[int, int]]:
        return [(other, tag) for other, tag in self._open if other == channel and tag <= last]

    def _end(self, deliveries: list[tuple[int, int]]) -> None:
        for each in deliveries:
            if (span := self._open.pop(each, None)) is not None:
                span[1] = time.time()


def _short_string(data: bytes) -> tuple[bytes, bytes]:
    """Return the short string at the beginning of some arguments, and what follows it."""
    end = 1 + data[0]
    return data[1:end], data[end:]

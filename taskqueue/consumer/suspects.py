"""Detection of messages that kill or block the consumer that handles them.

The broker redelivers such a message, so it would kill one consumer after the other. The consumer records the
message that it is handling in memory shared with the supervisor, which can read it even after a SIGKILL.
"""

import hashlib
import mmap
import os
import struct
import time
from collections import Counter
from typing import Final, NamedTuple

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties

#: Seconds that a consumer may handle one message; an ordinary one takes a ten-thousandth of that.
LONGEST_HANDLING: Final = 30.0

#: Maximum seconds between two heartbeats of a consumer. If name servers do not answer, it may block for some
#: minutes while it connects.
LONGEST_SILENCE: Final = 300.0

#: The same of a consumer with limits, which must kill its workers before the gate takes it for dead.
LIMITED_SILENCE: Final = 30.0

#: Seconds between two heartbeats, and between two checks for them.
BEAT_DELAY: Final = 10.0

_HEAD: Final = struct.Struct("ddII")  # Times; bytes of the properties and of the body
_pack: Final = _HEAD.pack
_TIMES: Final = struct.Struct("dd")  # the first two of them
_NEVER: Final = bytes(8)
_MOST: Final = 131_072  # bytes of properties that are recorded: RabbitMQ's default frame_max
_BEGINNING: Final = 64  # bytes of a body that are recorded
_SIZE: Final = _HEAD.size + _BEGINNING + _MOST
_REMEMBERED: Final = 100  # messages


class HandledMessage(NamedTuple):
    """The parts of a message that identify its redelivery."""

    properties: bytes
    size: int  # bytes of its body
    beginning: bytes  # of it

    @classmethod
    def of(cls, properties: bytes, body: bytes) -> "HandledMessage":
        """Describe a message by its encoded properties and its body."""
        return cls(properties[:_MOST], len(body), body[:_BEGINNING])

    @property
    def key(self) -> str:
        """The message id, else a digest without the headers, some of which count deliveries."""
        try:
            properties = Properties.decode(self.properties)
            if properties.message_id:
                return properties.message_id
            known = properties.replace(header_table=None, user_id=None).encode()
        except MalformedProperties:
            known = self.properties
        return "\0" + hashlib.blake2b(repr((known, self.size, self.beginning)).encode()).hexdigest()


class Times(NamedTuple):
    """The first fields of a Handling."""

    began: float  # when the consumer began to handle a message (monotonic); 0 if it handles none
    beat: float  # its last heartbeat (monotonic)


class Handling:
    """The message that a consumer is handling. The supervisor makes one for the consumer, none for workers.

    It is a nameless file, because a worker could write to inherited memory.
    """

    def __init__(self) -> None:
        """Make the file, without a message."""
        self._file = os.memfd_create("handling")
        os.ftruncate(self._file, _SIZE)

    def fileno(self) -> int:
        """Return the file's descriptor, which the consumer keeps open."""
        return self._file

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def writer(self) -> "Writer":
        """Return the consumer's side."""
        return Writer(mmap.mmap(self._file, _SIZE))

    def times(self) -> Times:
        """Return only the times: the supervisor reads them in each round, for every group."""
        data = os.pread(self._file, _TIMES.size, 0)
        return Times(*_TIMES.unpack(data)) if len(data) == _TIMES.size else Times(0.0, 0.0)

    def message(self) -> HandledMessage | None:
        """Return the message that the consumer is handling, or was handling when it was killed."""
        data = os.pread(self._file, _SIZE, 0)
        if len(data) < _SIZE:  # never truncated by our consumer
            return None
        began, _, size, body = _HEAD.unpack_from(data)
        start = _HEAD.size + min(body, _BEGINNING)
        beginning, properties = data[_HEAD.size : start], data[start : start + min(size, _MOST)]
        return HandledMessage(properties, body, beginning) if began else None


class Writer:
    """A consumer's side of its Handling."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._beat = time.monotonic()

    def begin(self, properties: bytes, body: bytes) -> None:
        """Record that a message is being handled; `properties` are encoded."""
        size, length = len(properties), len(body)
        data = _pack(time.monotonic(), self._beat, size, length) + body[:_BEGINNING] + properties
        try:
            self._memory[: len(data)] = data
        except IndexError:  # a broker with a larger frame_max than the default
            self._memory[:_SIZE] = data[:_SIZE].ljust(_SIZE)

    def end(self) -> None:
        """Record that the message has been handled."""
        self._memory[:8] = _NEVER

    def beat(self) -> None:
        """Record a heartbeat, every BEAT_DELAY seconds, while no message is being handled."""
        self._beat = time.monotonic()
        self._memory[: _HEAD.size] = _pack(0.0, self._beat, 0, 0)


class Watchdog:
    """Detects a consumer that hangs.

    Each check counts at most BEAT_DELAY seconds: when a frozen host resumes, the consumer's records are old,
    although it does not hang.
    """

    def __init__(self, now: float, longest_silence: float = LONGEST_SILENCE) -> None:
        """Begin at `now` (monotonic).

        longest_silence -- seconds without a heartbeat after which the consumer hangs
        """
        self._checked, self._longest_silence = now, longest_silence
        self._began, self._handles = 0.0, 0.0
        self._beat, self._is_silent = 0.0, 0.0

    def check(self, times: Times, now: float) -> str:
        """Check a consumer's times; return why it must be killed, "" if it need not."""
        step, self._checked = min(now - self._checked, BEAT_DELAY), now
        self._handles = self._handles + step if times.began and times.began == self._began else 0.0
        self._is_silent = self._is_silent + step if times.beat == self._beat else 0.0
        self._began, self._beat = times.began, times.beat
        if self._handles > LONGEST_HANDLING:
            return f"the consumer has been handling one message for {LONGEST_HANDLING:g} s"
        if self._is_silent > self._longest_silence:
            return f"no heartbeat from the consumer for {self._longest_silence:g} s"
        return ""


class Suspects:
    """The messages that consumers died of, with the number of deaths that each has caused."""

    def __init__(self) -> None:
        self._deaths: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._deaths)

    def charge(self, message: HandledMessage) -> int:
        """Charge a consumer's death to a message; return the number of deaths that it has caused."""
        key = message.key
        self._deaths[key] += 1
        while len(self._deaths) > _REMEMBERED:
            del self._deaths[next(iter(self._deaths))]
        return self._deaths[key]

    def deaths(self, properties: bytes, body: bytes) -> int:
        """Return the number of consumers that died while they handled a message."""
        return self._deaths[HandledMessage.of(properties, body).key] if self._deaths else 0

    def clear(self, properties: bytes, body: bytes) -> str:
        """Forget a message whose outcome is confirmed; return its key, "" if it was not suspected."""
        if not self._deaths:
            return ""
        key = HandledMessage.of(properties, body).key
        return key if self.forget(key) else ""

    def forget(self, key: str) -> bool:
        """Forget a message by its key; return whether it was suspected."""
        return self._deaths.pop(key, 0) > 0

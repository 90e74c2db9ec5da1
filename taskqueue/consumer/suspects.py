"""Finding the message that kills or blocks the consumer which handles it.

The broker delivers such a message again, and so each consumer in turn would die of it. The consumer writes
down what it is handling in memory that the supervisor shares, where it is still found after a SIGKILL.
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

#: Seconds that a consumer may handle one message; it handles a common one in a ten-thousandth of that.
LONGEST_HANDLING: Final = 30.0

#: Seconds that a consumer may give no sign of life. A host whose name servers do not answer may hold it up
#: for some minutes while it connects.
LONGEST_SILENCE: Final = 300.0

#: Seconds from one sign of life to the next, and from one look for them to the next.
BEAT_DELAY: Final = 10.0

_HEAD: Final = struct.Struct("ddII")  # Times; bytes of the properties and of the body
_pack: Final = _HEAD.pack
_TIMES: Final = struct.Struct("dd")  # the first two of them
_NEVER: Final = bytes(8)
_MOST: Final = 131_072  # bytes of properties that are written down: AMQP's frame-max of RabbitMQ
_BEGINNING: Final = 64  # bytes of a body that are
_SIZE: Final = _HEAD.size + _BEGINNING + _MOST
_REMEMBERED: Final = 100  # messages


class HandledMessage(NamedTuple):
    """As much of a message as it is known by when it is delivered again."""

    properties: bytes
    size: int  # bytes of its body
    beginning: bytes  # of it

    @classmethod
    def of(cls, properties: bytes, body: bytes) -> "HandledMessage":
        """Describe a message by its properties, as AMQP writes them, and its body."""
        return cls(properties[:_MOST], len(body), body[:_BEGINNING])

    @property
    def key(self) -> str:
        """The message id, or what stands for it: without headers, some of which count deliveries."""
        try:
            properties = Properties.decode(self.properties)
            if properties.message_id:
                return properties.message_id
            known = properties.replace(header_table=None, user_id=None).encode()
        except MalformedProperties:
            known = self.properties
        return "\0" + hashlib.blake2b(repr((known, self.size, self.beginning)).encode()).hexdigest()


class Times(NamedTuple):
    """The beginning of a Handling."""

    began: float  # when it began to handle a message (monotonic); 0 if it handles none
    beat: float  # when it gave its last sign of life (monotonic)


class Handling:
    """The message that a consumer handles at this moment. Its supervisor makes one for it; workers have none.

    It is a nameless file, and not memory that all inherit: a worker could write there.
    """

    def __init__(self) -> None:
        """Make the file, with nothing written down."""
        self._file = os.memfd_create("handling")
        os.ftruncate(self._file, _SIZE)

    def fileno(self) -> int:
        """Return the file's descriptor, which the consumer keeps open."""
        return self._file

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def writer(self) -> "Writer":
        """Return the consumer's side."""
        return Writer(mmap.mmap(self._file, _SIZE))

    def times(self) -> Times:
        """Return the beginning alone: the supervisor reads it in each round, for every group."""
        data = os.pread(self._file, _TIMES.size, 0)
        return Times(*_TIMES.unpack(data)) if len(data) == _TIMES.size else Times(0.0, 0.0)

    def message(self) -> HandledMessage | None:
        """Return the message that the consumer handles, or was handling when it was killed."""
        data = os.pread(self._file, _SIZE, 0)
        if len(data) < _SIZE:  # which no consumer of ours does
            return None
        began, _, size, body = _HEAD.unpack_from(data)
        start = _HEAD.size + min(body, _BEGINNING)
        beginning, properties = data[_HEAD.size : start], data[start : start + min(size, _MOST)]
        return HandledMessage(properties, body, beginning) if began else None


class Writer:
    """A consumer's side of its Handling."""

    def __init__(self, memory: mmap.mmap) -> None:
        """Write into this memory."""
        self._memory = memory
        self._beat = time.monotonic()

    def begin(self, properties: bytes, body: bytes) -> None:
        """Note that a message is being handled; `properties` as AMQP writes them."""
        size, length = len(properties), len(body)
        data = _pack(time.monotonic(), self._beat, size, length) + body[:_BEGINNING] + properties
        try:
            self._memory[: len(data)] = data
        except IndexError:  # a broker whose frames are longer than they commonly are
            self._memory[:_SIZE] = data[:_SIZE].ljust(_SIZE)

    def end(self) -> None:
        """Note that it is done."""
        self._memory[:8] = _NEVER

    def beat(self) -> None:
        """Give a sign of life, every BEAT_DELAY seconds; nothing is being handled."""
        self._beat = time.monotonic()
        self._memory[: _HEAD.size] = _pack(0.0, self._beat, 0, 0)


class Vigil:
    """Tells whether a consumer hangs.

    Only time counts in which we looked ourselves: a host that was frozen finds old notes when it goes on.
    """

    def __init__(self, now: float) -> None:
        """Begin at `now`, on the monotonic clock."""
        self._looked = now
        self._began, self._handles = 0.0, 0.0
        self._beat, self._is_silent = 0.0, 0.0

    def look(self, times: Times, now: float) -> str:
        """Look at a consumer's times; return why it is to be killed, "" if it is not."""
        step, self._looked = min(now - self._looked, BEAT_DELAY), now
        self._handles = self._handles + step if times.began and times.began == self._began else 0.0
        self._is_silent = self._is_silent + step if times.beat == self._beat else 0.0
        self._began, self._beat = times.began, times.beat
        if self._handles > LONGEST_HANDLING:
            return f"the consumer handles one message for {LONGEST_HANDLING:g} s"
        if self._is_silent > LONGEST_SILENCE:
            return f"the consumer has given no sign of life for {LONGEST_SILENCE:g} s"
        return ""


class Suspects:
    """How many consumers died while they handled a message."""

    def __init__(self) -> None:
        """Suspect nothing."""
        self._deaths: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._deaths)

    def charge(self, message: HandledMessage) -> int:
        """Charge a consumer's death to a message; return how many that makes."""
        key = message.key
        self._deaths[key] += 1
        while len(self._deaths) > _REMEMBERED:
            del self._deaths[next(iter(self._deaths))]
        return self._deaths[key]

    def deaths(self, properties: bytes, body: bytes) -> int:
        """Return how many consumers died while they handled a message."""
        return self._deaths[HandledMessage.of(properties, body).key] if self._deaths else 0

    def acquit(self, properties: bytes, body: bytes) -> str:
        """Forget a message whose end is confirmed; return its key, "" if it was not suspected."""
        if not self._deaths:
            return ""
        key = HandledMessage.of(properties, body).key
        return key if self.forget(key) else ""

    def forget(self, key: str) -> bool:
        """Forget a message by its key; tell whether it was suspected."""
        return self._deaths.pop(key, 0) > 0

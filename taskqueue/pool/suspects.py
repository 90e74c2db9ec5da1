"""Finding the message that kills or blocks the consumer which handles it.

The broker delivers such a message again, and so each consumer in turn would die of it. The consumer writes
down what it is handling in memory that the supervisor shares, where it is still found after a SIGKILL.
"""

import mmap
import struct
import time
from collections import Counter
from typing import Final

from taskqueue.headers import MalformedProperties
from taskqueue.properties import Properties

#: Seconds that a consumer may handle one message; it handles a common one in a ten-thousandth of that.
LONGEST_HANDLING: Final = 30.0

_HEAD: Final = struct.Struct("dH")  # when the handling began (monotonic, 0 for none), bytes of properties
_MOST: Final = 4000  # bytes of properties that are written down
_REMEMBERED: Final = 100  # messages


class Handling:
    """What a consumer handles at this moment; made by the supervisor before it forks the consumer."""

    def __init__(self) -> None:
        """Share a page of memory with every process that is forked."""
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def begin(self, properties: bytes) -> None:
        """Note that a message is being handled; `properties` as AMQP writes them."""
        size = min(len(properties), _MOST)
        self._memory[_HEAD.size : _HEAD.size + size] = properties[:size]
        _HEAD.pack_into(self._memory, 0, time.monotonic(), size)

    def end(self) -> None:
        """Note that it is done."""
        _HEAD.pack_into(self._memory, 0, 0.0, 0)

    @property
    def properties(self) -> bytes:
        """The properties of the message that is, or was last, being handled; b"" for none."""
        _, size = _HEAD.unpack_from(self._memory)
        return self._memory[_HEAD.size : _HEAD.size + size]

    @property
    def seconds(self) -> float:
        """For how long one message has been handled; 0 for none."""
        began, _ = _HEAD.unpack_from(self._memory)
        return time.monotonic() - began if began else 0.0

    def close(self) -> None:
        """Take the memory out of this process: a worker must not write there."""
        self._memory.close()


class Suspects:
    """How many consumers died while they handled a message."""

    def __init__(self) -> None:
        """Suspect nothing."""
        self._deaths: Counter[bytes] = Counter()

    def __bool__(self) -> bool:
        return bool(self._deaths)

    def charge(self, properties: bytes) -> int:
        """Charge a consumer's death to a message; return how many that makes."""
        key = _key(properties)
        self._deaths[key] += 1
        while len(self._deaths) > _REMEMBERED:
            del self._deaths[next(iter(self._deaths))]
        return self._deaths[key]

    def deaths(self, properties: bytes) -> int:
        """Return how many consumers died while they handled a message."""
        return self._deaths[_key(properties)]


def _key(properties: bytes) -> bytes:
    """Return the message id, by which a message is known when it is delivered again."""
    known = properties[:_MOST]
    try:
        return (Properties.decode(known).message_id or "").encode("utf-8", "surrogateescape") or known
    except MalformedProperties:
        return known

"""Live parts of pages: one task reads the record for all browsers that follow it."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from taskqueue.errors import TaskqueueError
from taskqueue.monitor.web.readers import Readers, TooSlow
from taskqueue.monitor.web.rights import Rights
from taskqueue.monitor.web.view import View

if TYPE_CHECKING:
    from taskqueue.monitor.store.reading import Record

_DELAY: Final = 2.0  # seconds between two looks at the record
_PART: Final = 0.1  # of a processor is spent on looks, at most
MOST_STREAMS: Final = 200

Make = Callable[[View], str]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a page, as all users with the same rights see it."""

    path: str  # with the query
    rights: Rights  # without a name
    name: str = ""  # of the events that carry it; "" for events without a name


class Stream:
    """The unsent messages for a browser: of each part that it follows, the newest."""

    def __init__(self) -> None:
        """Have nothing to tell yet."""
        self._messages: dict[str, str] = {}  # by the part's path
        self._is_over = False
        self._changed = asyncio.Event()

    def put(self, path: str, message: str) -> None:
        """Replace the message of a part that a slow browser has not got yet."""
        self._messages[path] = message
        self._changed.set()

    def end(self) -> None:
        """Have `take` return None from now on."""
        self._is_over = True
        self._changed.set()

    async def take(self, seconds: float) -> str | None:
        """Return the messages that have come, "" if none comes in time, None after the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()
        messages, self._messages = self._messages, {}
        return None if self._is_over else "".join(messages.values())


def message_of(html: str, name: str = "") -> str:
    """Return the message that carries a part; name -- of its event."""
    event = f"event: {name}\n" if name else ""
    return f"{event}data: {json.dumps(html)}\n\n"  # JSON has no line ends


@dataclass(slots=True)
class _Channel:
    """The streams of a part."""

    make: Make
    streams: set[Stream] = field(default_factory=set)
    message: str = ""


class Hub:
    """Reads the parts that anybody follows, one after the other, and passes on those that have changed."""

    def __init__(self, readers: Readers) -> None:
        """Read nothing before the first stream."""
        self._readers = readers
        self._channels: dict[Part, _Channel] = {}
        self._task: asyncio.Task[None] | None = None
        self._streams = 0

    @contextlib.contextmanager
    def stream(self, parts: Mapping[Part, Make]) -> Iterator[Stream]:
        """Give a stream of the messages of some parts while the context lasts.

        parts -- each with a function that returns its HTML, in a thread

        Raises TooSlow if there are too many streams.
        """
        if self._streams >= MOST_STREAMS:
            raise TooSlow("too many live pages are open: reload this one to see what is new")
        stream = Stream()
        self._streams += 1
        for part, make in parts.items():
            self._join(part, make, stream)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        try:
            yield stream
        finally:
            self._streams -= 1
            for part in parts:
                self._leave(part, stream)

    def _join(self, part: Part, make: Make, stream: Stream) -> None:
        channel = self._channels.setdefault(part, _Channel(make))
        channel.streams.add(stream)
        if channel.message:
            stream.put(part.path, channel.message)

    def _leave(self, part: Part, stream: Stream) -> None:
        channel = self._channels[part]
        channel.streams.remove(stream)
        if not channel.streams:
            del self._channels[part]

    async def _follow(self) -> None:
        while self._channels:
            used = 0.0
            for part, channel in tuple(self._channels.items()):
                with contextlib.suppress(
                    TaskqueueError
                ):  # it may work at the next look; a reload says why not
                    used += await self._look(part, channel)
            await asyncio.sleep(max(_DELAY, used / _PART))

    async def _look(self, part: Part, channel: _Channel) -> float:
        """Make a part, and pass it on if it has changed; return the seconds of processor time it took."""

        def make(record: "Record") -> tuple[str, float]:
            begun = time.thread_time()
            return channel.make(View(record, part.rights)), time.thread_time() - begun

        html, used = await self._readers.read(make)
        message = message_of(html, part.name)
        if message != channel.message:
            channel.message = message
            for stream in channel.streams:
                stream.put(part.path, message)
        return float(used)

    def close(self) -> None:
        """End all streams."""
        if self._task is not None:
            self._task.cancel()
        for channel in self._channels.values():
            for stream in channel.streams:
                stream.end()

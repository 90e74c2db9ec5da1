"""The event loop of a process with a broker connection: sockets, timers and signals in one thread."""

import logging
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec

from pika.adapters.select_connection import IOLoop

if TYPE_CHECKING:
    from _typeshed import HasFileno

_P = ParamSpec("_P")
_log = logging.getLogger(__name__)


class _Rounds(IOLoop):  # type: ignore[misc]
    """pika's loop with callbacks at the end of each round."""

    def __init__(self, call: Callable[[Callable[[], Any]], None]) -> None:
        self._call = call
        self._at_end: list[Callable[[], Any]] = []
        super().__init__()

    def at_end(self, callback: Callable[[], Any]) -> None:
        self._at_end.append(callback)

    def process_timeouts(self) -> None:
        """Run the due timers, then the callbacks for the round's end."""
        super().process_timeouts()
        self.end_round()

    def end_round(self) -> None:
        while self._at_end:  # a callback may add another one
            callbacks, self._at_end = self._at_end, []
            for callback in callbacks:
                self._call(callback)


class EventLoop:
    """pika's loop with every callback guarded.

    An exception in a callback is a bug of ours. pika would take it for a lost connection, or skip other
    timers of the same round. Here it ends `run`, which raises it.
    """

    def __init__(self) -> None:
        self.ioloop = _Rounds(self._call)
        self.is_stopped = False
        self._error: Exception | None = None  # of a callback
        self._failure: Exception | None = None  # of `fail`

    def run(self) -> None:
        """Serve until `stop`; raise the exception of a callback, or that of `fail`."""
        self.ioloop.activate_poller()
        self.ioloop.end_round()
        while not self.is_stopped:
            self.ioloop.poll()
            self.ioloop.process_timeouts()
        self.is_stopped = False
        self.ioloop.deactivate_poller()
        if error := self._error or self._failure:
            raise error

    def stop(self) -> None:
        """Make `run` return after the callbacks of this round."""
        self.is_stopped = True

    def fail(self, error: Exception) -> None:
        """Stop, and make `run` raise the error; only the first error counts."""
        self._failure = self._failure or error
        self.stop()

    def close(self) -> None:
        """Release the loop's file descriptors, after `run`."""
        self.ioloop.close()

    def guard(self, callback: Callable[_P, Any]) -> Callable[_P, None]:
        """Return a callback for pika that passes its exception to `run`."""
        return partial(self._call, callback)

    def _call(self, callback: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        if self._error is not None:
            return
        try:
            callback(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 -- raised by `run`
            self._error = error
            self.stop()

    def at_round_end(self, callback: Callable[[], Any]) -> None:
        """Call back once at the end of this round, after all ready sockets and timers."""
        self.ioloop.at_end(callback)

    def call_later(self, delay: float, callback: Callable[[], Any]) -> object:
        """Call back after `delay` seconds; return a handle for `cancel`."""
        return self.ioloop.call_later(delay, self.guard(callback))

    def cancel(self, timer: object) -> None:
        """Cancel a timer of `call_later` that has not fired."""
        self.ioloop.remove_timeout(timer)

    def watch(
        self, file: "HasFileno", on_readable: Callable[[], Any], on_writable: Callable[[], Any] | None = None
    ) -> None:
        """Call back whenever the file is readable and, with `on_writable`, whenever it is writable."""

        def handle(_fd: int, events: int) -> None:
            if on_writable is not None and events & IOLoop.WRITE:
                on_writable()
            if events & (IOLoop.READ | IOLoop.ERROR):
                on_readable()

        events = IOLoop.READ | (IOLoop.WRITE if on_writable else 0)
        self.ioloop.add_handler(file.fileno(), self.guard(handle), events)

    def unwatch(self, file: "HasFileno") -> None:
        """Stop watching a file; it must still be open."""
        self.ioloop.remove_handler(file.fileno())


class ActionQueue:
    """Takes actions from any thread; it wakes the loop that watches it, which performs them in order."""

    def __init__(self) -> None:
        self._actions: deque[Callable[[], None]] = deque()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __len__(self) -> int:
        """Return the number of waiting actions."""
        return len(self._actions)

    def fileno(self) -> int:
        """Return the file descriptor, for the event loop."""
        return self._descriptor

    def put(self, action: Callable[[], None]) -> None:
        """Append an action; any thread may call this."""
        self._actions.append(action)
        os.eventfd_write(self._descriptor, 1)

    def run_all(self) -> None:
        """Perform the waiting actions when the file descriptor is readable."""
        os.eventfd_read(self._descriptor)
        self.empty()

    def empty(self) -> None:
        """Perform the waiting actions now."""
        while True:
            try:
                action = self._actions.popleft()
            except IndexError:
                return
            action()

    def close(self) -> None:
        """Close the file descriptor, once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """Close the file descriptor when no reference to the queue is left."""
        self.close()

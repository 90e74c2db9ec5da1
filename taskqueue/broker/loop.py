"""The event loop of a process that talks to the broker: sockets, timers and signals in one thread."""

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec

from pika.adapters.select_connection import IOLoop

if TYPE_CHECKING:
    from _typeshed import HasFileno

_P = ParamSpec("_P")
_log = logging.getLogger(__name__)


class _Rounds(IOLoop):  # type: ignore[misc]
    """pika's loop, which calls back when all that was ready has been handled."""

    def __init__(self, call: Callable[[Callable[[], Any]], None]) -> None:
        self._call = call
        self._at_end: list[Callable[[], Any]] = []
        super().__init__()

    def at_end(self, callback: Callable[[], Any]) -> None:
        self._at_end.append(callback)

    def process_timeouts(self) -> None:
        """Do what is asked for after each round."""
        super().process_timeouts()
        self.end_round()

    def end_round(self) -> None:
        while self._at_end:  # what is written by one of them is sent by another
            callbacks, self._at_end = self._at_end, []
            for callback in callbacks:
                self._call(callback)


class EventLoop:
    """pika's loop with every callback guarded.

    An exception in a callback is a bug of ours: pika would take it for a lost connection, or leave
    timers of the same round uncalled. Here it ends `run`, which raises it.
    """

    def __init__(self) -> None:
        """Make a loop that watches nothing yet."""
        self.ioloop = _Rounds(self._call)
        self.is_stopped = False
        self._error: Exception | None = None

    def run(self) -> None:
        """Serve until `stop`; raise what a callback raised."""
        self.ioloop.activate_poller()
        self.ioloop.end_round()
        while not self.is_stopped:
            self.ioloop.poll()
            self.ioloop.process_timeouts()
        self.is_stopped = False
        self.ioloop.deactivate_poller()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Make `run` return after the callbacks of this round."""
        self.is_stopped = True

    def close(self) -> None:
        """Release what the loop holds, after `run`."""
        self.ioloop.close()

    def guard(self, callback: Callable[_P, Any]) -> Callable[_P, None]:
        """Return the callback in a form that may be given to pika."""
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
        """Call back once, when all that is ready in this round has been handled."""
        self.ioloop.at_end(callback)

    def call_later(self, delay: float, callback: Callable[[], Any]) -> object:
        """Call back after `delay` seconds; return a handle for `cancel`."""
        return self.ioloop.call_later(delay, self.guard(callback))

    def cancel(self, timer: object) -> None:
        """Forget a timer that `call_later` returned and that has not fired."""
        self.ioloop.remove_timeout(timer)

    def watch(
        self, file: "HasFileno", on_readable: Callable[[], Any], on_writable: Callable[[], Any] | None = None
    ) -> None:
        """Call back whenever the file can be read, and, if `on_writable` is given, written."""

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

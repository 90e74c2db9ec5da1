"""A test as a script on an event loop."""

from collections.abc import Callable, Generator, Iterator

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session
from taskqueue.config import AmqpSettings

TIMEOUT = 30.0  # seconds until a script that waits in vain is given up
POLL_DELAY = 0.01

Script = Generator[Callable[[], object], None, None] | Iterator[Callable[[], object]]


class Scripted:
    """An owner of a session. Its script, a generator, yields a condition for each next step."""

    def __init__(self, url: str) -> None:
        """Open nothing yet."""
        self.loop = EventLoop()
        self.session = Session(self.loop, AmqpSettings.from_url(url), "test", on_error=lambda _error: None)
        self._is_over = False

    def perform(self, script: Script, begins: Callable[[], object], what: Callable[[], object]) -> None:
        """Open the session, perform the script once `begins` is true, and close it.

        what -- returns something to show where a condition is never met
        """
        self.session.open()
        self.loop.call_later(TIMEOUT, self.loop.stop)
        self._go_on(script, begins)
        self.loop.run()
        self.loop.close()
        assert self._is_over, f"a condition of the script was not met: {what()}"

    def _go_on(self, script: Script, condition: Callable[[], object]) -> None:
        if not condition():
            self.loop.call_later(POLL_DELAY, lambda: self._go_on(script, condition))
            return
        following = next(script, None)
        if following is not None:
            self._go_on(script, following)
        else:
            self._is_over = True
            self.session.close(self.loop.stop)

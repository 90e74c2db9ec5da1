"""Reads for a screen again and again, in a thread: keys are answered also while a monitor is slow."""

import threading
from collections.abc import Callable
from typing import Final

from taskqueue.cli.screens.screen import Screen, Seen, Want
from taskqueue.errors import TaskqueueError
from taskqueue.monitor.client import Reader

_NOTHING: Final = Want()


class Looking:
    """A thread that reads for the screen that is looked at; it ends with its process."""

    def __init__(self, reader: Reader, screen: Screen, on_seen: Callable[[], None]) -> None:
        """Prepare to read for a screen.

        on_seen -- called in the thread after each look
        """
        self.error = ""  # why the last look failed
        self.seen: dict[Screen, Seen] = {}  # what was read last, by screen
        self._reader = reader
        self._wanted = screen, _NOTHING
        self._on_seen = on_seen
        self._changed = threading.Event()
        self._began = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="looking", daemon=True)

    def begin(self) -> None:
        """Begin; return after the first look. Raises its error."""
        self._thread.start()
        self._began.wait()
        self.check()

    def check(self) -> None:
        """Raise what has ended the thread."""
        if self._failure is not None:
            raise self._failure

    def want(self, screen: Screen, want: Want) -> None:
        """Read this from now on; at once, if it is something else than before."""
        if (screen, want) != self._wanted:
            self._wanted = screen, want
            self._changed.set()

    def _run(self) -> None:
        try:
            while True:
                self._changed.clear()
                screen, want = self._wanted
                self._look(screen, want)
                self._on_seen()
                self._changed.wait(screen.delay)
        except BaseException as error:  # noqa: BLE001 -- the last line of the thread; the other one raises it
            self._failure = error
            self._began.set()
            self._on_seen()

    def _look(self, screen: Screen, want: Want) -> None:
        try:
            self.seen[screen] = screen.read(self._reader, want)
            self.error = ""
        except TaskqueueError as error:
            if not self._began.is_set():
                raise
            self.error = str(error)
        self._began.set()

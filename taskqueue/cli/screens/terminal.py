"""The terminal while a command draws on it: keys one by one, signals noted, all put back at the end."""

import contextlib
import os
import re
import select
import signal
import socket
import sys
import termios
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from taskqueue.process import startup

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_NOTED: Final = (*_ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
_REST_DELAY: Final = 0.05  # seconds in which the rest of a key's characters comes, over a slow line
_MOST: Final = 4096  # bytes of keys read at a time

#: The names of keys by what terminals send for them (xterm's control sequences; terminfo kcuu1 and the like).
_NAMES: Final = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down",
    "\x1b[C": "right", "\x1bOC": "right", "\x1b[D": "left", "\x1bOD": "left",
    "\x1b[5~": "page up", "\x1b[6~": "page down", "\x1b[Z": "back tab",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home",
    "\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end",
    "\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace", "\x1b": "escape",
}  # fmt: skip
_KEY: Final = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O.)|.", re.DOTALL)


class Terminal:
    """The terminal of this process, in the other screen of it, while the context lasts."""

    def __init__(self) -> None:
        self.ended_by: int | None = None  # the signal that ends the command
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._descriptor = sys.stdin.fileno()
        self._modes: list[Any] = []  # before ours
        self._handlers: dict[signal.Signals, Any] = {}  # before ours
        self._woken, self._waking = socket.socketpair()
        self._wakeup = -1
        self._typed = ""

    @staticmethod
    def is_fit() -> bool:
        """Whether this process has a terminal that can be drawn on."""
        is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        return is_terminal and not Console().is_dumb_terminal

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in cells."""
        with contextlib.suppress(OSError):
            width, height = os.get_terminal_size(sys.stdout.fileno())
            if width and height:
                return width, height
        return 80, 24  # as of a serial line, which knows no size

    def wake(self) -> None:
        """Have `keys` return; any thread may call this."""
        with contextlib.suppress(OSError):  # it is full, so it wakes, or it is closed
            self._waking.send(b"\0")

    # --- in and out ---

    def __enter__(self) -> Self:
        """Note signals, take keys one by one, and show the other screen."""
        self._woken.setblocking(False)
        self._waking.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        for number in _NOTED:
            if signal.getsignal(number) != signal.SIG_IGN:  # as of nohup(1)
                self._handlers[number] = signal.signal(number, _note)
        try:
            self._take()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back."""
        self._give_back()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _take(self) -> None:
        self._modes = termios.tcgetattr(self._descriptor)
        ours = termios.tcgetattr(self._descriptor)
        ours[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        ours[6][termios.VMIN], ours[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, ours)
        live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()
        self._live = live  # only now: what has not begun cannot stop

    def _give_back(self) -> None:
        """Put the terminal back; a terminal that is gone needs nothing."""
        live, self._live = self._live, None
        if live is not None:
            try:
                live.stop()
            except OSError:
                self._lose()
        if self._modes:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._modes)

    def draw(self, shown: Sequence[Text]) -> None:
        """Draw the lines of a screen."""
        if self._live is None:
            return
        for line in shown:
            line.plain = self._encodable(line.plain)
            line.no_wrap, line.overflow = True, "crop"
        self._console.size = self.size
        try:
            self._live.update(Group(*shown), refresh=True)
        except OSError:
            self._lose()

    def _encodable(self, text: str) -> str:
        """Return a text that the terminal's encoding has; of the same length."""
        encoding = self._console.encoding
        return text.encode(encoding, "replace").decode(encoding)

    # --- keys and signals ---

    def keys(self, timeout: float) -> list[str]:
        """Wait for keys, a signal or `wake`; return the keys, as characters or names.

        timeout -- seconds
        """
        ready, _, _ = select.select([self._descriptor, self._woken], [], [], timeout)
        if self._woken in ready:
            self._act()
        if self._descriptor not in ready:
            return []
        self._read()
        if self._typed.endswith("\x1b") and select.select([self._descriptor], [], [], _REST_DELAY)[0]:
            self._read()
        typed, self._typed = self._typed, ""
        found = [_NAMES.get(each, each) for each in _KEY.findall(typed)]
        return [each for each in found if not each.startswith("\x1b")]

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _MOST)
        except OSError:
            data = b""
        if not data:
            self._lose()
        self._typed += data.decode("utf-8", "replace")

    def _act(self) -> None:
        """Act on the signals that were noted."""
        with contextlib.suppress(BlockingIOError):
            for number in self._woken.recv(_MOST):
                if number in _ENDING:
                    self.ended_by = number
                elif number == signal.SIGTSTP:
                    self._suspend()
                elif number == signal.SIGCONT and self.ended_by is None:
                    self._give_back()
                    self._take_again()

    def _suspend(self) -> None:
        """Stop this process, as Ctrl-Z asks, with the terminal put back meanwhile."""
        self._give_back()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._take_again()

    def _take_again(self) -> None:
        try:
            self._take()
        except (OSError, termios.error):
            self._lose()

    def _lose(self) -> None:
        """End the command, as the signal does that comes soon, if it is not blocked: the terminal is gone."""
        if self.ended_by is None:
            self.ended_by = signal.SIGHUP
        startup.give_up(sys.stdout)  # what is left of a frame


def _note(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the signal's number stands in the wakeup file."""

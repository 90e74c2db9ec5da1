"""A command on a terminal of its own, and what that shows."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

_HOME = "\x1b[H"  # where a frame begins
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\)|[()].|[=>])")
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"  # the cursor
OTHER_SCREEN, USUAL_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


class Screen:
    """A command in a session of its own, with the terminal as the controlling one."""

    def __init__(
        self, command: Sequence[str], env: dict[str, str], width: int = 80, height: int = 24
    ) -> None:
        self._terminal, self.other = pty.openpty()
        self.resize(width, height, is_told=False)
        self.modes = self.current_modes()
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment |= {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | env
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=self.other, stdout=self.other, stderr=self.other, env=environment,
        )  # fmt: skip
        self.output = ""  # all of it
        self._mark = 0

    def current_modes(self) -> list[Any]:
        """Return the terminal's modes."""
        return termios.tcgetattr(self.other)

    def resize(self, width: int, height: int, *, is_told: bool = True) -> None:
        """Give the terminal another size, which the kernel tells the command (SIGWINCH)."""
        self._height = height
        fcntl.ioctl(self.other, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        if is_told:
            self._mark = len(self.output)

    def lines(self) -> list[str]:
        """Return the lines of the last whole frame since the last key, without styles."""
        frames = self.output[self._mark :].split(_HOME)
        for text in reversed(frames):
            lines = _SEQUENCE.sub("", text).replace("\r", "").split("\n")
            if len(lines) == self._height:
                return lines
        return []

    def text(self) -> str:
        """Return the last frame as a text."""
        return "\n".join(self.lines())

    def wait_until(self, holds: Callable[["Screen"], object], timeout: float = 30) -> None:
        """Wait until a condition of this screen holds."""
        deadline = time.monotonic() + timeout
        while not holds(self):
            assert time.monotonic() < deadline, (
                f"not in time on the screen:\n{self.text()}\n{self.output[-2000:]!r}"
            )
            self._read()

    def _read(self) -> None:
        if select.select([self._terminal], [], [], 0.1)[0]:
            try:
                self.output += os.read(self._terminal, 65_536).decode("utf-8", "replace")
            except OSError:  # the other side is closed
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.1)

    def wait_for(self, word: str, timeout: float = 30) -> None:
        """Wait until the screen has a word."""
        self.wait_until(lambda screen: word in screen.text(), timeout)

    def press(self, keys: bytes) -> None:
        """Press keys; frames before are forgotten."""
        self._mark = len(self.output)
        os.write(self._terminal, keys)

    def show(self, keys: bytes, *words: str) -> str:
        """Press keys, wait for words, and return the frame that has all of them."""
        self.press(keys)
        self.wait_until(lambda screen: all(word in screen.text() for word in words))
        return self.text()

    def end(self, timeout: float = 20) -> int:
        """Wait for the command's end, read the rest, and return its status."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text()}"
            self._read()
        while select.select([self._terminal], [], [], 0.0)[0]:
            self._read()
        return self.process.returncode

    def close(self) -> None:
        """Kill the command, and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)
        os.close(self.other)

"""The token of the monitor of `taskqueue up`, and its port: kept, so that bookmarks and programs work on."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from taskqueue.errors import ConfigError
from taskqueue.monitor.web.users import new_secret

_LINES: Final = re.compile(r"(tq_[A-Za-z0-9_-]{43})\n(\S{0,500})\n")
_LONGEST: Final = 1024  # characters of the file


@dataclass(frozen=True, slots=True)
class OwnToken:
    """The lines of a file that only its owner can read: the token, and the URL at which it was valid last."""

    path: Path
    secret: str
    url: str = ""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the kept token, or a new one, which is written. Raises ConfigError."""
        try:
            kept = cls._read(path)
            if kept is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                kept = cls(path, new_secret()).written()
        except OSError as error:
            raise ConfigError([f"the monitor's token {path}: {error.strerror}"]) from None
        return kept

    @classmethod
    def _read(cls, path: Path) -> Self | None:
        """Return what is kept; None for nothing, and for a file that others can read or that is damaged."""
        try:
            with path.open(encoding="ascii", errors="replace") as file:
                state = os.fstat(file.fileno())
                found = _LINES.fullmatch(file.read(_LONGEST))
        except FileNotFoundError:
            return None
        is_private = state.st_uid == os.geteuid() and not state.st_mode & 0o077
        return cls(path, found[1], found[2]) if found and is_private else None

    @property
    def port(self) -> int:
        """The kept port; 0 for none."""
        try:
            return urlsplit(self.url).port or 0
        except ValueError:
            return 0

    def at(self, url: str) -> Self:
        """Return the token with a URL, which is written. Raises OSError."""
        return type(self)(self.path, self.secret, url).written()

    def written(self) -> Self:
        """Write the file, at once or not at all. Raises OSError."""
        new = self.path.with_name(f"{self.path.name}.new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)  # it may be left from before, with another mode
            file.write(f"{self.secret}\n{self.url}\n")
        new.replace(self.path)
        return self

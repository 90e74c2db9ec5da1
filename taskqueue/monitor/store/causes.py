"""The causes of crashes, as they are counted."""

import re
import signal
from typing import Final

#: An event's words for a worker's end (`process.children.Exit.cause`), maybe with a text around it.
_CAUSE: Final = re.compile(
    r"\b(?:killed by (SIG[A-Z0-9]+)|killed by (signal [0-9]{1,2})|(exit status [0-9]{1,3}))\b"
)
_SIGNALS: Final = frozenset(signal.Signals.__members__)
_OTHER: Final = "other"


def crash_cause(error: str) -> str:
    """Return the cause of a crash by its text: the signal, as SIGSEGV, the exit status, or "other"."""
    found = _CAUSE.search(error)
    if found is None:
        return _OTHER
    name, *others = found.groups()
    if name is not None:
        return name if name in _SIGNALS else _OTHER
    return next(other for other in others if other is not None)

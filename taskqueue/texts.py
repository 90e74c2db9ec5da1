"""Text of others: made fit for a terminal, where control characters are shown, and cut to a length."""

import re
from typing import Final

# Characters that end a line, move a terminal's cursor, turn the reading direction or cannot be encoded.
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINES: Final = re.compile(rf"(?![\t\n]){_UNSAFE.pattern}")


def one_line(text: str) -> str:
    r"""Return text as one line, control characters as ``\n``, ``\x1b`` and the like."""
    return _UNSAFE.sub(_shown, text)


def lines(text: str) -> str:
    """Return text with its line ends and tabs, and all other control characters as `one_line` shows them."""
    return _UNSAFE_IN_LINES.sub(_shown, text)


def is_safe(text: str) -> bool:
    """Tell whether a terminal shows a text of several lines as it is."""
    return _UNSAFE_IN_LINES.search(text) is None


def _shown(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]


#: Characters of a message or traceback that travel.
TEXT_LIMIT: Final = 16_384


def shorten(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return a text of at most `limit` characters, its end kept where it is cut."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"

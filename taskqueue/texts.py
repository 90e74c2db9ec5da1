"""Foreign text: control characters escaped for a terminal, and shortened to a length."""

import re
from typing import Final

# Characters that end a line, move a terminal's cursor, change the text direction or cannot be encoded.
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINES: Final = re.compile(rf"(?![\t\n]){_UNSAFE.pattern}")


def one_line(text: str) -> str:
    r"""Return text as one line, with control characters escaped as ``\n``, ``\x1b`` and the like."""
    return _UNSAFE.sub(_shown, text)


def lines(text: str) -> str:
    """Return text with its line ends and tabs, and with all other control characters escaped."""
    return _UNSAFE_IN_LINES.sub(_shown, text)


def is_safe(text: str) -> bool:
    """Return whether a text, of one or several lines, has no characters that `lines` escapes."""
    return _UNSAFE_IN_LINES.search(text) is None


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun; `many` is the plural, if that is not `one` with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _shown(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]


#: Maximum number of characters of an error message or traceback in a message.
TEXT_LIMIT: Final = 16_384


def shorten(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return a text of at most `limit` characters; the middle of a longer text is left out."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"

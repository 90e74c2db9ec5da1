"""The option `command`: a program and its arguments, with placeholders for fields of the workitem."""

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

from taskqueue.config.checks import Refused, refuse

_EXPECTED: Final = "the absolute path of a program and its arguments, as /usr/bin/convert - -resize {width} -"
#: A doubled brace, a placeholder, or a brace that belongs to none.
_PIECE: Final = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_-]{0,99})\}|[{}]")
_UNUSABLE: Final = re.compile("[\0\ud800-\udfff]")
_LONGEST: Final = 131_071  # bytes of an argument (execve(2), MAX_ARG_STRLEN)
_SHELLS: Final = frozenset(("ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "sh", "zsh"))


class BadBrace(ValueError):
    """A brace in an argument is neither doubled nor part of a placeholder."""


class BadField(ValueError):
    """A field of a workitem cannot be an argument; the text says which one and why."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a command: literal text, with a placeholder between each two pieces of it.

    Args:
        literals: one more than there are fields.
        fields: the names in the placeholders.
        may_be_option: whether a value that begins the argument may begin with "-".
    """

    literals: tuple[str, ...]
    fields: tuple[str, ...]
    may_be_option: bool

    @classmethod
    def parse(cls, word: str, *, may_be_option: bool) -> Self:
        """Parse a word of the option `command`. Raises BadBrace for a brace of no placeholder."""
        literals, fields, end = [""], [], 0
        for found in _PIECE.finditer(word):
            literals[-1] += word[end : found.start()]
            end = found.end()
            if found[1]:
                fields.append(found[1])
                literals.append("")
            elif len(found[0]) == 2:
                literals[-1] += found[0][0]
            else:
                raise BadBrace
        literals[-1] += word[end:]
        return cls(tuple(literals), tuple(fields), may_be_option)

    def fill(self, values: Mapping[str, Any]) -> bytes:
        """Return the argument with the values of its fields. Raises BadField if a value cannot be one."""
        filled = self.literals[0]
        for name, literal in zip(self.fields, self.literals[1:], strict=True):
            filled += _written(name, values) + literal
        if self.fields and not self.literals[0] and filled.startswith("-") and not self.may_be_option:
            raise BadField(
                f"field {self.fields[0]!r} would make an option of its argument: it begins with '-', and no "
                f"argument '--' is before it in the command"
            )
        encoded = filled.encode()
        if self.fields and len(encoded) > _LONGEST:
            size = len(encoded)
            raise BadField(f"field {self.fields[0]!r} makes an argument of {size} bytes; at most {_LONGEST}")
        return encoded


def _written(name: str, values: Mapping[str, Any]) -> str:
    if name not in values:
        raise BadField(f"field {name!r} is missing; expected text or a number")
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadField(f"field {name!r}: expected text or a number, found {_kind(value)}")
    if isinstance(value, str) and _UNUSABLE.search(value):
        raise BadField(f"field {name!r}: expected text without null characters and lone surrogates")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadField(f"field {name!r}: expected a finite number")
    return str(value)


def _kind(value: object) -> str:
    kinds = {bool: "true or false", list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def arguments(words: Iterable[str]) -> tuple[Argument, ...]:
    """Parse the words of a command after its program. Raises BadBrace for a brace of no placeholder."""
    parsed: list[Argument] = []
    for word in words:
        is_behind = any(each.literals == ("--",) for each in parsed)
        parsed.append(Argument.parse(word, may_be_option=is_behind))
    return tuple(parsed)


def command(value: str) -> tuple[str, ...]:
    """Take a program and its arguments, divided as a shell divides words, and run without one."""
    try:
        words = shlex.split(value)
        parsed = arguments(words)
    except BadBrace:
        refuse("a command whose braces are placeholders, as {width}, or doubled, as {{", value)
    except ValueError:  # an open quote, or a backslash at the end
        refuse("a command whose quotes are closed", value)
    if not words or not words[0].startswith("/") or "\0" in value or parsed[0].fields:
        refuse(_EXPECTED, value)
    if words[0].rpartition("/")[2] in _SHELLS:
        _check_script(parsed)
    return tuple(words)


def _check_script(parsed: tuple[Argument, ...]) -> None:
    """Refuse a placeholder in a script for a shell, which would run a value as commands."""
    for option, script in pairwise(parsed):
        is_script = re.fullmatch(r"-[A-Za-z]*c", option.literals[0]) and not option.fields
        if is_script and script.fields:
            name = script.fields[0]
            raise Refused(
                f"placeholders behind a shell's script, as sh -c 'echo \"$1\"' sh {{{name}}}",
                f"{{{name}}} in the script, which would run its value",
            )

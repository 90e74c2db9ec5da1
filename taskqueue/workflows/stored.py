"""References to results that a store keeps, as they stand in JSON in the place of these results."""

import re
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from taskqueue.workflows.wire import encode_json

_KEY: Final = "$stored"
_NUMBER: Final = r"(0|[1-9][0-9]{0,14})"
#: A reference as `encode` writes it. In JSON text it matches no part of a string, where quotes are escaped.
_PATTERN: Final = (
    rf'{{"\{_KEY}":{{"name":"([0-9a-f]{{32}})","sha256":"([0-9a-f]{{64}})","size":{_NUMBER}'
    rf'(?:,"count":{_NUMBER})?(?:,"element":{_NUMBER})?}}}}'
)
REFERENCE: Final = re.compile(_PATTERN.encode())
_TEXT: Final = re.compile(_PATTERN)


@dataclass(frozen=True, slots=True)
class Stored:
    """A reference to a result in a store.

    Args:
        name: under which the store keeps it: random, so that nobody reads what he was not given.
        sha256: the digest of its bytes, hexadecimal.
        size: their number.
        count: number of elements of a result that is a list; None for any other one.
        element: the number of the element that is meant; None for the whole.
    """

    name: str
    sha256: str
    size: int
    count: int | None = None
    element: int | None = None

    def encode(self) -> str:
        """Return the reference as JSON text."""
        members = {key: value for key, value in asdict(self).items() if value is not None}
        return encode_json({_KEY: members})

    @classmethod
    def of_match(cls, match: "re.Match[Any]") -> Self:
        """Return the reference that REFERENCE has found."""
        name, digest, *numbers = match.groups()
        size, count, element = (None if each is None else int(each) for each in numbers)
        if isinstance(name, bytes):
            name, digest = name.decode(), digest.decode()
        return cls(name, digest, size or 0, count, element)

    @classmethod
    def of_text(cls, text: str) -> Self | None:
        """Return the reference that a JSON text is; None if it is any other value."""
        match = _TEXT.fullmatch(text)
        return cls.of_match(match) if match else None


def stored_in(value: Any) -> Stored | None:
    """Return the first reference in a value of JSON; None if there is none."""
    match = _TEXT.search(encode_json(value))
    return Stored.of_match(match) if match else None

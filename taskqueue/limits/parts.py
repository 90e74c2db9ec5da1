"""Parts of the gate's state and of its changes, each of which fits into a message.

RabbitMQ 4 refuses messages of more than 16 MiB by default (max_message_size in
https://www.rabbitmq.com/docs/configure).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Bytes of a part, unless one item has more: a consumer, a permit, a change, or some starts of a key.
LARGEST_PART: Final = 4 * 1024 * 1024
_MOST_STARTS: Final = 10_000  # in an item


def chunks(items: Iterable[T], largest: int = LARGEST_PART) -> Iterator[list[T]]:
    """Divide items, as JSON has them, into lists of at most `largest` bytes; yield at least one list."""
    chunk: list[T] = []
    size = 0
    for item in items:
        needed = len(json.dumps(item)) + 2
        if chunk and size + needed > largest:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += needed
    yield chunk


def parts_of(state: Mapping[str, Any], largest: int = LARGEST_PART) -> Iterator[dict[str, Any]]:
    """Divide what `Occupancy.snapshot` has returned into states that are parts of it."""
    for chunk in chunks(_items(state), largest):
        part = merged(())
        for name, item in chunk:
            if name == "consumers":
                part[name][item[0]] = item[1]
            else:
                part[name].append(item)
        yield part


def merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the state of which these are the parts."""
    whole: dict[str, Any] = {"consumers": {}, "permits": [], "starts": []}
    for part in parts:
        whole["consumers"].update(part["consumers"])
        whole["permits"] += part["permits"]
        whole["starts"] += part["starts"]
    return whole


def _items(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, identity in state["consumers"].items():
        yield "consumers", (name, identity)
    for permit in state["permits"]:
        yield "permits", permit
    for key, starts in state["starts"]:
        for first in range(0, len(starts), _MOST_STARTS):
            yield "starts", [key, starts[first : first + _MOST_STARTS]]

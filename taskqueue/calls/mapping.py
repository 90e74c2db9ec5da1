"""One task for many arguments: calls in a window, values in their order."""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final, Self, TypeVar

from taskqueue.calls.call import Call
from taskqueue.calls.caller import Caller

R = TypeVar("R")

_WINDOW: Final = 1000  # calls that are out at a time


class Results(Iterator[R], AsyncIterator[R]):
    """The values of many calls of one task, in their order, with a window of calls that are out."""

    def __init__(self, client: Caller, name: str, arguments: Iterable[Any]) -> None:
        self._client = client
        self._name = name
        self._arguments = iter(arguments)
        self._calls: deque[Call[R]] = deque()

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> R:
        call = self._next()
        if call is None:
            raise StopIteration
        return call.result()

    async def __anext__(self) -> R:
        call = self._next()
        if call is None:
            raise StopAsyncIteration
        return await call

    def _next(self) -> Call[R] | None:
        """Send what the window has room for; return the call whose turn it is."""
        while len(self._calls) < _WINDOW:
            try:
                given = next(self._arguments)
            except StopIteration:
                break
            self._calls.append(self._client.submit_call(self._name, *_arguments(given)))
        return self._calls.popleft() if self._calls else None


def _arguments(given: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(given, Mapping):
        return (), given
    return (tuple(given) if isinstance(given, tuple | list) else (given,)), {}

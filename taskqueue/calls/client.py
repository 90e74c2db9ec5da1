"""Client and AsyncClient: calling tasks by name, as if they were here."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from taskqueue.calls.call import Call, lock_timeout
from taskqueue.calls.caller import BROKER_TIMEOUT, Caller, Results
from taskqueue.calls.named import NamedEngine
from taskqueue.calls.task import Task
from taskqueue.errors import UnknownCall

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds that a named client's results wait for it while it is away: a week.
EXPIRES: Final = 7 * 24 * 3600.0


class Client(Caller):
    """Calls tasks and waits for what they return: `Client().add(5, 6)`.

    Any thread may use it. The connection is made at the first call, again after it was lost, and anew in a
    process that was forked. A signal's handler may end a call by an exception, and may make another; it must
    not wait for a thread that does.
    """

    @overload
    def call(self, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, task: str, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any: ...
    def call(self, task: Task[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Call a task and return its value.

        Args:
            task: its name, or the task itself.
            args: its arguments, by position
            kwargs: or its arguments, by name; beside the name of a task, `timeout` says for how many seconds
                to wait for the value, by default for ever.

        Raises:
            TypeError: JSON cannot express the arguments, or some are by position and some by name.
            CallError: as `Call.result` raises it, when the call has no value.
            BrokerUnavailable, BrokerRefused: the call could not be sent, or its reply cannot come.
        """
        timeout = kwargs.pop("timeout", None) if isinstance(task, str) else None
        return self._ask(*_named(task, args, kwargs), timeout)

    def map(self, task: Task[..., R] | str, arguments: Iterable[Any]) -> Iterator[R]:
        """Call a task for each of the arguments; yield the values in the same order, as they come.

        At most 1,000 calls are out at a time, and no more arguments are taken. A tuple or list is arguments
        by position, a dict arguments by name, all else the only argument. Raises what `call` raises.
        """
        return iter(Results(self, _name(task), arguments))

    def map_reduce(
        self,
        items: Iterable[Any],
        *,
        map: Task[..., Any] | str,  # noqa: A002 -- the word for it
        reduce: Task[..., R] | str,
    ) -> R:
        """Call one task for each item, and another for the list of what that returned; return its value."""
        values: list[Any] = list(Results(self, _name(map), ([item] for item in items)))
        return cast("R", self.submit_call(_name(reduce), (values,), {}).result())

    def invoke(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a task and return its value."""
        return self._ask(name, args, kwargs, None)

    def _ask(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float | None) -> Any:
        """Send a call and wait for its value, at most `timeout` seconds; who does not get it, forgets it."""
        line, call, body = self._new_call(name, args, kwargs)
        try:
            line.call(call, body, lock_timeout(timeout))
            return call.outcome(timeout)
        finally:
            if not call.done():
                call.forget()


class AsyncClient(Caller):
    """Calls tasks and returns at once, with the call: `AsyncClient().add(5, 6)`.

    The call tells its status, its progress and its result, and can be awaited. Any thread may use the client.
    """

    notify = True

    def __init__(
        self,
        amqp: str | None = None,
        *,
        name: str | None = None,
        expires: float = EXPIRES,
        config: str | None = None,
        direct: bool = False,
        broker_timeout: float = BROKER_TIMEOUT,
    ) -> None:
        """Prepare; the first call connects.

        Args:
            amqp: the broker's URL; by default found as the commands find it.
            name: under which its calls and their results are kept, for whoever comes back under it.
            expires: seconds that they are kept without a client of that name.
            config: the configuration file to look into; by default the system's.
            direct: whether calls go straight to the queues of their tasks, without a dispatcher.
            broker_timeout: seconds after which a call fails that the broker has not confirmed.
        """
        super().__init__(amqp, config=config, direct=direct, broker_timeout=broker_timeout)
        if name is not None:
            settings = self._amqp
            self._make = lambda: NamedEngine(
                settings, name=name, expires=expires, direct=direct, broker_timeout=broker_timeout
            )

    @overload
    def submit(self, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def submit(self, task: str, *args: Any, **kwargs: Any) -> Call[Any]: ...
    def submit(self, task: Task[Any, Any] | str, *args: Any, **kwargs: Any) -> Call[Any]:
        """Call a task; return the call at once. Arguments and exceptions are as of `Client.call`."""
        return self.submit_call(*_named(task, args, kwargs))

    def get(self, id_: str) -> Call[Any]:
        """Return a call of this client, or of an earlier one of its name, by its id.

        Raises:
            UnknownCall: no such call was submitted, or its result was fetched or has expired.
            BrokerUnavailable: what the broker keeps under the client's name cannot be read.
        """
        call = self._open().find(id_)
        if call is None:
            raise UnknownCall(f"no call {id_!r} was submitted, or its result was fetched or has expired")
        return call

    def map(self, task: Task[..., R] | str, arguments: Iterable[Any]) -> "Results[R]":
        """Call a task for each of the arguments; iterate, by `for` or `async for`, over the values.

        They come in the order of the arguments. At most 1,000 calls are out at a time, and no more arguments
        are taken. A tuple or list is arguments by position, a dict arguments by name, all else the only one.
        """
        return Results(self, _name(task), arguments)

    def map_reduce(
        self,
        items: Iterable[Any],
        *,
        map: Task[..., Any] | str,  # noqa: A002 -- the word for it
        reduce: Task[..., R] | str,
    ) -> Call[R]:
        """Call one task for each item, wait for what it returns, and call another with the list of that."""
        values: list[Any] = list(Results(self, _name(map), ([item] for item in items)))
        return self.submit_call(_name(reduce), (values,), {})

    def invoke(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a task and return the call."""
        return self.submit_call(name, args, kwargs)


def _name(task: Task[..., Any] | str) -> str:
    return task.name if isinstance(task, Task) else task


def _named(
    task: Task[..., Any] | str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, tuple[Any, ...], Mapping[str, Any]]:
    """Return a task's name and the arguments; JSON-RPC has them all by position or all by name."""
    if isinstance(task, Task) and args and kwargs:
        return task.name, (), task.by_name(args, kwargs)
    return _name(task), args, kwargs


_default: AsyncClient | None = None
_default_lock = threading.Lock()


def default_client() -> AsyncClient:
    """Return the client that tasks are called by which are called without one."""
    global _default  # noqa: PLW0603 -- one a process is what a default is
    with _default_lock:
        if _default is None:
            _default = AsyncClient()
        return _default

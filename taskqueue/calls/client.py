"""Client and AsyncClient: calls of remote tasks by name, as of local functions."""

import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, Self, TypeVar, Unpack, cast, overload

from taskqueue import address
from taskqueue.calls import message
from taskqueue.calls.call import Call, CallOwner, lock_timeout
from taskqueue.calls.chaining import chained
from taskqueue.calls.engine import Engine
from taskqueue.calls.named import NamedEngine
from taskqueue.calls.task import Task
from taskqueue.errors import UnknownCall
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.options import NONE, Asked, Options
from taskqueue.workflows.canvas import Chain
from taskqueue.workflows.definition import Workflow

if TYPE_CHECKING:
    from taskqueue.calls.found import FoundCall
    from taskqueue.calls.run import AsyncRun, Run

P = ParamSpec("P")
R = TypeVar("R")
Called = Task[..., Any] | str | Chain


#: The options of a client beside those of calls.
_OTHERS: Final = ("amqp", "config", "direct", "broker_timeout")
_WINDOW: Final = 1000  # calls ahead of the value last taken


#: Seconds after which an unconfirmed call fails.
BROKER_TIMEOUT: Final = 10.0

#: Seconds that the results of a disconnected named client are kept: a week.
EXPIRES: Final = 7 * 24 * 3600.0


class CallSender(CallOwner, Protocol):
    """Sends a client's calls: the engine, or the bench of a test."""

    @property
    def is_over(self) -> bool:
        """Whether it accepts no more calls."""

    def send(self, call: Call[Any], body: bytes, options: Options, *, notify: bool) -> None:
        """Send a call."""

    def call(self, call: Call[Any], body: bytes, options: Options, timeout: float | None) -> None:
        """Send a call and wait until it is done, at most `timeout` seconds."""

    def find(self, id_: str) -> Call[Any] | None:
        """Return a call by its id, of this process or an earlier one; None if there is none."""

    def submit_many(self, worker_type: str, workitems: Iterable[Any], options: Options) -> int:
        """Submit workitems; return their number."""

    def close(self) -> None:
        """Send unsent calls, and close the connection."""


class Remote:
    """A task by name: `client.add`, `client.images.thumbnail`. Calling it calls the task."""

    def __init__(self, client: "Caller", name: str) -> None:
        """Name a task; its existence is checked only by a call."""
        self._client = client
        self._name = name

    def __getattr__(self, name: str) -> "Remote":
        """Return the task whose name is continued after a dot."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(self._client, f"{self._name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task; return its value with a Client, its call with an AsyncClient."""
        return self._client.invoke(self._name, args, kwargs)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<remote task {self._name}>"


class Caller:
    """The base of both clients: tasks as attributes, and one connection to the broker for each process."""

    notify = False  # whether its calls ask for notices
    _config: str | None = None  # the path of the configuration file
    _options: Options = NONE  # of its calls
    _origin: Self | None = None  # the client whose connection it uses; None if it has its own

    def __init__(
        self,
        amqp: str | None = None,
        *,
        config: str | None = None,
        direct: bool = False,
        broker_timeout: float = BROKER_TIMEOUT,
        **options: Unpack[Asked],
    ) -> None:
        """Prepare; the first call connects. Raises ValueError for an option that is out of its range.

        Args:
            amqp: the broker's URL; by default found as the commands find it.
            config: the path of the configuration file; by default the system's.
            direct: whether calls go straight to the queues of their tasks, without a dispatcher.
            broker_timeout: seconds after which an unconfirmed call fails.
            options: of all its calls, see the method `options`.
        """
        self._config = address.config_path(config)
        self._amqp = settings = address.find_address(amqp, self._config)
        self._make: Callable[[], Engine] = lambda: Engine(
            settings, direct=direct, broker_timeout=broker_timeout
        )
        self._options = Options.checked(beside=_OTHERS, **options)
        self._lock = threading.RLock()  # reentrant: a signal handler may call, too
        self._line: CallSender | None = None
        self._ending: weakref.finalize[..., Any] | None = None
        _clients.add(self)

    @classmethod
    def over(cls, line: CallSender) -> Self:
        """Return a client whose calls go over an existing sender, such as the bench of a test."""
        client = cls.__new__(cls)
        client._lock, client._line, client._ending = threading.RLock(), line, None  # noqa: SLF001 -- of this class
        return client

    def options(self, **options: Unpack[Asked]) -> Self:
        """Return a client for calls with these options: `client.options(priority=9).add(5, 6)`.

        It uses this client's connection. An option that is not given is that of this client, else that of
        the task.

        Args:
            options: those of `Options` (`taskqueue/messages/options.py`).

        Raises:
            ValueError: an option is out of its range.
            TypeError: there is no such option.
        """
        asked = Options.checked(**options)
        other = type(self).__new__(type(self))
        other._config, other._origin = self._config, self._origin or self  # noqa: SLF001 -- of this class
        other._options = asked.over(self._options)  # noqa: SLF001 -- of this class
        return other

    def __getattr__(self, name: str) -> Remote:
        """Return a task by name."""
        if name.startswith("_"):
            raise AttributeError(name)
        return Remote(self, name)

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """Send unsent calls and close the connection, within seconds; a later call opens a new one.

        Pending calls fail with BrokerUnavailable; those of a named client can be found again.
        """
        if self._origin is not None:
            self._origin.close()
            return
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.close()

    def submit_many(self, worker_type: str, workitems: Iterable[Any]) -> int:
        """Submit workitems without results; return their number once the broker has confirmed them all.

        Args:
            worker_type: a worker type or task; a task takes a list as its arguments, a dict as named ones.
            workitems: JSON values, str, or bytes; drawn one by one, as the broker confirms them.

        Raises:
            BrokerUnavailable: no connection, or it was lost; workitems confirmed before that stay submitted.
            BrokerRefused: wrong user, password or virtual host, or a message that the broker refuses.
        """
        return self._open().submit_many(worker_type, workitems, self._options)

    def map(self, task: Task[..., R] | str, arguments: Iterable[Any]) -> "Results[R]":
        """Call a task for each of the arguments; iterate, by `for` or `async for`, over the values.

        The values come in the order of the arguments. At most 1,000 calls are ahead of the value last taken;
        no more arguments are drawn. A tuple or list gives arguments by position, a dict arguments by name,
        any other value the only argument. Taking a value raises as `Call.result` does.
        """
        return Results(self, task, arguments)

    # --- making calls ---

    def invoke(self, task: Called, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a task in the way of this kind of client."""
        raise NotImplementedError

    def submit_call(self, task: Called, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call[Any]:
        """Make a call and send it."""
        line, call, body, options = self._new_call(task, args, kwargs)
        line.send(call, body, options, notify=self.notify)
        return call

    def _new_call(
        self, task: Called, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[CallSender, Call[Any], bytes, Options]:
        """Return the sender, a new call, the body of its request, and its options."""
        line, id_, options = self._open(), new_id(), self._options
        if isinstance(task, Chain):
            return line, *chained(line, task, id_, self, options)
        if isinstance(task, Task):
            options = options.over(task.options_of(args, kwargs))
            args, kwargs = ((), task.by_name(args, kwargs)) if args and kwargs else (args, kwargs)
        name = _name(task)
        return line, Call(line, id_, name, self), message.request_body(name, args, kwargs, id_), options

    def _open(self) -> CallSender:
        if self._origin is not None:
            return self._origin._open()  # noqa: SLF001 -- of this class
        with self._lock:
            line = self._line
            if line is not None and not line.is_over:
                return line
            engine = self._make()
            try:
                engine.start()
                ending = weakref.finalize(self, engine.close)  # also at exit
            except BaseException:  # raised by a signal handler: nothing else would close the engine
                engine.close_soon()
                raise
            if self._line is not None and self._line is not line:
                ending.detach()  # a signal handler has opened one meanwhile
                engine.close_soon()
                return self._line
            if self._ending is not None:
                self._ending.detach()
            self._line, self._ending = engine, ending
            return engine

    def forked(self) -> None:
        """Abandon the engine in a forked child, which lacks its thread: the next call opens another."""
        line, self._line, self._lock = self._line, None, threading.RLock()
        if self._ending is not None:
            self._ending.detach()
        if isinstance(line, Engine):
            line.abandon()


_clients: Final["weakref.WeakSet[Caller]"] = weakref.WeakSet()


def _after_fork() -> None:
    for client in tuple(_clients):
        client.forked()


os.register_at_fork(after_in_child=_after_fork)


class Results(Iterator[R], AsyncIterator[R]):
    """The values of many calls of one task, in order, with a window of calls that are sent ahead."""

    def __init__(self, client: Caller, task: Task[..., R] | str, arguments: Iterable[Any]) -> None:
        self._client = client
        self._task = task
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
        """Send calls while the window has room; return the oldest pending call, None at the end."""
        while len(self._calls) < _WINDOW:
            try:
                given = next(self._arguments)
            except StopIteration:
                break
            self._calls.append(self._client.submit_call(self._task, *_arguments(given)))
        return self._calls.popleft() if self._calls else None


def _arguments(given: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(given, Mapping):
        return (), given
    return (tuple(given) if isinstance(given, tuple | list) else (given,)), {}


class Client(Caller):
    """Calls tasks and waits for their values: `Client().add(5, 6)`.

    Any thread may use it. The first call opens the connection; a lost connection is opened again, and a
    forked process opens its own. A signal handler may end a call by an exception, and may make another call;
    it must not wait for a thread that makes one.
    """

    @overload
    def call(self, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, task: Chain, *, timeout: float | None = None) -> Any: ...
    @overload
    def call(self, task: str, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any: ...
    def call(self, task: Called, *args: Any, **kwargs: Any) -> Any:
        """Call a task and return its value.

        Args:
            task: its name, the task itself, or a chain, whose value is that of its last step.
            args: its arguments, by position.
            kwargs: its arguments, by name. With a task's name or a chain, `timeout` is the maximum time to
                wait for the value, in seconds; by default there is no limit.

        Raises:
            TypeError: JSON cannot express the arguments, or some are by position and some by name.
            CallError: the call has no value; as `Call.result` raises it.
            BrokerUnavailable, BrokerRefused: the call could not be sent, or its reply cannot come.
        """
        timeout = kwargs.pop("timeout", None) if isinstance(task, str | Chain) else None
        return self.invoke(task, args, kwargs, timeout)

    def start(self, flow: Workflow) -> "Run":
        """Start a workflow; return its run once it is kept (docs/workflows.md).

        Raises BadWorkflow for a workflow with faults, NoFlow if no flow process answers, BrokerUnavailable
        and BrokerRefused.
        """
        from taskqueue.calls import run  # noqa: PLC0415 -- few clients start workflows

        return run.start(self, flow, self._options)

    def map_reduce(
        self,
        items: Iterable[Any],
        *,
        map: Task[..., Any] | str,  # noqa: A002 -- the word for it
        reduce: Task[..., R] | str,
    ) -> R:
        """Call one task for each item, and another with the list of the values; return its value."""
        values: list[Any] = list(Results(self, map, ([item] for item in items)))
        return cast("R", self.submit_call(reduce, (values,), {}).result())

    def invoke(
        self,
        task: Called,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
    ) -> Any:
        """Call a task and wait for its value, at most `timeout` seconds; on timeout the call is abandoned."""
        line, call, body, options = self._new_call(task, args, kwargs)
        try:
            line.call(call, body, options, lock_timeout(timeout))
            return call.outcome(timeout)
        finally:
            if not call.done():
                call.forget()


class AsyncClient(Caller):
    """Calls tasks and returns the call at once: `AsyncClient().add(5, 6)`.

    The call has a status, a progress and a result, and can be awaited. Any thread may use the client.
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
        **options: Unpack[Asked],
    ) -> None:
        """Prepare; the first call connects. Raises ValueError for an option that is out of its range.

        Args:
            amqp: the broker's URL; by default found as the commands find it.
            name: a name under which its calls and their results are kept for a later client of this name.
            expires: seconds that they are kept while no client of this name is connected.
            config: the path of the configuration file; by default the system's.
            direct: whether calls go straight to the queues of their tasks, without a dispatcher.
            broker_timeout: seconds after which an unconfirmed call fails.
            options: of all its calls, see the method `options`.
        """
        super().__init__(
            amqp,
            config=config,
            direct=direct,
            broker_timeout=broker_timeout,
            **options,
        )
        if name is not None:
            settings = self._amqp
            self._make = lambda: NamedEngine(
                settings, name=name, expires=expires, direct=direct, broker_timeout=broker_timeout
            )

    @overload
    def submit(self, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def submit(self, task: str | Chain, *args: Any, **kwargs: Any) -> Call[Any]: ...
    def submit(self, task: Called, *args: Any, **kwargs: Any) -> Call[Any]:
        """Call a task; return the call at once. Arguments and exceptions are those of `Client.call`."""
        return self.submit_call(task, args, kwargs)

    def start(self, flow: Workflow) -> "AsyncRun":
        """Start a workflow; return its run, which can be awaited. Raises as `Client.start` does."""
        from taskqueue.calls import run  # noqa: PLC0415 -- few clients start workflows

        return run.start_soon(self, flow, self._options)

    def get(self, id_: str) -> Call[Any]:
        """Return a call of this client, or of an earlier client of its name, by its id.

        Raises:
            UnknownCall: no such call was submitted, or its result was fetched or has expired.
            BrokerUnavailable: the calls that the broker keeps under the client's name cannot be read.
        """
        call = self._open().find(id_)
        if call is None:
            raise UnknownCall(f"no call {id_!r} was submitted, or its result was fetched or has expired")
        return call

    def find(
        self,
        id_: str,
        *,
        monitor: str | None = None,
        token_file: str | None = None,
        ca_file: str | None = None,
    ) -> "FoundCall":
        """Return any call or other workitem, whoever submitted it, from the monitor's record.

        Args:
            id_: its id.
            monitor: the URL of the monitor's web process; by default the variable TASKQUEUE_MONITOR. Without
                it and a token, the record's directory is read.
            token_file: the file with the token for it; by default the variable TASKQUEUE_MONITOR_TOKEN.
            ca_file: the file with the certificates to trust (PEM); by default the system's.

        Raises:
            ConfigError: the URL is none, or one of the files cannot be read.
            UnknownCall: the record has no such workitem.
            NoMonitor: no monitor runs, or it cannot be reached.
            NotAllowed: the monitor refuses the token, or you may not read the record.
        """
        from taskqueue.calls import found  # noqa: PLC0415 -- the record takes long to import
        from taskqueue.monitor.client import Access  # noqa: PLC0415 -- the same

        return found.FoundCall(found.reader(self._config, Access(monitor, token_file, ca_file)), id_)

    def map_reduce(
        self,
        items: Iterable[Any],
        *,
        map: Task[..., Any] | str,  # noqa: A002 -- the word for it
        reduce: Task[..., R] | str,
    ) -> Call[R]:
        """Call one task for each item, wait for the values, and call another with their list."""
        values: list[Any] = list(Results(self, map, ([item] for item in items)))
        return self.submit_call(reduce, (values,), {})

    def invoke(self, task: Called, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a task and return the call."""
        return self.submit_call(task, args, kwargs)


def _name(task: Task[..., Any] | str) -> str:
    return task.name if isinstance(task, Task) else task


_default: AsyncClient | None = None
_default_lock = threading.Lock()


def default_client() -> AsyncClient:
    """Return the client for tasks that are called without a client, such as by `Task.call`."""
    global _default  # noqa: PLW0603 -- one default client for each process
    with _default_lock:
        if _default is None:
            _default = AsyncClient()
        return _default

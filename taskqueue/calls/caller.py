"""What both clients are: tasks as attributes, and one line to the broker for each process."""

import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol, Self, TypeVar

from taskqueue import address
from taskqueue.calls import message
from taskqueue.calls.call import Call, CallOwner
from taskqueue.calls.engine import Engine
from taskqueue.messages.forwarding import new_id

R = TypeVar("R")


_WINDOW: Final = 1000  # calls that are out at a time


#: Seconds after which a call fails that the broker has not confirmed.
BROKER_TIMEOUT: Final = 10.0


class CallSender(CallOwner, Protocol):
    """What sends a client's calls: the engine, or a test's bench."""

    @property
    def is_over(self) -> bool:
        """Whether it takes no more calls."""

    def send(self, call: Call[Any], body: bytes, *, notify: bool) -> None:
        """Send a call."""

    def call(self, call: Call[Any], body: bytes, timeout: float | None) -> None:
        """Send a call and return when it is done, or after `timeout` seconds."""

    def find(self, id_: str) -> Call[Any] | None:
        """Return a call that was made, before this process too; None where there is none."""

    def submit_many(self, worker_type: str, workitems: Iterable[Any]) -> int:
        """Submit workitems; return how many."""

    def close(self) -> None:
        """Send what is not sent yet, and let go."""


class Remote:
    """A task by name: `client.add`, `client.images.thumbnail`. To call it is to call the task."""

    def __init__(self, client: "Caller", name: str) -> None:
        """Name a task; whether there is one shows when it is called."""
        self._client = client
        self._name = name

    def __getattr__(self, name: str) -> "Remote":
        """Return the task whose name goes on after a dot."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(self._client, f"{self._name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task: by a Client return its value, by an AsyncClient its call."""
        return self._client.invoke(self._name, args, kwargs)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<remote task {self._name}>"


class Caller:
    """What both clients are: tasks as attributes, and one line to the broker a process."""

    notify = False  # whether its calls are told what happens on the way

    def __init__(
        self,
        amqp: str | None = None,
        *,
        config: str | None = None,
        direct: bool = False,
        broker_timeout: float = BROKER_TIMEOUT,
    ) -> None:
        """Prepare; the first call connects.

        Args:
            amqp: the broker's URL; by default found as the commands find it.
            config: the configuration file to look into; by default the system's.
            direct: whether calls go straight to the queues of their tasks, without a dispatcher.
            broker_timeout: seconds after which a call fails that the broker has not confirmed.
        """
        settings = address.find_address(amqp, address.config_path(config))
        self._begin(lambda: Engine(settings, direct=direct, broker_timeout=broker_timeout))
        self._amqp = settings

    def _begin(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._lock = threading.RLock()  # a signal's handler may call, too
        self._line: CallSender | None = None
        self._ending: weakref.finalize[..., Any] | None = None
        _clients.add(self)

    @classmethod
    def over(cls, line: CallSender) -> Self:
        """Return a client whose calls go over a line that is there already, as that of a test's bench."""
        client = cls.__new__(cls)
        client._take(line)  # noqa: SLF001 -- it is one of us
        return client

    def _take(self, line: CallSender) -> None:
        self._lock, self._line, self._ending = threading.RLock(), line, None

    def __getattr__(self, name: str) -> Remote:
        """Return a task by name."""
        if name.startswith("_"):
            raise AttributeError(name)
        return Remote(self, name)

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Send what is not sent yet and close the connection, within seconds; a later call opens another.

        Calls that are still out fail with BrokerUnavailable; those of a named client can be found again.
        """
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.close()

    def submit_many(self, worker_type: str, workitems: Iterable[Any]) -> int:
        """Submit workitems that nobody waits for; return how many, when the broker has confirmed them all.

        Args:
            worker_type: a worker type or task; a task takes a list as its arguments, a dict as named ones.
            workitems: what JSON can express, str, or bytes; taken one by one, as the broker confirms them.

        Raises:
            BrokerUnavailable: no connection, or it was lost; what was confirmed until then stays submitted.
            BrokerRefused: wrong user, password or virtual host, or a message the broker does not take.
        """
        return self._open().submit_many(worker_type, workitems)

    # --- making calls ---

    def invoke(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a task as this kind of client does it."""
        raise NotImplementedError

    def submit_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call[Any]:
        """Make a call and send it."""
        line, call, body = self._new_call(name, args, kwargs)
        line.send(call, body, notify=self.notify)
        return call

    def _new_call(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[CallSender, Call[Any], bytes]:
        """Return a call that is to be sent, over which line, and its request."""
        line, id_ = self._open(), new_id()
        return line, Call(line, id_, name, self), message.request_body(name, args, kwargs, id_)

    def _open(self) -> CallSender:
        with self._lock:
            line = self._line
            if line is not None and not line.is_over:
                return line
            engine = self._make()
            try:
                engine.start()
                ending = weakref.finalize(self, engine.close)  # also at exit
            except BaseException:  # of a signal's handler, after which nobody else would close it
                engine.close_soon()
                raise
            if self._line is not None and self._line is not line:
                ending.detach()  # a signal's handler has opened one meanwhile
                engine.close_soon()
                return self._line
            if self._ending is not None:
                self._ending.detach()
            self._line, self._ending = engine, ending
            return engine

    def forked(self) -> None:
        """Let go of the line in a child process, where its thread is not: the next call opens another."""
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

"""`@task`: a function that can also be called from elsewhere."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, ParamSpec, TypeVar, overload

from taskqueue.calls.call import Call
from taskqueue.errors import LONGEST_DELAY, BadArguments, TaskError, Unroutable
from taskqueue.messages.routing import checked_type
from taskqueue.worker.frames import MOST_RETRIES

P = ParamSpec("P")
R = TypeVar("R")

_AT_PLACE: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANY_NUMBER: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

#: Every task of this process, by module and name in it: a module that is loaded anew defines it anew.
_tasks: Final[dict[tuple[str, str], "Task[..., Any]"]] = {}


class Task(Generic[P, R]):
    """A function under a name by which it is called from elsewhere; called here, it is the function itself.

    `call` and `submit` have the function's own signature, also for a type checker.
    """

    def __init__(
        self, function: Callable[P, R], name: str, timeout: float | None, retries: int | None
    ) -> None:
        """Make a task of a function; use `@task`."""
        self.function = function
        self.name = name
        self.timeout = timeout  # seconds; None: as the workers' group has it
        self.retries = retries
        self.signature = inspect.signature(function)
        self._by_position = _numbers_by_position(self.signature)
        self.module = function.__module__
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        """Show the name and where the function is."""
        return f"<task {self.name} of {self.module}>"

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Have the function called by a worker; wait for what it returns.

        Raises what `Client.call` raises.
        """
        return self.submit(*args, **kwargs).result()

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Have the function called by a worker; return the call."""
        from taskqueue.calls.client import default_client  # noqa: PLC0415 -- brings pika in

        return default_client().submit(self, *args, **kwargs)

    def by_name(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return arguments, given by position or name, all by name; BadArguments where they do not fit."""
        bound = self.bind(args, kwargs).arguments
        named: dict[str, Any] = {}
        for name, value in bound.items():
            kind = self.signature.parameters[name].kind
            if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
                raise BadArguments(f"{self.name}{self.signature}: JSON-RPC has no {name} beside names")
            named |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        return named

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise BadArguments where arguments do not fit the signature."""
        if kwargs or len(args) not in self._by_position:
            self.bind(args, kwargs)

    def bind(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Fit arguments to the signature; BadArguments where they do not."""
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(f"{self.name}{self.signature}: {error}") from None


def _numbers_by_position(signature: inspect.Signature) -> range:
    """Return how many arguments surely fit that are all by position, which are nearly all calls."""
    parameters = signature.parameters.values()
    needed = [each for each in parameters if each.default is each.empty and each.kind not in _ANY_NUMBER]
    if any(each.kind is inspect.Parameter.KEYWORD_ONLY for each in needed):
        return range(0)
    return range(len(needed), sum(each.kind in _AT_PLACE for each in parameters) + 1)


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *, name: str | None = None, timeout: float | None = None, retries: int | None = None
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    retries: int | None = None,
) -> Any:
    """Make a task of a function: `@task`, or `@task(name="images.thumbnail", timeout=30, retries=2)`.

    Args:
        function: the function; it must be idempotent, as it may run twice after a crash.
        name: its name for callers, a worker type; by default the function's own.
        timeout: seconds a call may run, 0 for ever; by default what its workers' group says.
        retries: how often it is run again when it has raised; by default what its workers' group says.

    Raises:
        TaskError: the name cannot be a worker type, or a number is out of its range.
    """
    _check_numbers(timeout, retries)

    def make(function: Callable[..., Any]) -> Task[..., Any]:
        made = Task(function, _checked(name or function.__name__), timeout, retries)
        _tasks[made.module, made.__qualname__] = made
        return made

    return make if function is None else make(function)


def _checked(name: str) -> str:
    try:
        return checked_type(name)
    except Unroutable as error:
        raise TaskError(str(error).replace("worker type", "task", 1)) from None


def _check_numbers(timeout: Any, retries: Any) -> None:
    is_time = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_time and 0 <= timeout <= LONGEST_DELAY):
        raise TaskError(f"timeout={timeout!r:.80}: expected seconds, from 0 to {LONGEST_DELAY:.0f}")
    is_count = isinstance(retries, int) and not isinstance(retries, bool)
    if retries is not None and not (is_count and 0 <= retries <= MOST_RETRIES):
        raise TaskError(f"retries={retries!r:.80}: expected a whole number from 0 to {MOST_RETRIES}")


def tasks_of(module: str) -> list[Task[..., Any]]:
    """Return the tasks that a module defines, or for a package the modules in it, by name.

    Raises TaskError where two have the same name.
    """
    found: dict[str, Task[..., Any]] = {}
    for each in _tasks.values():
        if not f"{each.module}.".startswith(f"{module}."):
            continue
        known = found.setdefault(each.name, each)
        if known is not each:
            raise TaskError(
                f"two tasks are called {each.name!r}: one of {known.module}, one of {each.module}"
            )
    return [found[name] for name in sorted(found)]

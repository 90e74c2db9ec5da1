"""`@task`: a function that can also be called remotely."""

import copy
import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final, Generic, ParamSpec, TypeVar, Unpack, overload

from taskqueue.calls.call import Call
from taskqueue.errors import LONGEST_DELAY, BadArguments, BadSchedule, TaskError, Unroutable
from taskqueue.messages.options import NONE, Asked, AskedOfTask, Options
from taskqueue.messages.routing import checked_type
from taskqueue.schedules.definition import Definition
from taskqueue.worker.frames import MOST_RETRIES
from taskqueue.worker.scheduled import definition

P = ParamSpec("P")
R = TypeVar("R")

_AT_PLACE: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANY_NUMBER: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

#: The options of `task` beside those of calls.
_OTHERS: Final = ("name", "timeout", "retries", "cron", "every")
_LONGEST_PLAIN_KEY: Final = 150  # characters

#: Every task of this process, by module and qualified name: a reloaded module replaces its tasks.
_tasks: Final[dict[tuple[str, str], "Task[..., Any]"]] = {}


class Task(Generic[P, R]):
    """A function with a name for remote calls; called directly, it is the function itself.

    `call` and `submit` have the function's own signature, also for a type checker.
    """

    def __init__(
        self,
        function: Callable[P, R],
        name: str,
        timeout: float | None,
        retries: int | None,
        *,
        schedules: tuple[Definition, ...] = (),
        defaults: Options = NONE,
        unique_by: tuple[str, ...] | None = None,
    ) -> None:
        """Make a task from a function; `@task` does that."""
        self.function = function
        self.schedules = schedules
        self.defaults = defaults  # the options of its calls, unless a client has others
        self.unique_by = unique_by  # the arguments that make a call unique; () for all, None: none is
        self.name = name
        self.timeout = timeout  # seconds; None for the setting of the workers' group
        self.retries = retries
        self.signature = inspect.signature(function)
        self._by_position = _numbers_by_position(self.signature)
        self.module = function.__module__
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in this process."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        """Show the name and the function's module."""
        return f"<task {self.name} of {self.module}>"

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Have a worker call the function; wait for its value.

        Raises as `Client.call` does.
        """
        return self.submit(*args, **kwargs).result()

    def options(self, **options: Unpack[Asked]) -> "Task[P, R]":
        """Return the task for calls with these options: `add.options(priority=9).submit(5, 6)`.

        Arguments and exceptions are those of `Client.options`.
        """
        other = copy.copy(self)
        other.defaults = Options.checked(**options).over(self.defaults)
        return other

    def options_of(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Options:
        """Return the options of a call with these arguments, which may make its key."""
        if self.unique_by is None or self.defaults.unique:
            return self.defaults
        return replace(self.defaults, unique=self._key(args, kwargs))

    def _key(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> str:
        """Return the arguments by which calls are the same: as JSON, or a hash of it if it is long.

        Raises BadArguments if they do not fit, and TypeError if JSON cannot express them.
        """
        bound = self.bind(args, kwargs)
        bound.apply_defaults()
        chosen = {name: bound.arguments[name] for name in self.unique_by or bound.arguments}
        text = json.dumps(chosen, sort_keys=True)
        return text if len(text) <= _LONGEST_PLAIN_KEY else blake2b(text.encode(), digest_size=16).hexdigest()

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Have a worker call the function; return the call."""
        from taskqueue.calls.client import default_client  # noqa: PLC0415 -- brings pika in

        return default_client().submit(self, *args, **kwargs)

    def by_name(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return all arguments by name. Raises BadArguments if they do not fit."""
        bound = self.bind(args, kwargs).arguments
        named: dict[str, Any] = {}
        for name, value in bound.items():
            kind = self.signature.parameters[name].kind
            if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
                raise BadArguments(f"{self.name}{self.signature}: JSON-RPC has no {name} beside names")
            named |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        return named

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise BadArguments if the arguments do not fit the signature."""
        if kwargs or len(args) not in self._by_position:
            self.bind(args, kwargs)

    def bind(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Bind the arguments to the signature. Raises BadArguments if they do not fit."""
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(f"{self.name}{self.signature}: {error}") from None


def _numbers_by_position(signature: inspect.Signature) -> range:
    """Return the numbers of arguments that surely fit if all are by position, as in most calls."""
    parameters = signature.parameters.values()
    needed = [each for each in parameters if each.default is each.empty and each.kind not in _ANY_NUMBER]
    if any(each.kind is inspect.Parameter.KEYWORD_ONLY for each in needed):
        return range(0)
    return range(len(needed), sum(each.kind in _AT_PLACE for each in parameters) + 1)


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    cron: str | None = None,
    every: float | None = None,
    unique: bool | Iterable[str] = False,
    **options: Unpack[AskedOfTask],
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    cron: str | None = None,
    every: float | None = None,
    unique: bool | Iterable[str] = False,
    **options: Unpack[AskedOfTask],
) -> Any:
    """Make a task from a function: `@task`, or `@task(name="images.thumbnail", timeout=30, retries=2)`.

    Args:
        function: the function; it must be idempotent, as it may run twice after a crash.
        name: its name for callers, a worker type; by default the function's own.
        timeout: seconds that a call may run, 0 for no limit; by default the setting of its workers' group.
        retries: maximum number of further runs after it raised; by default the setting of its workers' group.
        cron: when it is called without arguments: a cron expression in the time zone of the workers' host.
        every: seconds between two such calls, instead of `cron`; at least 1.
        unique: whether a call is not run while one with the same arguments is queued, runs or waits for a
            retry; or the names of the arguments that have to be the same.
        options: of calls of the task itself, as by `add.call` or `client.submit(add)`, unless the client has
            others; see `Client.options`.

    Raises:
        TaskError: the name cannot be a worker type, a number is out of its range, or `cron` has a fault.
    """
    _check_numbers(timeout, retries)
    try:
        defaults = Options.checked(beside=_OTHERS, **options)
    except ValueError as error:
        raise TaskError(str(error)) from None
    by = None if unique is False else () if unique is True else tuple(unique)

    def make(function: Callable[..., Any]) -> Task[..., Any]:
        known = checked_name(name or function.__name__, "task")
        schedules = _schedules(known, cron, every)
        made = Task(function, known, timeout, retries, schedules=schedules, defaults=defaults, unique_by=by)
        _check_arguments(made)
        _tasks[made.module, function.__qualname__] = made
        return made

    return make if function is None else make(function)


def _check_arguments(made: Task[..., Any]) -> None:
    if strange := [name for name in made.unique_by or () if name not in made.signature.parameters]:
        raise TaskError(f"unique={strange[0]!r:.80}: {made.name}{made.signature} has no such argument")
    if made.schedules:
        try:
            made.check((), {})
        except BadArguments as error:
            raise TaskError(f"{error}: a schedule calls it without arguments") from None


def _schedules(name: str, cron: str | None, every: float | None) -> tuple[Definition, ...]:
    """Return the schedule of a task, which has the task's name; none without `cron` and `every`."""
    if cron is None and every is None:
        return ()
    try:
        return (definition(name, {"name": name, "cron": cron or "", "every": every or 0.0, "body": []}),)
    except BadSchedule as error:
        raise TaskError(str(error)) from None


def checked_name(name: str, noun: str) -> str:
    """Return a name that queues can have; raise TaskError, which calls it a `noun`, for any other."""
    try:
        return checked_type(name, noun)
    except Unroutable as error:
        raise TaskError(str(error)) from None


def _check_numbers(timeout: Any, retries: Any) -> None:
    is_time = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_time and 0 <= timeout <= LONGEST_DELAY):
        raise TaskError(f"timeout={timeout!r:.80}: expected seconds, from 0 to {LONGEST_DELAY:.0f}")
    is_count = isinstance(retries, int) and not isinstance(retries, bool)
    if retries is not None and not (is_count and 0 <= retries <= MOST_RETRIES):
        raise TaskError(f"retries={retries!r:.80}: expected a whole number from 0 to {MOST_RETRIES}")


def tasks_of(module: str) -> list[Task[..., Any]]:
    """Return the tasks of a module, or of a package and its modules, sorted by name.

    Raises TaskError if two have the same name.
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

"""The user's code: `example`, `example.py` or `example:get_jobs`, and what it defines."""

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Self

from taskqueue.errors import TargetError, Unroutable
from taskqueue.messages.routing import checked_type

#: Default names of a target's two functions.
GET_JOBS: Final = "get_jobs"
HANDLE_JOB: Final = "handle_job"

#: Whether a target is being imported just now: a script that is one must not begin to serve itself.
is_loading = False

_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


@dataclass(frozen=True, slots=True)
class Target:
    """A function in a module."""

    module: str  # dotted
    function: str
    path: str | None  # the module's file, where that was given instead of a name
    directory: str  # where modules are looked for first

    @classmethod
    def parse(cls, text: str, function: str) -> Self:
        """Read a target as it is given; `function` is meant where it names none.

        Raises TargetError for what cannot be one.
        """
        place, _, name = text.partition(":")
        if place.endswith(".py") or "/" in place:
            path = Path(place).absolute()
            if not path.is_file():
                raise TargetError(f"target {text!r}: there is no file {place}")
            module = re.sub(r"\W|^(?=\d)", "_", path.stem)  # migrate-users.py is migrate_users, 2024.py _2024
            target = cls(module, name or function, str(path), str(path.parent))
        else:
            target = cls(place, name or function, None, current_directory())
        if not _MODULE.match(target.module) or not target.function.isidentifier():
            raise TargetError(
                f"target {text!r}: expected MODULE, FILE.py, MODULE:FUNCTION or FILE.py:FUNCTION"
            )
        return target

    def __str__(self) -> str:
        """Return the target as one may give it."""
        return f"{self.path or self.module}:{self.function}"

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function; TargetError, with its cause, where that fails."""
        function = getattr(self.load_module(), self.function, None)
        if not callable(function):
            found = "it is not there" if function is None else f"found a {type(function).__name__}"
            raise TargetError(f"target {self}: expected a function {self.function!r}, {found}")
        return function  # type: ignore[no-any-return]

    def load_module(self) -> ModuleType:
        """Import the module and return it; TargetError, with its cause, where that fails."""
        global is_loading  # noqa: PLW0603 -- one process loads one target
        if self.directory not in sys.path:
            sys.path.insert(0, self.directory)
        is_loading = True
        try:
            return self._import()
        except TargetError:
            raise
        except (Exception, SystemExit) as error:
            raise TargetError(f"target {self}: {type(error).__name__}: {error}") from error
        finally:
            is_loading = False

    def _import(self) -> ModuleType:
        if self.path is None:
            return importlib.import_module(self.module)
        known = sys.modules.get(self.module)
        if known is not None:
            if getattr(known, "__file__", None) != self.path:
                raise TargetError(
                    f"target {self}: a module {self.module!r} is in use already; rename the file"
                )
            return known
        spec = importlib.util.spec_from_file_location(self.module, self.path)
        if spec is None or spec.loader is None:
            raise TargetError(f"target {self}: no Python module")
        module = sys.modules[self.module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def current_directory() -> str:
    """Return the current directory, links and all; "/" where that was removed, or is closed to us."""
    try:
        directory = os.getcwd()  # noqa: PTH109 -- as it is
    except FileNotFoundError:
        return "/"
    return directory if os.access(directory, os.X_OK) else "/"


def worker_type(module: str) -> str:
    """Return the worker type of a feed of a module's jobs; TargetError for a name that cannot be one."""
    try:
        return checked_type(f"feed_{module}")
    except Unroutable as error:
        raise TargetError(f"{error}; choose another name by --type") from None


def receipts_queue(type_: str) -> str:
    """Return the name of the queue that the receipts for chunks of a worker type go to."""
    return f"receipts_{type_}"


def file_of(function: Callable[..., Any]) -> str:
    """Return the file of the module that a function was loaded from; "" where it has none."""
    return getattr(inspect.getmodule(function), "__file__", None) or ""


def takes_last(get_jobs: Callable[..., Any]) -> bool:
    """Tell whether a function can be told where to go on."""
    try:
        parameters = inspect.signature(get_jobs).parameters.values()
    except (TypeError, ValueError):
        return False
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(each.name == "last" and each.kind in named for each in parameters)


def call(get_jobs: Callable[..., Any], arguments: dict[str, Any]) -> Iterable[Any]:
    """Call a function for its jobs; TargetError where what it is given or what it returns does not fit."""
    try:
        inspect.signature(get_jobs).bind(**arguments)
    except ValueError:
        pass  # a builtin without a signature
    except TypeError as error:
        raise TargetError(
            f"{GET_JOBS} cannot be called with {', '.join(arguments) or 'nothing'}: {error}"
        ) from None
    jobs = get_jobs(**arguments)
    if not isinstance(jobs, Iterable):
        raise TargetError(f"{GET_JOBS} returned a {type(jobs).__name__}, expected something to iterate over")
    return jobs

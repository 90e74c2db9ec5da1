"""The worker that serves the tasks of a module or package."""

import asyncio
import importlib
import inspect
import json
import os
import pkgutil
import signal
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Self

from taskqueue import plugins
from taskqueue.calls.task import Task, tasks_of
from taskqueue.errors import InvalidRequest, PluginError, TaskTimeout, UnknownTask
from taskqueue.feed.target import HANDLE_JOB, Target, current_directory
from taskqueue.messages import jsonrpc
from taskqueue.messages.results import Failure
from taskqueue.plugins import OwnPlugin
from taskqueue.worker.base import BaseWorker
from taskqueue.worker.frames import MOST_SERVICES, Service

_CANCEL_TIMEOUT: Final = 1.0  # seconds
_FACTORY: Final = f"{__name__}:TaskWorker.of_target"


def plugin_for(target: str) -> OwnPlugin:
    """Return the plugin that serves the tasks of MODULE or FILE.py, relative to the current directory."""
    where = json.dumps([target, current_directory()])
    return OwnPlugin("tasks", _FACTORY, "taskqueue", "", where)


def load_tasks(module: ModuleType) -> list[Task[..., Any]]:
    """Return a module's tasks; for a package, all its modules are imported."""
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        if not found.name.endswith(".__main__"):
            importlib.import_module(found.name)
    return tasks_of(module.__name__)


class TaskWorker(BaseWorker):
    """Calls the task that a workitem names, with the arguments of the workitem."""

    def __init__(self, tasks: Iterable[Task[..., Any]]) -> None:
        """Serve these tasks. Raises PluginError if there are none or too many."""
        self._tasks = {each.name: each for each in tasks}
        self.services = tuple(
            Service(each.name, each.timeout, each.retries, each.schedules) for each in self._tasks.values()
        )
        self._runner: asyncio.Runner | None = None  # for tasks that are coroutine functions
        if not self._tasks:
            raise PluginError("no function with @task found")
        if len(self._tasks) > MOST_SERVICES:
            raise PluginError(f"{len(self._tasks)} tasks; a worker serves at most {MOST_SERVICES}")

    @classmethod
    def of_entry_point(cls, name: str) -> Self:
        """Serve the tasks of the module that an entry point under `taskqueue.tasks` names."""
        module = plugins.load(name, plugins.TASKS)
        if not isinstance(module, ModuleType):
            raise PluginError(
                f"{plugins.TASKS} {name!r} names a {type(module).__name__}, expected a module or package"
            )
        return cls(load_tasks(module))

    @classmethod
    def of_target(cls, where: str) -> Self:
        """Serve the tasks of the target and directory that `plugin_for` has written."""
        target, directory = json.loads(where)
        os.chdir(directory)
        return cls(load_tasks(Target.parse(target, HANDLE_JOB).load_module()))

    def handle_task(self, body: Any) -> Any:
        """Perform a JSON-RPC request or batch, or call the workitem's task with the body as its arguments."""
        if jsonrpc.is_batch(body):
            if len(body) > jsonrpc.MOST_REQUESTS:
                raise InvalidRequest(f"a batch has at most {jsonrpc.MOST_REQUESTS} requests")
            return jsonrpc.Batch([each for each in map(self._respond, body) if each is not None])
        if jsonrpc.is_request(body):
            return self._answer(body)
        return self._run(self._find(self.workitem.worker_type), jsonrpc.split(body) or ([body], {}))

    def teardown(self) -> None:
        """Close the event loop for coroutines, if there is one."""
        if self._runner is not None:
            self._runner.close()

    def _respond(self, request: Any) -> dict[str, Any] | None:
        """Return the response to one request of a batch, an error included; None for a notification."""
        if not jsonrpc.is_valid(request):
            return jsonrpc.invalid(request)
        try:
            response = jsonrpc.result(request, self._answer(request))
            jsonrpc.encode(response)
        except TaskTimeout:  # the timeout is for the whole batch
            raise
        except Exception as error:  # noqa: BLE001 -- the user's code may raise anything
            failure = Failure.of(error)
            data = {"type": failure.type, "traceback": failure.traceback}
            response = jsonrpc.error(
                jsonrpc.id_of(request), failure.code, failure.message or failure.type, data
            )
        return None if jsonrpc.is_notification(request) else response

    def _answer(self, request: Mapping[str, Any]) -> Any:
        arguments = jsonrpc.arguments(request)
        if arguments is None:
            raise InvalidRequest("params are neither a list nor an object")
        return self._run(self._find(request["method"]), arguments)

    def _find(self, name: Any) -> Task[..., Any]:
        found = self._tasks.get(name) if isinstance(name, str) else None
        if found is None:
            raise UnknownTask(f"no task {name!r}; these workers serve {', '.join(self._tasks)}")
        return found

    def _run(self, called: Task[..., Any], arguments: tuple[Sequence[Any], Mapping[str, Any]]) -> Any:
        args, kwargs = arguments
        called.check(args, kwargs)
        value = called.function(*args, **kwargs)
        if not inspect.iscoroutine(value):
            return value
        return self._wait_for(value)

    def _wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine and return its value; cancel it after its timeout.

        The alarm's exception may be raised anywhere on the event loop and be lost in another coroutine or a
        callback. Therefore the alarm is set a second later, for a coroutine that ignores its cancellation.
        """
        self._runner = self._runner or asyncio.Runner()
        left = signal.getitimer(signal.ITIMER_REAL)[0]
        if not left:
            return self._runner.run(coroutine)
        signal.setitimer(signal.ITIMER_REAL, left + _CANCEL_TIMEOUT)
        try:
            return self._runner.run(_in_time(coroutine, left))
        except TaskTimeout:
            self._end_coroutines()
            raise

    def _end_coroutines(self) -> None:
        """Cancel the other coroutines on the event loop and wait for their end, before the next call.

        Code that does not end, such as threads, ends with this process. The process is replaced in any case,
        because the user's code may be bound to the event loop.
        """
        self.is_spent = True
        runner, self._runner = self._runner, None
        signal.setitimer(signal.ITIMER_REAL, _CANCEL_TIMEOUT)  # raises TaskTimeout once more
        try:
            if runner is not None:
                runner.close()
        except TaskTimeout:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


async def _in_time(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await coroutine
    except TimeoutError:
        if limit.expired():
            raise TaskTimeout from None  # the worker's limits, which know the whole timeout, complete it
        raise

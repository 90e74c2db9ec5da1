"""A run of a workflow: what its steps have come to, and what it is told."""

import asyncio
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, Self, TypeVar, cast

from taskqueue.config import AmqpSettings
from taskqueue.errors import CallTimeout, TaskFailed, WorkflowFailed
from taskqueue.flow import client as flow
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.options import Options
from taskqueue.worker.passing import from_store
from taskqueue.worker.store import ResultStore
from taskqueue.workflows import wire
from taskqueue.workflows.definition import Extend, Step, TaskLike, Workflow

if TYPE_CHECKING:
    from taskqueue.calls.client import Caller

P = ParamSpec("P")
R = TypeVar("R")

_FIRST_DELAY: Final = 0.05  # seconds between two questions whether a workflow is over
_LONGEST_DELAY: Final = 1.0
_RUNNING: Final = "running"
_SUCCEEDED: Final = "succeeded"


class RunStatus(NamedTuple):
    """The state of a workflow, and of its steps.

    Args:
        state: running, succeeded, failed or cancelled.
        counts: the number of steps in each state.
    """

    state: str
    counts: Mapping[str, int]

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state != _RUNNING


class Run:
    """A workflow that was started, here or elsewhere. Any thread may use it.

    Its methods ask the flow process. They raise NoFlow if none answers, FlowRefused if it refuses, as for an
    unknown id, BrokerUnavailable and BrokerRefused.
    """

    def __init__(self, client: "Caller", id_: str) -> None:
        """Name a workflow by its id; the client may be any that uses the same broker."""
        self.id = id_
        self._amqp = broker_of(client)

    @classmethod
    def at(cls, amqp: AmqpSettings, id_: str) -> Self:
        """Name a workflow on a broker by its id."""
        run = cls.__new__(cls)
        run.id, run._amqp = id_, amqp  # noqa: SLF001 -- of this class
        return run

    def __repr__(self) -> str:
        """Show the id."""
        return f"<run of workflow {self.id}>"

    def status(self) -> RunStatus:
        """Return its state, and the number of steps in each state."""
        found = self._ask(wire.SHOW)
        return RunStatus(found["state"], found["steps"])

    def wait(self, timeout: float | None = None) -> RunStatus:
        """Wait until it is over, at most `timeout` seconds; return its status."""
        for pause in _pauses(timeout):
            if (status := self.status()).is_over:
                return status
            time.sleep(pause)
        return self.status()

    def result(
        self,
        step: Step | str | None = None,
        timeout: float | None = None,
        store: ResultStore | None = None,
    ) -> Any:
        """Wait until it is over, and return the result of a step.

        Args:
            step: the step or its name; by default the last one. If several steps are the last ones, the list
                of their results is returned.
            timeout: seconds to wait.
            store: the store of the workers, from which large results are read.

        Raises:
            CallTimeout: it is not over within `timeout` seconds; it continues.
            WorkflowFailed: it has failed or was cancelled, and no step was named.
            TaskFailed: the named step has not succeeded.
            StoreFailed: the result is in a store, and cannot be read there.
        """
        return self.result_after(self.wait(timeout), step, timeout, store)

    def result_after(
        self,
        status: RunStatus,
        step: Step | str | None,
        timeout: float | None,
        store: ResultStore | None = None,
    ) -> Any:
        """Return or raise what `result` does, with the status that waiting has come to."""
        if not status.is_over:
            raise CallTimeout(f"workflow {self.id} is not over within {timeout:g} s; it continues")
        if step is None and status.state != _SUCCEEDED:
            faults = [each for each in self.steps() if each.get("error")]
            first = f": step {faults[0]['step']}: {in_words(faults[0]['error'])}" if faults else ""
            raise WorkflowFailed(f"workflow {self.id} {status.state}{first}")
        name = step.name if isinstance(step, Step) else step
        found = self._ask(wire.RESULT, **({} if name is None else {"step": name}))
        if "result" in found:
            return from_store(found["result"], store)
        failure = found["failure"] or {"type": "", "message": f"the step is {found['state']}"}
        raise TaskFailed(failure["type"] or "Error", failure["message"])

    def steps(self) -> list[dict[str, Any]]:
        """Return all steps in their order: name, type, state, run, times, and the error of a failed one."""
        return list(flow.steps(self._amqp, self.id))

    def cancel(self) -> None:
        """Cancel what is queued and what runs; no other step is begun."""
        self._ask(wire.CANCEL)

    def retry_failed(self) -> int:
        """Run the steps again that have failed or were cancelled, and go on; return their number."""
        return int(self._ask(wire.RETRY)["again"])

    def add(self, task: TaskLike | str, *args: Any, **kwargs: Any) -> Step:
        """Add a step; arguments are those of `Workflow.add`. A workflow that has ended runs again.

        Raises FlowRefused for a cancelled one.
        """
        more = Extend()
        step = more.add(task, *args, **kwargs)
        self.extend(more)
        return step

    def extend(self, more: Extend) -> None:
        """Add steps. Raises BadWorkflow if they have faults, and else as `add` does."""
        self._ask(wire.EXTEND, steps=more.steps)

    def close(self) -> None:
        """Close a batch: nothing is added from outside any more, and it ends with its steps."""
        self._ask(wire.CLOSE)

    def _ask(self, action: str, **arguments: Any) -> dict[str, Any]:
        return flow.ask(self._amqp, action, self.id, **arguments)


class AsyncRun:
    """A workflow that was started, for asyncio: the methods are those of `Run`, as coroutines.

    Awaited itself, it waits until the workflow is started, and raises what that raises.
    """

    def __init__(self, run: Run, starting: "asyncio.Future[Any] | None" = None) -> None:
        """Take a run; `starting` is done once it is started."""
        self.id = run.id
        self._run, self._starting = run, starting

    def __repr__(self) -> str:
        """Show the id."""
        return repr(self._run)

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait until it is started; return it."""
        if self._starting is not None:
            yield from self._starting
        return self

    async def status(self) -> RunStatus:
        """Return its state, and the number of steps in each state."""
        return await self._do(self._run.status)

    async def wait(self, timeout: float | None = None) -> RunStatus:  # noqa: ASYNC109 -- as the other run has it
        """Wait until it is over, at most `timeout` seconds; return its status."""
        for pause in _pauses(timeout):
            if (status := await self.status()).is_over:
                return status
            await asyncio.sleep(pause)
        return await self.status()

    async def result(
        self,
        step: Step | str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        store: ResultStore | None = None,
    ) -> Any:
        """Wait until it is over, and return the result of a step; as `Run.result` does."""
        return await self._do(self._run.result_after, await self.wait(timeout), step, timeout, store)

    async def steps(self) -> list[dict[str, Any]]:
        """Return all steps, as `Run.steps` does."""
        return await self._do(self._run.steps)

    async def cancel(self) -> None:
        """Cancel what is queued and what runs."""
        await self._do(self._run.cancel)

    async def retry_failed(self) -> int:
        """Run the steps again that have failed or were cancelled, and go on; return their number."""
        return await self._do(self._run.retry_failed)

    async def add(self, task: TaskLike | str, *args: Any, **kwargs: Any) -> Step:
        """Add a step, as `Run.add` does."""
        return await self._do(self._run.add, task, *args, **kwargs)

    async def extend(self, more: Extend) -> None:
        """Add steps, as `Run.extend` does."""
        await self._do(self._run.extend, more)

    async def close(self) -> None:
        """Close a batch."""
        await self._do(self._run.close)

    async def _do(self, action: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Perform an action that waits for the broker in a thread, once the workflow is started."""
        await self
        return await asyncio.to_thread(action, *args, **kwargs)


def in_words(error: Mapping[str, str]) -> str:
    """Return the error of a step as one line."""
    return ": ".join(filter(None, (error["type"], error["message"])))


def start(client: "Caller", flow_: Workflow, options: Options) -> Run:
    """Start a workflow; return its run once it is kept.

    options -- of the client; of them, the tenant counts

    Raises BadWorkflow for a workflow with faults, and as the methods of a run do.
    """
    run = Run(client, new_id())
    flow.start(broker_of(client), document(flow_, run.id, options))
    return run


def start_soon(client: "Caller", flow_: Workflow, options: Options) -> AsyncRun:
    """Start a workflow; return its run at once in asyncio, elsewhere once it is kept."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return AsyncRun(start(client, flow_, options))
    run = Run(client, new_id())
    amqp, content = broker_of(client), document(flow_, run.id, options)
    return AsyncRun(run, loop.run_in_executor(None, lambda: flow.start(amqp, content)))


def broker_of(client: "Caller") -> AmqpSettings:
    """Return the address of a client's broker. Raises TypeError for the client of a test's bench."""
    amqp = (client._origin or client).__dict__.get("_amqp")  # noqa: SLF001 -- a name for it would hide a task's
    if amqp is None:
        raise TypeError("a bench keeps no workflows: the flow process does")
    return cast("AmqpSettings", amqp)


def document(flow_: Workflow, id_: str, options: Options) -> dict[str, Any]:
    """Return a workflow as it is sent, with an id and its client's tenant."""
    tenant = {} if options.tenant is None else {"tenant": options.tenant}
    return tenant | flow_.document() | {"id": id_}


def _pauses(timeout: float | None) -> Iterator[float]:
    """Yield growing pauses until `timeout` seconds have passed; None for no limit."""
    until = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_DELAY
    while until is None or until > time.monotonic():
        yield pause if until is None else min(pause, max(0.0, until - time.monotonic()))
        pause = min(pause * 1.5, _LONGEST_DELAY)

"""Tests of tasks and plugins in one process, without a broker; a test causes crashes, redelivery and delays.

The code of the services routes a workitem, performs it, judges it and publishes its result, its retry or its
dead letter. A list replaces the broker, and the bench's own clock replaces the delay queues. Admission is the
bench's own, too: it ends cancelled and expired workitems. There is one worker, without limits and leases.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, Final, Self

from taskqueue.amqp.properties import Properties
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.topology import FAILED_QUEUE, REJECTED_QUEUE, TASKQUEUE, worker_queue
from taskqueue.calls import message
from taskqueue.calls import task as tasks
from taskqueue.calls.call import Call, Status
from taskqueue.calls.client import AsyncClient, Client
from taskqueue.calls.task_worker import TaskWorker, load_tasks
from taskqueue.config import GroupSettings
from taskqueue.consumer.callers import Notices
from taskqueue.consumer.in_flight import Assignment, Crash, wants_notices
from taskqueue.consumer.intake import groups_of
from taskqueue.consumer.judge import Judge
from taskqueue.consumer.record import RunRecord
from taskqueue.consumer.settlement import Settlement
from taskqueue.dispatcher import refusals
from taskqueue.errors import CallTimeout, TaskqueueError, UnknownTask, Unroutable
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import moment, new_id, rejected, travelling
from taskqueue.messages.options import NONE, Options
from taskqueue.messages.results import Failure, encode_value
from taskqueue.messages.routing import FORMATS, find_route
from taskqueue.messages.workitem import submitted
from taskqueue.process.logs import Log
from taskqueue.testing.lists import BenchEvents, BenchLoop, BenchMessage, BenchOutbound, BenchPublisher
from taskqueue.worker.base import BaseWorker, listeners
from taskqueue.worker.frames import FrameReader, Outcome, Service, TaskFrame
from taskqueue.worker.limits import Limits
from taskqueue.worker.perform import perform

_REPLIES: Final = "bench"
_NAME: Final = "bench/1"  # the name of its worker


class Bench:
    """Serves tasks and plugins in this process: `with Bench(mytasks) as bench: bench.client.add(5, 6)`.

    Nothing runs by itself: `run` performs the due workitems, and so does a wait for a call. A wait advances
    the bench's time, so that a retry after an hour runs at once; `advance` does so without a wait.
    """

    is_over = False  # never; clients read this

    def __init__(
        self,
        *served: "ModuleType | tasks.Task[..., Any]",
        plugins: Mapping[str, BaseWorker] | None = None,
        **settings: Any,
    ) -> None:
        """Serve tasks and plugins.

        Args:
            served: modules or packages with tasks, or tasks.
            plugins: worker plugins by their worker types.
            settings: options of the workers' group, such as retries=2; limits are not applied here.
        """
        group = GroupSettings("bench", "bench", **settings)
        self._workers: dict[str, BaseWorker] = {}
        self._groups: dict[str, GroupSettings] = {}
        found = _tasks(served)
        if found:
            self._serve(group, TaskWorker(found))
        for name, plugin in (plugins or {}).items():
            plugin.services = (Service(name),)
            self._serve(group, plugin)
        self._messages: list[BenchMessage] = []
        self._calls: dict[str, Call[Any]] = {}
        self._known: dict[str, Call[Any]] = {}
        self._cancelled: set[str] = set()
        self._crashes: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._passed = 0.0
        self._number = 0
        self._publisher = BenchPublisher(self)
        self._notices = Notices(self._publisher)
        settlement = Settlement(
            BenchLoop(),
            BenchOutbound(self._publisher),
            group,
            RunRecord(BenchEvents(), group),
            on_settled=lambda _assignment: None,
            on_abandoned=lambda _assignment: None,
        )
        self._judge = Judge(settlement, self._notices, Log("bench"))
        self.client = Client.over(self)
        self.async_client = AsyncClient.over(self)

    def __enter__(self) -> Self:
        """Set the plugins up."""
        for each in set(self._workers.values()):
            each.setup()
        return self

    def __exit__(self, *_: object) -> None:
        """Tear the plugins down."""
        for each in set(self._workers.values()):
            each.teardown()

    def _serve(self, group: GroupSettings, served: BaseWorker) -> None:
        for own in groups_of(group, served.services):
            self._workers[own.worker_type] = served
            self._groups[own.worker_type] = own

    # --- for tests: events ---

    @property
    def now(self) -> float:
        """The bench's time, in seconds since 1970."""
        return time.time() + self._passed

    def advance(self, seconds: float) -> None:
        """Advance the bench's time by `seconds`."""
        self._passed += seconds

    def crash(self, worker_type: str, times: int = 1) -> None:
        """Let the worker die in the next `times` runs, after the handler has run, the worst moment."""
        self._crashes[worker_type] += times

    def redeliver(self, worker_type: str, times: int = 1) -> None:
        """Lose the next `times` outcomes, as with a lost connection: the workitem is redelivered."""
        self._lost[worker_type] += times

    def run(self) -> int:
        """Route and perform all due messages; return the number of steps."""
        steps = 0
        while self.step():
            steps += 1
        return steps

    def step(self) -> bool:
        """Route or perform the oldest due message; return whether there was one."""
        due = [each for each in self._messages if each.due <= self.now and self._is_ours(each)]
        if not due:
            return False
        self._messages.remove(due[0])
        if due[0].queue == TASKQUEUE:
            self._route(due[0])
        else:
            self._perform(due[0])
        self._publisher.confirm()
        return True

    def submit(self, worker_type: str, workitem: Any, options: Options = NONE) -> str:
        """Submit a workitem; return its id."""
        kind, body = encode_value(workitem)
        id_ = new_id()
        plain = Properties(content_type=kind, message_id=id_, type=worker_type).encode()
        self.put(TASKQUEUE, Properties.decode(options.marked(plain, self.now)), body)
        return id_

    # --- for tests: results ---

    @property
    def results(self) -> list[tuple[Properties, Any]]:
        """The results that belong to no call: properties and decoded body."""
        return self._in(GroupSettings("", "").results_routing_key)

    @property
    def failed(self) -> list[tuple[Properties, Any]]:
        """The dead letters of failed workitems: properties and decoded body."""
        return self._in(FAILED_QUEUE)

    @property
    def rejected(self) -> list[tuple[Properties, Any]]:
        """The dead letters of rejected workitems: properties and decoded body."""
        return self._in(REJECTED_QUEUE)

    def _in(self, queue: str) -> list[tuple[Properties, Any]]:
        found = [each for each in self._messages if each.queue == queue]
        return [message.decode(each.properties.encode(), each.body) for each in found]

    # --- for clients and the consumer's code ---

    def put(self, queue: str, properties: Properties, body: bytes, due: float = 0.0) -> None:
        """Put a message into a queue; a reply goes to its call."""
        if queue != _REPLIES:
            self._messages.append(BenchMessage(queue, properties, body, due))
            return
        _, content = message.decode(properties.encode(), body)
        call = self._calls.get(properties.correlation_id or "")
        found = message.notice(content)
        if call is not None and found is not None:
            message.take_notice(call, *found)
        elif call is not None:
            del self._calls[call.id]
            message.take_reply(call, properties, content)

    def send(self, call: Call[Any], body: bytes, options: Options, *, notify: bool) -> None:
        """Send a call. Raises ValueError for a chain."""
        if call.chain is not None:
            raise ValueError("a bench runs no chains: a consumer publishes their next steps")
        self._calls[call.id] = self._known[call.id] = call
        properties = submitted(call.task, call.id, JSON, _REPLIES, notify=notify)
        self.put(TASKQUEUE, Properties.decode(options.marked(properties, self.now)), body)
        call.move(Status.QUEUED)

    def call(self, call: Call[Any], body: bytes, options: Options, timeout: float | None) -> None:
        """Send a call and wait until it is done, at most `timeout` seconds of the bench's time."""
        self.send(call, body, options, notify=False)
        self.wait(call, timeout)

    def submit_many(self, worker_type: str, workitems: Iterable[Any], options: Options) -> int:
        """Submit workitems; return their number."""
        return len([self.submit(worker_type, each, options) for each in workitems])

    def wait(self, call: Call[Any], timeout: float | None) -> None:
        """Run due messages and advance the time until a call is done, at most `timeout` seconds."""
        until = None if timeout is None else self.now + timeout
        while not call.done():
            if self.step():
                continue
            coming = min((each.due for each in self._messages if self._is_ours(each)), default=None)
            if until is not None and (coming is None or coming > until):
                self._passed += max(0.0, until - self.now)
                return
            if coming is None:
                raise CallTimeout(f"nothing is left to do, and {call!r} is not done")
            self._passed += max(0.0, coming - self.now)

    def cancel(self, call: Call[Any]) -> None:
        """Cancel a call when it is taken from its queue; a bench has no running call to stop."""
        self._cancelled.add(call.id)

    def fetched(self, call: Call[Any]) -> None:
        """Do nothing: fetched results need no acknowledgement here."""

    def forget(self, call: Call[Any]) -> None:
        """Stop waiting for the reply of a call."""
        self._calls.pop(call.id, None)

    def find(self, id_: str) -> Call[Any] | None:
        """Return a call of this bench; None if there is none of this id."""
        return self._known.get(id_)

    def close(self) -> None:
        """Do nothing: there is no connection to close."""

    # --- dispatcher, consumer and worker ---

    def _is_ours(self, message: BenchMessage) -> bool:
        return message.queue == TASKQUEUE or message.queue in map(worker_queue, self._workers)

    def _route(self, sent: BenchMessage) -> None:
        properties = sent.properties.replace(message_id=sent.properties.message_id or new_id())
        try:
            route = find_route(properties, sent.body, FORMATS)
        except Unroutable as error:
            self._reject(sent, properties, Unroutable, str(error))
            return
        queue = worker_queue(route.worker_type)
        if route.worker_type not in self._workers and refusals.is_call(properties, route.body):
            reason = f"queue {queue} does not exist: no worker serves it"
            self._reject(sent, properties, UnknownTask, reason)
            return
        due = moment(properties, names.DUE) or 0.0
        self.put(
            queue,
            travelling(properties, route.worker_type, content_type=route.content_type),
            route.body,
            due,
        )

    def _reject(
        self, sent: BenchMessage, properties: Properties, error: type[TaskqueueError], reason: str
    ) -> None:
        failure = Failure(error.__name__, reason, code=jsonrpc.METHOD_NOT_FOUND)
        answer = refusals.refusal(properties, properties.message_id or "", sent.body, failure)
        if answer is not None:
            self._publisher.publish(answer)
        self.put(REJECTED_QUEUE, rejected(properties, reason, TASKQUEUE), sent.body)

    def _perform(self, sent: BenchMessage) -> None:
        worker_type = sent.queue.removeprefix(worker_queue(""))
        assignment = self._assignment(worker_type, sent)
        if assignment.id in self._cancelled:
            self._judge.cancelled(assignment)
            return
        if assignment.deadline is not None and assignment.deadline < self.now:
            self._judge.expired(assignment)
            return
        self._notices.started(assignment, _NAME)
        begun = time.time()
        outcome = self._outcome(worker_type, assignment)
        if _next(self._crashes, worker_type):
            self._judge.crashed(assignment, _NAME, begun, Crash("killed by SIGKILL", 0))
        elif _next(self._lost, worker_type):
            self._messages.insert(0, sent)
        else:
            self._judge.performed(assignment, _NAME, outcome)

    def _assignment(self, worker_type: str, sent: BenchMessage) -> Assignment:
        self._number += 1
        raw = sent.properties.encode()
        delivery = Delivery(self._number, 0, redelivered=False, properties=raw, body=sent.body)
        workitem, group = sent.properties.message_id or "", self._groups[worker_type]
        is_followed = wants_notices(sent.properties)
        return Assignment(
            self._number, workitem, group, delivery, sent.properties, raw, wants_notices=is_followed
        )

    def _outcome(self, worker_type: str, assignment: Assignment) -> Outcome:
        task = TaskFrame(
            assignment.number,
            assignment.attempt,
            worker_type,
            assignment.raw_properties,
            assignment.body,
        )
        listeners.append(lambda share, text: self._notices.progress(assignment, share, text))
        try:
            frame = perform(self._workers[worker_type], task, Limits())
        finally:
            listeners.pop()
        ((_, payload),) = FrameReader().feed(frame)
        return Outcome.decode(payload)


def _next(counter: "Counter[str]", name: str) -> bool:
    """Decrease a counter; return False if it is 0."""
    if counter[name] == 0:
        return False
    counter[name] -= 1
    return True


def _tasks(served: Iterable[Any]) -> "list[tasks.Task[..., Any]]":
    found: list[tasks.Task[..., Any]] = []
    for each in served:
        found += load_tasks(each) if isinstance(each, ModuleType) else [each]
    return found

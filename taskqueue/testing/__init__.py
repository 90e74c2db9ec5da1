"""Trying tasks and plugins in one process, without a broker: crashes, redelivery, time as a test wants them.

A workitem is handled as in service: it is routed by the dispatcher's rules, performed as a
worker performs it, judged, answered, kept and run again by the consumer's code. Only the broker is a list.
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
from taskqueue.consumer.assignment import Assignment, Crash
from taskqueue.consumer.intake import groups_of
from taskqueue.consumer.judge import Judge
from taskqueue.consumer.notices import Notices, are_wanted
from taskqueue.consumer.settlement import Settlement
from taskqueue.dispatcher import refusals
from taskqueue.errors import CallTimeout, TaskqueueError, UnknownTask, Unroutable
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import moment, new_id, rejected, travelling
from taskqueue.messages.results import Failure, encode_value
from taskqueue.messages.routing import FORMATS, find_route
from taskqueue.messages.workitem import submitted
from taskqueue.process.logs import Log
from taskqueue.testing.lists import BenchDelays, BenchMessage, BenchProvider, BenchPublisher, NoLoop
from taskqueue.worker.base import BaseWorker
from taskqueue.worker.consumer_link import listeners
from taskqueue.worker.frames import FrameReader, Outcome, Service, TaskFrame
from taskqueue.worker.limits import Limits
from taskqueue.worker.perform import perform

_REPLIES: Final = "bench"
_NAME: Final = "bench/1"  # of the one worker


class Bench:
    """Serves tasks and plugins in this process: `with Bench(mytasks) as bench: bench.client.add(5, 6)`.

    Nothing runs by itself: `run` performs what is due, and so does waiting for a call. A waiting caller has
    time pass, so that a retry in an hour is there at once; `advance` has it pass without waiting.
    """

    is_over = False  # never; a client asks

    def __init__(
        self,
        *served: "ModuleType | tasks.Task[..., Any]",
        plugins: Mapping[str, BaseWorker] | None = None,
        **settings: Any,
    ) -> None:
        """Serve.

        Args:
            served: modules or packages with tasks, or tasks.
            plugins: worker plugins by their worker types.
            settings: options of the workers' group, such as retries=2; limits are not imposed here.
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
            NoLoop(),
            self._publisher,
            BenchProvider(),
            BenchDelays(self._publisher),
            group,
            on_settled=lambda _assignment: None,
            on_left=lambda _assignment: None,
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

    # --- what a test may want to happen ---

    @property
    def now(self) -> float:
        """The bench's time, in seconds since 1970."""
        return time.time() + self._passed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._passed += seconds

    def crash(self, worker_type: str, times: int = 1) -> None:
        """Have the worker die at the next run, or so many: after the handler has run, the worst moment."""
        self._crashes[worker_type] += times

    def redeliver(self, worker_type: str, times: int = 1) -> None:
        """Have the next outcome, or so many, be lost with the connection: the workitem comes again."""
        self._lost[worker_type] += times

    def run(self) -> int:
        """Perform all that is due; return how many steps that took."""
        steps = 0
        while self.step():
            steps += 1
        return steps

    def step(self) -> bool:
        """Route or perform the oldest message that is due; tell whether there was one."""
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

    def submit(self, worker_type: str, workitem: Any) -> str:
        """Submit a workitem; return its id."""
        kind, body = encode_value(workitem)
        id_ = new_id()
        self.put(TASKQUEUE, Properties(content_type=kind, message_id=id_, type=worker_type), body)
        return id_

    # --- what a test may want to know ---

    @property
    def results(self) -> list[tuple[Properties, Any]]:
        """Results that no call has taken: properties, and the body as it was decoded."""
        return self._in(GroupSettings("", "").results_routing_key)

    @property
    def failed(self) -> list[tuple[Properties, Any]]:
        """The failed workitems that are kept."""
        return self._in(FAILED_QUEUE)

    @property
    def rejected(self) -> list[tuple[Properties, Any]]:
        """The rejected workitems that are kept."""
        return self._in(REJECTED_QUEUE)

    def _in(self, queue: str) -> list[tuple[Properties, Any]]:
        found = [each for each in self._messages if each.queue == queue]
        return [message.decode(each.properties.encode(), each.body) for each in found]

    # --- what clients and the consumer's code call ---

    def put(self, queue: str, properties: Properties, body: bytes, due: float = 0.0) -> None:
        """Take a message into a queue; a reply goes to its call."""
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

    def send(self, call: Call[Any], body: bytes, *, notify: bool) -> None:
        """Send a call; a client calls this."""
        self._calls[call.id] = self._known[call.id] = call
        properties = submitted(call.task, call.id, JSON, _REPLIES, notify=notify)
        self.put(TASKQUEUE, Properties.decode(properties), body)
        call.move(Status.QUEUED)

    def call(self, call: Call[Any], body: bytes, timeout: float | None) -> None:
        """Send a call and have it performed; a client calls this."""
        self.send(call, body, notify=False)
        self.wait(call, timeout)

    def submit_many(self, worker_type: str, workitems: Iterable[Any]) -> int:
        """Submit workitems; return how many."""
        return len([self.submit(worker_type, each) for each in workitems])

    def wait(self, call: Call[Any], timeout: float | None) -> None:
        """Perform what is due, and let time pass, until a call is done or its time is up."""
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
        """Drop a call when its turn comes; nothing runs meanwhile that could be stopped."""
        self._cancelled.add(call.id)

    def fetched(self, call: Call[Any]) -> None:
        """Need nothing of a call whose result the user has."""

    def forget(self, call: Call[Any]) -> None:
        """Await the reply of a call no longer."""
        self._calls.pop(call.id, None)

    def find(self, id_: str) -> Call[Any] | None:
        """Return a call that was made here."""
        return self._known.get(id_)

    def close(self) -> None:
        """Need nothing closed."""

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
            reason = f"there is no queue {queue}: nobody serves it"
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
        answer = refusals.refusal(
            properties, properties.message_id or "", sent.body, failure, lambda *_: None
        )
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
            self._judge.give_up(
                assignment, "WorkitemExpired", "its expiration passed before a worker was free"
            )
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
        is_followed = are_wanted(sent.properties)
        return Assignment(
            self._number, workitem, group, delivery, sent.properties, raw, is_followed=is_followed
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
    """Take one from a counter, if there is one left."""
    if counter[name] == 0:
        return False
    counter[name] -= 1
    return True


def _tasks(served: Iterable[Any]) -> "list[tasks.Task[..., Any]]":
    found: list[tasks.Task[..., Any]] = []
    for each in served:
        found += load_tasks(each) if isinstance(each, ModuleType) else [each]
    return found

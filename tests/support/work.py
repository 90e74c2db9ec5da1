"""A producer of workitems and receiver of their results that shares no code with taskqueue."""

import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import amqp
import pytest
from support.foreign import Foreign
from support.node import Node
from support.waiting import pauses, wait_until


class Work:
    """Publishes workitems and fetches their results, as a client that shares no code with taskqueue."""

    def __init__(self, foreign: Foreign, messages: Callable[[str], int]) -> None:
        """Declare the dispatcher's queue; `messages` counts all that a queue has, delivered or not.

        Nobody declares the queue of results but who publishes the first one.
        """
        self.foreign = foreign
        self._messages = messages
        self._count = 0
        self._offset = _clock_offset()
        foreign.declare("taskqueue")

    def submit(self, worker_type: str, body: Any = None, **properties: Any) -> str:
        """Publish one workitem to the queue of its worker type; return its id."""
        queue = f"worker_{worker_type}"
        self.foreign.declare(queue)
        return self._publish(queue, body, properties)

    def dispatch(self, worker_type: str, body: Any = None) -> str:
        """Publish one workitem to the dispatcher's queue; return its id."""
        return self._publish("taskqueue", body, {"type": worker_type})

    def _publish(self, queue: str, body: Any, properties: dict[str, Any]) -> str:
        self._count += 1
        workitem = f"workitem{self._count}"
        self.foreign.publish(json.dumps(body), queue, message_id=workitem, **properties)
        return workitem

    def result(self, timeout: float = 20) -> "Result":
        """Fetch the next result."""
        return Result(self.foreign.get("results", timeout))

    def results(self, number: int, timeout: float = 30) -> dict[str, "Result"]:
        """Fetch `number` results; return them by workitem."""
        results = [Result(message) for message in self.foreign.collect("results", number, timeout)]
        return {result.workitem: result for result in results}

    def submit_numbers(self, numbers: Iterable[int], worker_type: str = "good", **body: Any) -> None:
        """Publish many workitems to the dispatcher's queue, each with a number in its body."""
        bodies = (json.dumps({"number": number} | body) for number in numbers)
        self.foreign.publish_many(bodies, type=worker_type)

    def assert_all_numbers(self, numbers: Iterable[int], timeout: float = 60) -> None:
        """Fail unless every number has a successful result in time.

        More than one is allowed, for a crash may run a workitem twice; how many there were is printed.
        """
        missing, surplus = set(numbers), 0
        deadline, pause = time.monotonic() + timeout, pauses()
        while missing and time.monotonic() < deadline:
            message = self.foreign.poll("results")
            if message is None:
                time.sleep(next(pause))
                continue
            pause = pauses()
            number = Result(message).number
            surplus += number not in missing
            missing.discard(number)
        print(f"{surplus} results more than once")
        assert not missing, f"no result for {sorted(missing)}; {self._where()}"

    def _where(self) -> str:
        """Tell where messages may be that are missed; a clock that is set forward makes results expire."""
        queues = ("taskqueue", "worker_good", "results", "taskqueue_failed", "taskqueue_rejected")
        found = {queue: self._messages(queue) for queue in queues}
        return f"messages: {found}; the clock was set by {_clock_offset() - self._offset:.1f} s meanwhile"

    def wait_until_empty(self, *queues: str) -> None:
        """Wait until the queues have nothing, and nobody has anything of theirs.

        What was run twice may come after the last result; a pool that stops gives back what it has not begun.
        """
        wait_until(lambda: not any(map(self._messages, queues)), 60, f"empty queues {queues}")

    def ask(self, worker_type: str, body: Any = None) -> Any:
        """Submit a workitem and return its result's value; it must succeed."""
        workitem = self.submit(worker_type, body)
        result = self.result()
        assert (result.workitem, result.status) == (workitem, "succeeded"), result
        return result.value


def _clock_offset() -> float:
    return time.time() - time.monotonic()


class Result:
    """A result message, read."""

    def __init__(self, message: amqp.Message) -> None:
        self.workitem: str = message.properties["correlation_id"]
        self.headers: dict[str, Any] = message.headers
        self.status: str = message.headers["x-taskqueue-status"]
        is_json = message.properties["content_type"] == "application/json"
        self.value = json.loads(message.body) if is_json else message.body

    @property
    def number(self) -> int:
        """The number that the workitem's body held; it must have succeeded."""
        assert self.status == "succeeded", self
        return int(self.value["echo"]["number"])

    @property
    def error(self) -> str:
        """The failure in a line."""
        return f"{self.value['error']['type']}: {self.value['error']['message']}"

    def __repr__(self) -> str:
        return f"{self.workitem} {self.status} {str(self.value)[:500]}"


@pytest.fixture
def work(foreign: Foreign, broker: Node, vhost: str) -> Work:
    """A producer and receiver of results."""
    return Work(foreign, partial(broker.messages, vhost))

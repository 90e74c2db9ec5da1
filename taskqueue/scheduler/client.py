"""Commands to the scheduler that leads, and its answers."""

from collections.abc import Iterator
from typing import Any, Final

from taskqueue.broker.question import Question
from taskqueue.broker.topology import SCHEDULES
from taskqueue.config import AmqpSettings
from taskqueue.errors import NoScheduler, ScheduleRefused
from taskqueue.scheduler.state import COMMAND, KIND

_TIMEOUT: Final = 10.0  # seconds; a command that nobody has taken by then is dropped by the broker


def ask(amqp: AmqpSettings, action: str, *, timeout: float = _TIMEOUT, **arguments: Any) -> dict[str, Any]:
    """Send a command to the scheduler that leads; return its answer.

    Args:
        amqp: the broker's address.
        action: list, show, pause, resume, run-now, add or remove.
        timeout: seconds to wait for the answer.
        arguments: of the action, as JSON has them.

    Raises:
        NoScheduler: no answer came in time, or there is no register.
        ScheduleRefused: the scheduler refuses; the error has its reason.
        BrokerUnavailable: no connection, or it was lost.
        BrokerRefused: wrong user, password or virtual host.
    """
    command = {KIND: COMMAND, "action": action} | arguments
    question = Question(
        amqp, SCHEDULES.name, command, name="taskqueue schedule", timeout=timeout, error=NoScheduler
    )
    answer = question.ask("scheduler")
    if "error" in answer:
        raise ScheduleRefused(str(answer["error"]))
    return answer


def ask_all(amqp: AmqpSettings) -> Iterator[dict[str, Any]]:
    """Yield all schedules by name; they come in several answers. Raises what `ask` raises."""
    after = ""
    while True:
        answer = ask(amqp, "list", after=after)
        yield from answer["schedules"]
        after = answer["next"]
        if not after:
            return

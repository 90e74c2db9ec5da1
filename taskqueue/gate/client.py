"""Questions to the gate that leads."""

from typing import Any, Final

from taskqueue.broker.question import Question
from taskqueue.broker.topology import GATE_REPORTS
from taskqueue.config import AmqpSettings
from taskqueue.errors import NoGate
from taskqueue.limits.wire import KIND, LIST

_TIMEOUT: Final = 10.0  # seconds


def limits_in_use(amqp: AmqpSettings, *, timeout: float = _TIMEOUT) -> list[dict[str, Any]]:
    """Return the limits of the gate that leads, as `Arbiter.described` has them.

    Args:
        amqp: the broker's address.
        timeout: seconds to wait for the answer.

    Raises:
        NoGate: no answer came in time, no gate has run, or it does not trust the broker user.
        BrokerUnavailable: no connection, or it was lost.
        BrokerRefused: wrong user, password or virtual host.
    """
    question = Question(
        amqp, GATE_REPORTS.name, {KIND: LIST}, name="taskqueue limit", timeout=timeout, error=NoGate
    )
    answer = question.ask("gate")
    if "error" in answer:
        raise NoGate(str(answer["error"]))
    found: list[dict[str, Any]] = answer["limits"]
    return found

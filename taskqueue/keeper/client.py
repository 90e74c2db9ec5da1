"""Commands to the keeper that is active."""

from collections.abc import Mapping
from typing import Any, Final

from taskqueue.broker.question import Question
from taskqueue.broker.topology import CLAIMS
from taskqueue.config import AmqpSettings
from taskqueue.errors import KeyRefused, NoKeeper
from taskqueue.unique.wire import COMMAND, KIND

_TIMEOUT: Final = 10.0  # seconds


def ask(
    amqp: AmqpSettings, action: str, arguments: Mapping[str, str], *, timeout: float = _TIMEOUT
) -> dict[str, Any]:
    """Send a command to the keeper that is active; return its answer.

    Args:
        amqp: the broker's address.
        action: list or release.
        arguments: worker_type, tenant and key; for `list`, those that are asked for.
        timeout: seconds to wait for the answer.

    Raises:
        NoKeeper: no answer came in time, or no keeper has run.
        KeyRefused: nobody has the key.
        BrokerUnavailable: no connection, or it was lost.
        BrokerRefused: wrong user, password or virtual host.
    """
    command = {KIND: COMMAND, "action": action, **arguments}
    question = Question(amqp, CLAIMS.name, command, name="taskqueue unique", timeout=timeout, error=NoKeeper)
    answer = question.ask("keeper")
    if "error" in answer:
        raise KeyRefused(str(answer["error"]))
    return answer

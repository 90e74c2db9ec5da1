"""Commands to the flow process that leads a workflow's shard, and its answers."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from taskqueue.broker.question import Question
from taskqueue.broker.topology import SHARDS, flow_queue, shard_of
from taskqueue.config import AmqpSettings
from taskqueue.errors import BadWorkflow, FlowRefused, NoFlow
from taskqueue.workflows.document import read
from taskqueue.workflows.wire import KIND, LIST, MOST_DOCUMENT, START, STEPS, command, encode_json

_TIMEOUT: Final = 10.0  # seconds; a message that nobody has taken by then is dropped by the broker


def start(amqp: AmqpSettings, document: Mapping[str, Any], *, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Start a workflow; return the answer with its id once the database has it.

    document -- with an id
    Raises BadWorkflow for a document with faults, and what `ask` raises.
    """
    read(document)
    return _ask(amqp, shard_of(str(document["id"])), {KIND: START, **document}, timeout)


def ask(
    amqp: AmqpSettings, action: str, workflow: str, *, timeout: float = _TIMEOUT, **arguments: Any
) -> dict[str, Any]:
    """Send a command about a workflow; return the answer.

    Args:
        amqp: the broker's address.
        action: show, steps, result, cancel, retry, extend or close.
        workflow: its id.
        timeout: seconds to wait for the answer.
        arguments: of the action, as JSON has them.

    Raises:
        NoFlow: no answer came in time, or no flow process has run.
        FlowRefused: there is no such workflow, or the command does not fit its state.
        BadWorkflow: steps to be added have faults.
        BrokerUnavailable: no connection, or it was lost.
        BrokerRefused: wrong user, password or virtual host.
    """
    return _ask(amqp, shard_of(workflow), command(action, workflow, **arguments), timeout)


def steps(amqp: AmqpSettings, workflow: str) -> Iterator[dict[str, Any]]:
    """Yield all steps of a workflow in their order. Raises what `ask` raises."""
    after: int | None = None
    while True:
        answer = ask(amqp, STEPS, workflow, after=after)
        yield from answer["steps"]
        after = answer["after"]
        if after is None:
            return


def ask_all(amqp: AmqpSettings, *, timeout: float = _TIMEOUT) -> Iterator[dict[str, Any]]:
    """Yield all workflows, those of a shard by age, the newest first. Raises what `ask` raises."""
    for shard in range(SHARDS):
        before: int | None = None
        while True:
            answer = _ask(amqp, shard, command(LIST, before=before), timeout)
            yield from answer["workflows"]
            before = answer["before"]
            if before is None:
                break


def _ask(amqp: AmqpSettings, shard: int, message: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    if (size := len(encode_json(message))) > MOST_DOCUMENT:
        raise BadWorkflow([f"the steps have {size:,} bytes as JSON; at most {MOST_DOCUMENT:,} are sent"])
    question = Question(
        amqp, flow_queue(shard).name, message, name="taskqueue workflow", timeout=timeout, error=NoFlow
    )
    answer = question.ask("flow process")
    if "faults" in answer:
        raise BadWorkflow([str(fault) for fault in answer["faults"]])
    if "error" in answer:
        raise FlowRefused(str(answer["error"]))
    return answer

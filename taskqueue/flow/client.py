"""Commands to the flow process that leads a workflow's shard, and its answers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

from taskqueue.broker.question import Question
from taskqueue.broker.topology import SHARDS, flow_queue, shard_of
from taskqueue.config import AmqpSettings
from taskqueue.errors import BadWorkflow, FlowRefused, NoFlow
from taskqueue.workflows.document import read
from taskqueue.workflows.wire import KIND, LIST, MOST_DOCUMENT, START, STEPS, command, encode_json

_NEWEST: Final = 2**62 - 1  # before no workflow
#: What a user starts for a flow process, in words.
_DAEMON: Final = "a dispatcher with a section [flow], or taskqueue flow"
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


def newest(
    amqp: AmqpSettings,
    *,
    limit: int,
    before: Sequence[int] = (),
    is_open: bool = False,
    tenants: Sequence[str] = (),
    timeout: float = _TIMEOUT,
) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """Return some workflows of all shards, the newest first, and `before` of those that follow; () for none.

    Args:
        amqp: the broker's address.
        limit: how many at most, up to `MOST_LISTED`.
        before: what the call before has returned.
        is_open: only those that have not ended.
        tenants: only those of these tenants.
        timeout: seconds for each shard.

    Raises what `ask` raises.
    """
    starts = tuple(before) if len(before) == SHARDS else (_NEWEST,) * SHARDS
    found: list[list[dict[str, Any]]] = []
    asked: dict[str, Any] = {"limit": limit, "open": is_open, "tenants": list(tenants)}
    for shard, start in enumerate(starts):
        message = command(LIST, before=start, **asked)
        found.append(_ask(amqp, shard, message, timeout)["workflows"] if start else [])
    merged = merge(*found, key=lambda each: -float(each["started"]))
    shown = list(islice(merged, limit))
    numbers = {each["number"] for each in shown}
    following = tuple(
        _following(rows, numbers, start, limit) for rows, start in zip(found, starts, strict=True)
    )
    return shown, following if any(following) else ()


def _following(rows: Sequence[Mapping[str, Any]], shown: Collection[int], start: int, limit: int) -> int:
    """Return the number before which the workflows of a shard go on; 0 if there are no more."""
    taken = [int(each["number"]) for each in rows if each["number"] in shown]
    if len(taken) == len(rows) < limit:
        return 0
    return taken[-1] if taken else start


def _ask(amqp: AmqpSettings, shard: int, message: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    if (size := len(encode_json(message))) > MOST_DOCUMENT:
        raise BadWorkflow([f"the steps have {size:,} bytes as JSON; at most {MOST_DOCUMENT:,} are sent"])
    question = Question(
        amqp, flow_queue(shard).name, message, name="taskqueue workflow", timeout=timeout, error=NoFlow
    )
    answer = question.ask("flow process", _DAEMON)
    if "faults" in answer:
        raise BadWorkflow([str(fault) for fault in answer["faults"]])
    if "error" in answer:
        raise FlowRefused(str(answer["error"]))
    return answer

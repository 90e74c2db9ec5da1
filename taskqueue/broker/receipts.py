"""The receipt of a step of a workflow, which tells the process that keeps the workflow how the step ended."""

from collections.abc import Callable
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.topology import FLOW_PREFIX, flow_queue, shard_of
from taskqueue.errors import BadFlowMessage
from taskqueue.messages import names
from taskqueue.messages.content import JSON, media_type
from taskqueue.messages.forwarding import login_of
from taskqueue.messages.results import FAILED, SUCCEEDED
from taskqueue.process.logs import Log
from taskqueue.unique.wire import Result
from taskqueue.workflows import wire
from taskqueue.workflows.definition import EXTENDED
from taskqueue.workflows.passing import Failed, passed_on

_MARK: Final = names.WORKFLOW.encode()
_PROPERTIES: Final = Properties(content_type=JSON, delivery_mode=2).encode()
_TOO_MUCH: Final = "BadWorkflow: result and further steps have {:,} bytes; at most {:,} are passed on"


def is_step(properties: Properties) -> bool:
    """Tell whether a workitem is a step of a workflow."""
    return _origin(properties) is not None


def receipt_of(properties: Properties, result: Result, error: str, at: float) -> Publication | None:
    """Return the receipt of a workitem that is over; None if it is no step of a workflow.

    It belongs to the publications that are confirmed before the workitem is acknowledged. It is signed if the
    workitem was: whoever forges a workitem gets no receipt that is believed to be of another database.

    Args:
        properties: of the workitem, as `attributed` returns them.
        result: its result.
        error: if it did not succeed, the error's type and its message in one line.
        at: when it was over, in seconds since 1970.
    """
    origin = _origin(properties)
    if origin is None:
        return None
    end = _success(result) if result.status == SUCCEEDED else _failure(result.status, error)
    body = wire.Receipt(**origin, ended=at, **end).encode()
    if len(body) > wire.MOST_DOCUMENT:
        failure = _failure(FAILED, _TOO_MUCH.format(len(body), wire.MOST_DOCUMENT))
        body = wire.Receipt(**origin, ended=at, **failure).encode()
    queue, is_signed = flow_queue(shard_of(origin["workflow"])).name, _is_ours(properties)
    return Publication(queue, _PROPERTIES, body, is_signed=is_signed)


def is_receipt(publication: Publication) -> bool:
    """Tell whether a publication is a receipt."""
    return publication.queue.startswith(FLOW_PREFIX)


def send(outbound: Outbound, receipt: Publication, done: Callable[[], None], log: Log, workitem: str) -> None:
    """Publish a receipt until the broker has it: without it, its workflow would never end.

    done -- called once it is confirmed
    log, workitem -- where a refusal is logged, and of which workitem
    """

    def settled(publication: Publication, result: PublishResult, reason: str) -> None:
        if result is PublishResult.CONFIRMED:
            done()
            return
        text = "its workflow is not told of its end: %s; trying again"
        log.error(text, reason or f"queue {publication.queue} does not exist", workitem=workitem)
        outbound.send_later(publication, settled)

    outbound.send(receipt, settled)


def _origin(properties: Properties) -> dict[str, Any] | None:
    """Return workflow, step, run and proof of a workitem; None if it has none, or malformed ones."""
    table = properties.header_table
    if table is None or _MARK not in table:
        return None  # the most frequent case
    try:
        found = {
            "workflow": properties.header(names.WORKFLOW),
            "step": properties.header(names.STEP),
            "run": properties.header(names.RUN),
            "proof": properties.header(names.PROOF),
        }
    except MalformedProperties:
        return None
    return found if wire.is_origin(**found) else None


def _is_ours(properties: Properties) -> bool:
    """Tell whether the broker has attested that our own user has published a workitem."""
    login = login_of(properties)
    return login is not None and properties.header(names.PUBLISHER) == login


def _failure(status: str, error: str) -> dict[str, Any]:
    kind, colon, message = error.partition(": ")
    return {"status": status, "error": wire.Error(kind if colon else "", message if colon else error)}


def _success(result: Result) -> dict[str, Any]:
    """Return the members of a receipt for a success."""
    try:
        if media_type(result.content_type) == EXTENDED:
            return _extension(result.body)
        return {"status": SUCCEEDED, "result": passed_on(result.content_type, result.body)}
    except Failed as error:
        return _failure(FAILED, f"Error: {error}")
    except ValueError:
        return {"status": SUCCEEDED, "size": len(result.body)}


def _extension(body: bytes) -> dict[str, Any]:
    """Return the members of a receipt for a step that adds others; it fails if they are malformed."""
    if len(body) > wire.MOST_DOCUMENT:
        return _failure(FAILED, _TOO_MUCH.format(len(body), wire.MOST_DOCUMENT))
    try:
        plain = wire.decode(body)
    except BadFlowMessage as error:
        return _failure(FAILED, f"BadWorkflow: further steps cannot be read: {error}")
    extend, value = plain.get("extend"), plain.get("result")
    if not isinstance(extend, list):
        return _failure(FAILED, "BadWorkflow: further steps are no list")
    try:
        return {"status": SUCCEEDED, "extend": extend, "result": wire.checked_json(value)}
    except ValueError:
        return {"status": SUCCEEDED, "extend": extend, "size": len(body)}

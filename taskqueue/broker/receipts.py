"""The receipt of a step of a workflow, which tells the process that keeps the workflow how the step ended."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import TOO_LARGE, Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.topology import flow_queue, shard_of
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
#: The headers by which a step is known, and the members of its receipt.
_MEMBERS: Final = {names.WORKFLOW: "workflow", names.STEP: "step", names.RUN: "run", names.PROOF: "proof"}
_HEADERS: Final = frozenset((*_MEMBERS, names.PUBLISHER))
_PROPERTIES: Final = Properties(content_type=JSON, delivery_mode=2).encode()
_TOGETHER: Final = Properties(content_type=wire.RECEIPTS, delivery_mode=2).encode()
_LARGEST_TOGETHER: Final = 16 * 1024  # bytes of receipts in one message; a larger one has its own
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
    body = wire.Receipt(**origin.members, ended=at, **end).encode()
    if len(body) > wire.MOST_DOCUMENT:
        failure = _failure(FAILED, _TOO_MUCH.format(len(body), wire.MOST_DOCUMENT))
        body = wire.Receipt(**origin.members, ended=at, **failure).encode()
    login = login_of(properties)
    is_ours = login is not None and origin.publisher == login  # as the broker has attested
    queue = flow_queue(shard_of(origin.members["workflow"])).name
    return Publication(queue, _PROPERTIES, body, is_signed=is_ours)


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


T = TypeVar("T")


class _Waiting(NamedTuple, Generic[T]):
    """A receipt, and what waits until the broker has it."""

    body: bytes
    waiting: T


class ReceiptPublisher(Generic[T]):
    """Publishes the receipts of each round of the event loop, those for one queue as one message.

    A message of its own would cost the broker and the flow process as much as the workitem itself.
    """

    def __init__(self, loop: EventLoop, outbound: Outbound, log: Log, on_told: Callable[[T], None]) -> None:
        """Publish with `outbound`.

        on_told -- takes what waits for a receipt, once the broker has it
        """
        self._loop, self._outbound, self._log, self._on_told = loop, outbound, log, on_told
        #: Those of this round, by queue and whether they are signed.
        self._round: defaultdict[tuple[str, bool], list[_Waiting[T]]] = defaultdict(list)

    def tell(self, receipt: Publication, waiting: T) -> None:
        """Publish a receipt with the others of this round."""
        is_first = not self._round
        self._round[receipt.queue, receipt.is_signed].append(_Waiting(receipt.body, waiting))
        if is_first:
            self._loop.at_round_end(self._flush)

    def _flush(self) -> None:
        found, self._round = self._round, defaultdict(list)
        for (queue, is_signed), receipts in found.items():
            some: list[_Waiting[T]] = []
            size = 0
            for each in receipts:
                if some and size + len(each.body) > _LARGEST_TOGETHER:
                    self._publish(queue, some, is_signed=is_signed)
                    some, size = [], 0
                some.append(each)
                size += len(each.body)
            self._publish(queue, some, is_signed=is_signed)

    def _publish(self, queue: str, some: list[_Waiting[T]], *, is_signed: bool) -> None:
        properties = _PROPERTIES if len(some) == 1 else _TOGETHER
        body = b"\n".join(each.body for each in some)
        publication = Publication(queue, properties, body, is_signed=is_signed)
        self._outbound.send(publication, partial(self._published, [each.waiting for each in some]))

    def _published(
        self, waiting: list[T], publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if result is PublishResult.CONFIRMED:
            for each in waiting:
                self._on_told(each)
            return
        if TOO_LARGE.search(reason):
            bodies = publication.body.split(b"\n")
            if len(bodies) == 1:
                bodies = [_without_result(publication.body, reason)]
            if bodies != [publication.body]:
                for body, each in zip(bodies, waiting, strict=True):
                    self._publish(publication.queue, [_Waiting(body, each)], is_signed=publication.is_signed)
                return
        self._log.error(
            "workflows are not told of the ends of %d steps: %s; trying again", len(waiting), reason
        )
        self._outbound.send_later(publication, partial(self._published, waiting))


def _without_result(body: bytes, reason: str) -> bytes:
    """Return the receipt of a failure in the place of a success that the broker refuses for its size."""
    try:
        receipt = wire.Receipt.of_json(wire.decode(body))
    except BadFlowMessage:
        return body
    if receipt.result is None and receipt.extend is None:
        return body
    error = wire.Error("ResultRefused", f"the broker refuses the receipt with the result: {reason}")
    return replace(receipt, status=FAILED, result=None, size=None, extend=None, error=error).encode()


class _Origin(NamedTuple):
    """The step that a workitem is: the members of its receipt that tell of it, and the publisher's name."""

    members: dict[str, Any]
    publisher: object


def _origin(properties: Properties) -> _Origin | None:
    """Return the step that a workitem is; None if it is none, or has malformed headers."""
    table = properties.header_table
    if table is None or _MARK not in table:
        return None  # the most frequent case
    return _origin_in(table)


@lru_cache(maxsize=1)  # a consumer asks twice for each workitem
def _origin_in(table: bytes) -> _Origin | None:
    try:
        headers = Properties(header_table=table).some_headers(_HEADERS)
    except MalformedProperties:
        return None
    members = {name: headers.get(header) for header, name in _MEMBERS.items()}
    return _Origin(members, headers.get(names.PUBLISHER)) if wire.is_origin(**members) else None


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

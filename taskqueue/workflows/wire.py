"""Messages about workflows: JSON objects in the queue of a workflow's shard."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, Self

from taskqueue.errors import BadFlowMessage
from taskqueue.messages.jsonrpc import collecting_nothing
from taskqueue.texts import shorten

#: The kinds of messages.
KIND: Final = "kind"
START, RECEIPT, COMMAND = "start", "receipt", "command"
#: The content type of several receipts in one message, each on a line of its own.
RECEIPTS: Final = "application/x-ndjson"
#: Of the messages by which a flow process finds out that it is the active one.
TICK: Final = "tick"
#: The actions of commands.
LIST, SHOW, STEPS, GRAPH, RESULT = "list", "show", "steps", "graph", "result"
CANCEL, RETRY, EXTEND, CLOSE = "cancel", "retry", "extend", "close"

#: The ends of a workitem that a receipt tells of.
STATUSES: Final = ("succeeded", "failed", "rejected", "cancelled", "duplicate")

MOST_DOCUMENT: Final = 16 * 1024 * 1024  # bytes of a workflow's document, and so of any message
MOST_STEPS: Final = 100_000  # of a workflow
MOST_LISTED: Final = 200  # workflows or steps in an answer
#: Maximum bytes of a result that is passed on to other steps, as JSON.
MOST_RESULT: Final = 1024 * 1024
#: Maximum depth of lists and objects in a result or in a step's arguments.
MOST_DEPTH: Final = 100
#: Maximum bytes of the header with the remaining steps of a chain: half of what all headers of a message may
#: have, so that a dead letter has room for the history of its runs.
MOST_CHAIN: Final = 64 * 1024

LONGEST_NAME: Final = 100  # characters of a workflow's or a step's name, without the index of a map's element
LONGEST_TEXT: Final = 2000  # characters of an error
_LONGEST_TYPE: Final = 200

#: The id of a workflow.
ID: Final = re.compile(r"[0-9a-f]{32}\Z")
#: The name of a step, which for an element of a map has its index.
STEP: Final = re.compile(rf"[A-Za-z0-9_.-]{{1,{LONGEST_NAME}}}(?:\[(?:0|[1-9][0-9]{{0,8}})\])?\Z")
_LONGEST_PROOF: Final = 100
_MOST_RUNS: Final = 1_000_000_000


class Error(NamedTuple):
    """An exception's type, or another cause, and its message."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """The end of a step's workitem.

    Args:
        workflow: the id.
        step: its name.
        run: 1 for the first run.
        proof: as the workitem's header has it.
        status: one of STATUSES.
        ended: seconds since 1970.
        result: the result as JSON text; None if it is no JSON or too large.
        size: bytes of such a result.
        error: why it did not succeed.
        extend: further steps of the workflow, as its document has them.
    """

    workflow: str
    step: str
    run: int
    proof: str
    status: str
    ended: float
    result: str | None = None
    size: int | None = None
    error: Error | None = None
    extend: list[Any] | None = None

    def encode(self) -> bytes:
        """Return the receipt as a message's body."""
        plain: dict[str, Any] = {
            KIND: RECEIPT,
            "workflow": self.workflow,
            "step": self.step,
            "run": self.run,
            "proof": self.proof,
            "status": self.status,
            "ended": self.ended,
        }
        if self.size is not None:
            plain["size"] = self.size
        if self.error is not None:
            kind, message = self.error
            text = shorten(message, LONGEST_TEXT)
            plain["error"] = {"type": shorten(kind, _LONGEST_TYPE), "message": text}
        if self.extend is not None:
            plain["extend"] = self.extend
        text = encode_json(plain)
        return (text if self.result is None else f'{text[:-1]},"result":{self.result}}}').encode()

    @classmethod
    def of_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the receipt that `encode` wrote; raise BadFlowMessage if it is none."""
        try:
            extend = plain.get("extend")
            if extend is not None and not isinstance(extend, list):
                raise TypeError("extend is no list")
            return cls(
                _matching(plain["workflow"], ID),
                _matching(plain["step"], STEP),
                _count_of(plain["run"], _MOST_RUNS),
                _text_of(plain["proof"], _LONGEST_PROOF),
                _status_of(plain["status"]),
                time_of(plain["ended"]),
                checked_json(plain["result"]) if "result" in plain else None,
                _count_of(plain["size"], 2**53) if "size" in plain else None,
                _error_of(plain["error"]) if "error" in plain else None,
                extend,
            )
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise BadFlowMessage(f"a receipt cannot be read: {error!r:.200}") from None


def is_origin(workflow: Any, step: Any, run: Any, proof: Any) -> bool:
    """Tell whether a receipt can have these fields."""
    try:
        _matching(workflow, ID)
        _matching(step, STEP)
        _count_of(run, _MOST_RUNS)
        _text_of(proof, _LONGEST_PROOF)
    except ValueError:
        return False
    return True


def encode_start(document: Mapping[str, Any]) -> bytes:
    """Return the message that starts a workflow."""
    return encode_json({KIND: START, **document}).encode()


def command(action: str, workflow: str = "", **arguments: Any) -> dict[str, Any]:
    """Return a command, which is answered by direct reply-to.

    action -- one of those above
    workflow -- the id; "" for `list`
    """
    return {KIND: COMMAND, "action": action, "workflow": workflow, **arguments}


# With these options json.dumps would make a new encoder for each call. Everything outside ASCII is escaped,
# so that a text may have lone surrogates and NUL wherever it is kept.
encode_json: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.60} is too large for a number of JSON")  # it could not be encoded again
    return number


_DECODER: Final = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
#: Decodes JSON text; ValueError or RecursionError for anything else.
decode_value: Final = _DECODER.decode
#: Decodes the value at an index of a text; returns it and the index behind it.
decode_at: Final = _DECODER.raw_decode


def decode(body: bytes) -> dict[str, Any]:
    """Return a message; raise BadFlowMessage if it is none, or too large."""
    if len(body) > MOST_DOCUMENT:
        raise BadFlowMessage(f"a message of {len(body):,} bytes; at most {MOST_DOCUMENT:,} are read")
    try:
        with collecting_nothing(len(body)):
            message = decode_value(body.decode())
    except RecursionError:
        raise BadFlowMessage("a message that is nested too deep") from None
    except ValueError as error:
        raise BadFlowMessage(f"a message that is no JSON: {shorten(str(error), 200)}") from None
    if not isinstance(message, dict):
        raise BadFlowMessage("a message that is no JSON object")
    most = MOST_DEPTH + 20
    if body.count(b"[") + body.count(b"{") > most and is_deep(message, most):  # mostly there are fewer
        raise BadFlowMessage("a message that is nested too deep")
    return message


def value_of(body: bytes) -> Any:
    """Return decoded JSON; ValueError or RecursionError if it is none."""
    return decode_value(body.decode())


def checked_json(value: Any) -> str:
    """Return a value as JSON text; ValueError if it is too deep or too large to be passed on."""
    if isinstance(value, dict | list) and is_deep(value):
        raise ValueError(f"a value is nested deeper than {MOST_DEPTH}")
    text = encode_json(value)
    if len(text) > MOST_RESULT:
        raise ValueError(f"a result of {len(text):,} bytes")
    return text


def is_deep(value: Any, most: int = MOST_DEPTH) -> bool:
    """Tell whether lists and objects are nested deeper than `most`; without recursion."""
    layer = [value]
    for _ in range(most + 1):
        layer = [
            inner
            for each in layer
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True


def time_of(value: Any) -> float:
    """Return a time in seconds; raise TypeError, ValueError or OverflowError for another value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("expected a time")
    return float(value)


def _text_of(value: Any, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"expected a text of at most {most} characters")
    return value


def _matching(value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.match(value):
        raise ValueError(f"expected {pattern.pattern}, found {value!r:.60}")
    return value


def _count_of(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"expected a number from 0 to {most}")
    return value


def _status_of(value: Any) -> str:
    if value not in STATUSES:
        raise ValueError(f"no status: {value!r:.60}")
    return str(value)


def _error_of(value: Any) -> Error:
    if not isinstance(value, dict):
        raise TypeError("an error is no object")
    kind, message = value.get("type", ""), value.get("message", "")
    return Error(_text_of(kind, _LONGEST_TYPE), _text_of(message, LONGEST_TEXT))

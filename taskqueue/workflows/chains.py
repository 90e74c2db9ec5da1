"""A chain in a header: the steps that are left travel with each workitem; no process keeps them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from taskqueue.messages import jsonrpc
from taskqueue.messages.options import NONE, Options
from taskqueue.messages.routing import checked_type
from taskqueue.workflows.canvas import Chain
from taskqueue.workflows.wire import MOST_CHAIN, MOST_DEPTH, decode_at, decode_value, encode_json, is_deep

_LONGEST_ID: Final = 200  # characters
#: The beginning of a header as `Remaining` writes it, before the first step, and its end.
_OWN: Final = re.compile(r'\{"id":("(?:[^"\\]|\\.){1,1200}"),"number":([1-9][0-9]{0,4}),"steps":\[')
_END: Final = "]}"
_OPTIONS: Final = frozenset(each.name for each in fields(Options))


@dataclass(frozen=True, slots=True)
class Remaining:
    """The steps of a chain that are left.

    Args:
        id: of the chain, which is that of its first workitem.
        number: how many of its steps are begun.
        steps: each with its `type`, its `params` behind the result of the step before, and its `options`.
    """

    id: str
    number: int
    steps: tuple[Mapping[str, Any], ...]

    @classmethod
    def of_chain(cls, chain: Chain, id_: str, options: Options = NONE) -> Self:
        """Return the steps behind the first one of a chain.

        options -- of its client, for all steps: of them, tenant, priority and tags count

        Raises ValueError for a chain that a header cannot express.
        """
        if len(chain.steps) != len(chain.parts) or any("map" in each or "on" in each for each in chain.steps):
            raise ValueError("its parts are not all calls")
        shared = Options(options.priority, options.tenant, options.tags).as_json()
        return cls(id_, 1, tuple(_following(each, shared) for each in chain.steps[1:]))

    def encode(self) -> str:
        """Return the header; ValueError if it is too large."""
        plain = {"id": self.id, "number": self.number, "steps": self.steps}
        header = encode_json(plain)
        if len(header) > MOST_CHAIN:
            raise ValueError(f"its steps have {len(header):,} bytes; a header has at most {MOST_CHAIN:,}")
        return header


@dataclass(frozen=True, slots=True)
class Link:
    """The next step of a chain, as a consumer reads it in a header; those behind it stay text.

    Args:
        id: of the chain.
        number: how many of its steps are begun.
        step: the next one.
        others: the JSON text of those behind it, separated by commas.
    """

    id: str
    number: int
    step: Mapping[str, Any]
    others: str

    @classmethod
    def decode(cls, header: Any) -> Self:
        """Return the next step of a header; ValueError if it has none, or its value is malformed."""
        if not isinstance(header, str) or len(header) > MOST_CHAIN:
            raise ValueError(f"expected a text of at most {MOST_CHAIN:,} characters")
        try:
            return cls._decode_own(header)
        except (ValueError, RecursionError):  # not as we write it
            return cls._decode_own(_rewritten(header))

    @classmethod
    def _decode_own(cls, header: str) -> Self:
        """Decode a header as `Remaining` writes it: a thousand steps are not decoded for each of them."""
        found = _OWN.match(header)
        if found is None:
            raise ValueError("malformed")
        id_, number = decode_value(found[1]), int(found[2])
        step, end = decode_at(header, found.end())
        last = len(header) - len(_END)
        others = header[end:last]
        is_whole = end <= last and header.endswith(_END) and others[:1] in ("", ",")
        is_valid = is_whole and isinstance(step, dict) and len(id_) <= _LONGEST_ID and number <= MOST_CHAIN
        if not is_valid or is_deep(step, MOST_DEPTH + 20):
            raise ValueError("malformed")
        return cls(id_, number, step, others[1:])

    def rest(self) -> str | None:
        """Return the header of the next workitem; None if it is the last."""
        start = f'{{"id":{encode_json(self.id)},"number":{self.number + 1},"steps":['
        return f"{start}{self.others}{_END}" if self.others else None

    @property
    def next_id(self) -> str:
        """The id of the next workitem."""
        return f"{self.id}.{self.number}"

    def next_call(self, value: Any, id_: str) -> tuple[str, bytes, Options]:
        """Return type, body and options of the next workitem.

        value -- the result of the step before
        id_ -- of the request

        Raises ValueError, TypeError or Unroutable for a malformed step.
        """
        step = self.step
        type_, params, options = checked_type(step["type"]), step["params"], step.get("options", {})
        if not isinstance(params, list) or not isinstance(options, dict) or not options.keys() <= _OPTIONS:
            raise ValueError("a malformed step")
        return type_, jsonrpc.request(type_, [value, *params], id_), Options.checked(**options)


def _rewritten(header: str) -> str:
    """Return a header of another program as we write it. Raises ValueError."""
    try:
        plain = decode_value(header)
        id_, number, steps = plain["id"], plain["number"], tuple(plain["steps"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"malformed: {error!r:.100}") from None
    is_valid = isinstance(id_, str) and 0 < len(id_) <= _LONGEST_ID and type(number) is int
    if not is_valid or not 0 < number <= MOST_CHAIN or not steps or is_deep(plain, MOST_DEPTH + 20):
        raise ValueError("malformed")
    return Remaining(id_, number, steps).encode()


def _following(step: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step as a header has it: without the result of the step before among its arguments."""
    options = {**step.get("options", {}), **shared}
    plain = {"type": step["type"], "params": step["params"][1:]}
    return plain | {"options": options} if options else plain

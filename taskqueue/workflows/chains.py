"""A chain in a header: the steps that are left travel with each workitem; no process keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from taskqueue.messages import jsonrpc
from taskqueue.messages.options import NONE, Options
from taskqueue.messages.routing import checked_type
from taskqueue.workflows.canvas import Chain
from taskqueue.workflows.wire import MOST_CHAIN, MOST_DEPTH, decode_value, encode_json, is_deep

_LONGEST_ID: Final = 200  # characters
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

    @classmethod
    def decode(cls, header: Any) -> Self:
        """Return the steps in a header; ValueError if it has none, or its value is malformed."""
        if not isinstance(header, str) or len(header) > MOST_CHAIN:
            raise ValueError(f"expected a text of at most {MOST_CHAIN:,} characters")
        try:
            plain = decode_value(header)
            id_, number, steps = plain["id"], plain["number"], tuple(plain["steps"])
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"malformed: {error!r:.100}") from None
        is_valid = isinstance(id_, str) and 0 < len(id_) <= _LONGEST_ID and type(number) is int
        if not is_valid or not 0 < number <= MOST_CHAIN or not steps or is_deep(plain, MOST_DEPTH + 20):
            raise ValueError("malformed")
        return cls(id_, number, steps)

    def encode(self) -> str:
        """Return the header; ValueError if it is too large."""
        plain = {"id": self.id, "number": self.number, "steps": self.steps}
        header = encode_json(plain)
        if len(header) > MOST_CHAIN:
            raise ValueError(f"its steps have {len(header):,} bytes; a header has at most {MOST_CHAIN:,}")
        return header

    def rest(self) -> str | None:
        """Return the header of the next workitem; None if it is the last."""
        steps = self.steps[1:]
        return type(self)(self.id, self.number + 1, steps).encode() if steps else None

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
        step = self.steps[0]
        type_, params, options = checked_type(step["type"]), step["params"], step.get("options", {})
        if not isinstance(params, list) or not isinstance(options, dict) or not options.keys() <= _OPTIONS:
            raise ValueError("a malformed step")
        return type_, jsonrpc.request(type_, [value, *params], id_), Options.checked(**options)


def _following(step: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step as a header has it: without the result of the step before among its arguments."""
    options = {**step.get("options", {}), **shared}
    plain = {"type": step["type"], "params": step["params"][1:]}
    return plain | {"options": options} if options else plain

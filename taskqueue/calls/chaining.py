"""Calls of chains: one request, which has the steps that follow it in a header."""

from collections.abc import Iterator
from typing import Any

from taskqueue.amqp.properties import Properties
from taskqueue.calls.call import Call, CallOwner
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.options import Options
from taskqueue.workflows.canvas import Chain
from taskqueue.workflows.chains import Remaining


def chained(
    owner: CallOwner, chain: Chain, id_: str, client: object, options: Options
) -> tuple[Call[Any], bytes, Options]:
    """Return the call of a chain, the body of its first request, and the options of that.

    options -- of the client

    Raises ValueError if a header cannot express the chain.
    """
    try:
        remaining = Remaining.of_chain(chain, id_, options)
        if remaining.steps:
            remaining.encode()
    except ValueError as error:
        raise ValueError(f"chain {chain.name!r}: {error}; start it as a workflow: Client.start") from None
    first = chain.steps[0]
    own = Options.checked(**first.get("options", {}))
    call: Call[Any] = Call(owner, id_, first["type"], client)
    call.chain = remaining if remaining.steps else None
    return call, jsonrpc.request(first["type"], first["params"], id_), options.over(own)


def marked(call: Call[Any], properties: bytes) -> bytes:
    """Return the encoded properties of a call's request, with the header of its chain if it has one."""
    if call.chain is None:
        return properties
    return Properties.decode(properties).with_headers({names.CHAIN: call.chain.encode()}).encode()


def ids_of(call: Call[Any]) -> Iterator[str]:
    """Yield the ids of a call's workitems: of a chain, those that may follow it, too."""
    yield call.id
    if call.chain is not None:
        yield from (f"{call.id}.{number + 1}" for number in range(len(call.chain.steps)))

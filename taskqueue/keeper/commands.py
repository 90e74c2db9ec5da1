"""Commands to the active keeper: list the keys with their holders, and free a key."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from taskqueue.messages import results
from taskqueue.messages.content import JSON
from taskqueue.messages.results import Failure
from taskqueue.unique.claims import Claim, Claims
from taskqueue.unique.wire import RELEASE, Result, Scope, encode_end

_MOST_LISTED: Final = 1000
_FIELDS: Final = ("worker_type", "tenant", "key")


def listed(claims: Claims, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys in use that have the worker type, tenant and key that are asked for."""
    wanted = [(place, str(asked[name])) for place, name in enumerate(_FIELDS) if name in asked]
    found = [
        _described(scope, claim)
        for scope, claim in _all(claims)
        if all(scope[place] == value for place, value in wanted)
    ]
    return {"keys": found[:_MOST_LISTED], "left_out": max(0, len(found) - _MOST_LISTED)}


def releases(claims: Claims, asked: Mapping[str, Any]) -> list[bytes]:
    """Return the entries of the log that free a key; none if nobody has it."""
    worker_type, tenant, key = (str(asked.get(name, "")) for name in _FIELDS)
    scope = worker_type, tenant, key
    body = results.encode_failure(Failure("KeyReleased", "an administrator has released the key"), None)
    result = Result(results.CANCELLED, JSON, body)
    return [
        encode_end(scope, claim.id, time.time(), result, kind=RELEASE)
        for claim in (claims.running.get(scope), claims.waiting.get(scope))
        if claim is not None
    ]


def _all(claims: Claims) -> Iterator[tuple[Scope, Claim]]:
    yield from claims.running.items()
    yield from claims.waiting.items()


def _described(scope: Scope, claim: Claim) -> dict[str, Any]:
    state = "over" if claim.ended else "waits" if claim.wait else "in progress"
    until = claim.kept_until if claim.ended else claim.until
    plain = {"workitem": claim.id, "state": state, "until": until, "followers": len(claim.followers)}
    return dict(zip(_FIELDS, scope, strict=True)) | plain

"""Messages about claims: what dispatchers and consumers write into the log, and what the keeper answers.

The body of a message is a line of JSON; behind its line feed there may be the result of a workitem, as bytes.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

from taskqueue.errors import BadClaim
from taskqueue.messages.jsonrpc import TooMany, decode_bounded

#: Worker type, tenant and key: workitems with the same ones are the same work.
Scope = tuple[str, str, str]

KIND: Final = "kind"
#: The kinds of entries that change claims.
ASK, ROUTED, VOID, END, RELEASE = "ask", "routed", "void", "end", "release"
#: The other kinds of messages in the log.
TOLD, OWED, MARK, SNAPSHOT, CHUNK, COMMAND = "told", "owed", "mark", "snapshot", "chunk", "command"

_LONGEST_SHORT: Final = 255  # bytes of a short string (AMQP 0-9-1, 4.2.5.3)
_LARGEST_HEAD: Final = 16 * 1024 * 1024  # bytes
#: Maximum bytes of a result that followers get.
LARGEST_RESULT: Final = 1024 * 1024


class Verdict(StrEnum):
    """The keeper's answer to a dispatcher that asks for a key."""

    MINE = "mine"  # the workitem has the key: route it
    TAKEN = "taken"  # another one has it
    HERE = "here"  # the same workitem has been routed before
    LATER = "later"  # a debounced workitem waits until the one that runs is over
    FULL = "full"  # too many keys are in use


@dataclass(frozen=True, slots=True)
class Follower:
    """A caller that gets the result of another one's workitem."""

    reply_to: str
    correlation_id: str
    is_call: bool = False  # whether it sent a JSON-RPC request
    call_id: Any = None  # of that request


@dataclass(frozen=True, slots=True)
class Ask:
    """A dispatcher's question whether it may route a workitem.

    Args:
        scope: worker type, tenant and key.
        id: the workitem's id.
        number: counts the dispatcher's questions; the answer has it.
        time: seconds since 1970.
        kept_until: seconds since 1970 until which the key is taken though the workitem is over; 0 for none.
        until: seconds since 1970 at which the key is free whatever became of the workitem.
        debounce: seconds that the workitem waits for a later one; 0 for none.
        is_settled: whether it has waited so long.
        follower: who wants the result; None for nobody.
        token: random; the workitem takes it along if it is routed, and its end has it. "" for none, as in
            questions of earlier releases.
    """

    scope: Scope
    id: str
    number: int
    time: float
    kept_until: float
    until: float
    debounce: float = 0.0
    is_settled: bool = False
    follower: Follower | None = None
    token: str = ""

    @classmethod
    def of_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return what `asdict` has made of one."""
        follower = plain["follower"]
        return cls(
            scope_of(plain["scope"]),
            short_of(plain["id"]),
            int(plain["number"]),
            time_of(plain["time"]),
            time_of(plain["kept_until"]),
            time_of(plain["until"]),
            time_of(plain["debounce"]),
            is_settled=bool(plain["is_settled"]),
            follower=None if follower is None else follower_of(follower),
            token=short_of(plain.get("token", "")),
        )


class Answer(NamedTuple):
    """The keeper's answer."""

    number: int
    verdict: Verdict
    owner: str = ""  # the id of the workitem that has the key
    ended: float = 0.0  # when that was over, in seconds since 1970; 0 while it is not
    is_followed: bool = False  # whether the caller gets its result
    wait: float = 0.0  # seconds until the workitem asks again


class Result(NamedTuple):
    """The result of a workitem."""

    status: str
    content_type: str
    body: bytes


class Message(NamedTuple):
    """A message in the log."""

    head: dict[str, Any]
    result: bytes = b""

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.head[KIND])


def scope_of(value: Any) -> Scope:
    """Return a scope as JSON had it."""
    worker_type, tenant, key = map(str, value)
    return short_of(worker_type), tenant, key


def follower_of(plain: Mapping[str, Any]) -> Follower:
    """Return a follower as JSON had it; it gets no id of a call that none can have."""
    texts = queue_of(plain["reply_to"]), short_of(plain["correlation_id"])
    return Follower(*texts, bool(plain["is_call"]), _call_id_of(plain["call_id"]))


def _call_id_of(value: Any) -> Any:
    try:
        if isinstance(value, str):
            return short_of(value)
        if value is not None:
            time_of(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return value


def short_of(value: Any) -> str:
    """Return a text that the wire takes as a short string; raise TypeError or ValueError for another one."""
    if not isinstance(value, str):
        raise TypeError("expected a text")
    if len(value.encode("utf-8", "surrogateescape")) > _LONGEST_SHORT:
        raise ValueError(f"a text of more than {_LONGEST_SHORT} bytes")
    return value


def queue_of(value: Any) -> str:
    """Return the name of a queue; raise TypeError or ValueError if it can be none."""
    short_of(value).encode()  # names are UTF-8, other short strings may be anything
    return str(value)


def time_of(value: Any) -> float:
    """Return a time in seconds; raise TypeError, ValueError or OverflowError for another value."""
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError("expected a time")
    return seconds


def check_end(head: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError, ValueError or OverflowError if an end lacks what its followers are told."""
    for name in ("id", "status", "content_type"):
        short_of(head[name])
    scope_of(head["scope"])
    time_of(head["time"])
    bool(head["is_whole"])


def encode(head: Mapping[str, Any], result: bytes = b"") -> bytes:
    """Return a message's body."""
    return json.dumps(head).encode() + b"\n" + result


def encode_asks(asker: str, asks: Iterable[Ask]) -> bytes:
    """Return the questions of a dispatcher that is answered in the queue `asker`."""
    return encode({KIND: ASK, "asker": asker, "asks": [asdict(each) for each in asks]})


def encode_routed(claims: Iterable[tuple[Scope, str]]) -> bytes:
    """Return that the broker has confirmed these workitems: scopes and ids."""
    return encode({KIND: ROUTED, "claims": list(claims)})


def encode_end(
    scope: Scope, workitem: str, at: float, result: Result, *, token: str | None = None, kind: str = END
) -> bytes:
    """Return that a workitem is over, with its result, which is left out if it is too large.

    Args:
        scope: worker type, tenant and key.
        workitem: its id.
        at: when it was over, in seconds since 1970.
        result: its result.
        token: that came with the workitem; "" if none did. None: not told, as by earlier releases.
        kind: RELEASE frees the key in any case.
    """
    status, content_type, body = result
    is_whole = len(body) <= LARGEST_RESULT
    head = {KIND: kind, "scope": scope, "id": workitem, "time": at, "status": status}
    head |= {} if token is None else {"token": token}
    return encode(head | {"content_type": content_type, "is_whole": is_whole}, body if is_whole else b"")


def encode_owed(end: Message, followers: Iterable[Follower]) -> bytes:
    """Return that these followers have not got a result yet, with the end that has it."""
    plain = [asdict(each) for each in followers]
    return encode(end.head | {KIND: OWED, "followers": plain}, end.result)


def followers_in(head: Mapping[str, Any]) -> tuple[Follower, ...]:
    """Return the followers that `encode_owed` wrote; raise what `check_end` raises for a damaged message."""
    check_end(head)
    return tuple(follower_of(each) for each in head["followers"])


def encode_answers(answers: Iterable[Answer]) -> bytes:
    """Return answers to one dispatcher."""
    return json.dumps([list(each) for each in answers]).encode()


def decode_answers(body: bytes) -> list[Answer]:
    """Return the answers of the keeper."""
    return [Answer(each[0], Verdict(each[1]), *each[2:]) for each in json.loads(body)]


def decode(body: bytes) -> Message:
    """Return a message of the log; raise BadClaim if it is none."""
    end = body.find(b"\n", 0, _LARGEST_HEAD)
    try:
        head = decode_bounded(body[: end if end >= 0 else _LARGEST_HEAD])
    except (ValueError, RecursionError, TooMany):
        raise BadClaim("a message in the log of claims is no JSON") from None
    if not isinstance(head, dict) or not isinstance(head.get(KIND), str):
        raise BadClaim("a message in the log of claims has no kind")
    return Message(head, body[end + 1 :] if end >= 0 else b"")

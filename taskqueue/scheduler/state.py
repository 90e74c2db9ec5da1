"""The state of a schedule in the register: its definition and its last tick."""

import contextlib
import hmac
import json
import math
import secrets
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

from taskqueue.broker.scheduling import DEFINE
from taskqueue.errors import BadSchedule
from taskqueue.messages.jsonrpc import TooMany, decode_bounded
from taskqueue.schedules.definition import Definition
from taskqueue.schedules.timing import Timing

#: Kinds of messages in the register.
KIND: Final = "kind"
SCHEDULE, MARK, HELLO, COMMAND = "schedule", "mark", "hello", "command"

#: Maximum number of schedules; the leader holds a message for each of them.
MOST_SCHEDULES: Final = 20_000

_LARGEST: Final = 64 * 1024 * 1024  # bytes of an announcement
_LARGEST_OTHER: Final = 1024 * 1024  # bytes of any other message
_LATEST: Final = 221_845_305_600.0  # the year 9000, in seconds since 1970; timings end before 9998
_HIGHEST: Final = 2**53  # of a count
_TOKEN: Final = 32  # characters of a token
_FIRST_WINDOW: Final = 3600.0  # seconds


def _new_secret() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class State:
    """One schedule as the register keeps it; each change is a new version.

    Args:
        definition: what its author wrote.
        version: counts the changes.
        last: seconds since 1970; what was due until then is done with.
        paused: whether its ticks are left out.
        sources: the configurations and plugins that define it; none if it was added by a command.
        running: the id of the workitem that must be over before the next tick; "" for none.
        fired: number of its ticks that were fired.
        skipped: number of its ticks that were left out because of `running`.
        fired_at: the last fired tick; 0 for none.
        writer: which scheduler wrote this version.
        secret: makes the tokens by which the completions of its workitems are known.
    """

    definition: Definition
    version: int = 0
    last: float = 0.0
    paused: bool = False
    sources: tuple[str, ...] = ()
    running: str = ""
    fired: int = 0
    skipped: int = 0
    fired_at: float = 0.0
    writer: str = field(default="", compare=False)
    secret: str = field(default_factory=_new_secret, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The schedule's name."""
        return self.definition.name

    def after_firing(self, tick: float) -> Self:
        """Return the state after a tick was fired."""
        running = "" if self.definition.overlap else self.definition.tick_id(tick)
        done = {"last": max(tick, self.last), "fired": self.fired + 1, "fired_at": tick}
        return replace(self, running=running, **done)  # type: ignore[arg-type] # floats and a str

    def after_skipping(self, tick: float) -> Self:
        """Return the state after a tick was left out because an earlier one's workitem is not over."""
        return replace(self, last=max(tick, self.last), skipped=self.skipped + 1)

    def in_words(self) -> str:
        """Return what it does now."""
        if self.paused:
            return "paused"
        return f"waits for the end of {self.running}" if self.running else "active"

    def coming(self, now: float) -> Iterator[float]:
        """Yield the next times, in seconds since 1970; none if it is paused or its zone is unknown here."""
        if not self.paused:
            with contextlib.suppress(BadSchedule):
                yield from self.definition.next_times(max(self.last, now))

    def token(self, workitem: str) -> str:
        """Return the token that a workitem has, and its completion: no producer can guess it, unlike its id.

        It needs no state of its own: a successor knows it of a tick whose firing nobody has written yet.
        """
        return hmac.digest(self.secret.encode(), workitem.encode(), "sha256").hex()[:_TOKEN]

    def told(self) -> dict[str, Any]:
        """Return what answers to commands have: all but the secret."""
        return {name: value for name, value in self.as_json().items() if name != "secret"}

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        plain = asdict(self) | {"definition": self.definition.as_json(), "sources": list(self.sources)}
        return {KIND: SCHEDULE} | plain

    @classmethod
    def of_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the state that `as_json` returned; raise BadSchedule if it is none."""
        try:
            definition = Definition.checked(plain["definition"], is_ours=False)
            sources = tuple(str(source) for source in plain["sources"])
            texts = {name: str(plain[name]) for name in ("running", "writer")}
            numbers = {name: _count(plain[name]) for name in ("version", "fired", "skipped")}
            times = {name: _time(plain[name]) for name in ("last", "fired_at")}
            paused = bool(plain["paused"])
            secret = str(plain.get("secret") or _new_secret())
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadSchedule(f"a schedule in the register cannot be read: {error!r:.200}") from None
        return cls(definition, paused=paused, sources=sources, secret=secret, **texts, **numbers, **times)  # type: ignore[arg-type]


def _count(value: Any) -> int:
    number = int(value)
    if not 0 <= number <= _HIGHEST:
        raise ValueError("a count is out of range")
    return number


def _time(value: Any) -> float:
    seconds = float(value)
    if not (math.isfinite(seconds) and 0 <= seconds <= _LATEST):
        raise ValueError("a time is out of range")
    return seconds


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message of the register as its body."""
    return json.dumps(message).encode()


def decode(body: bytes) -> dict[str, Any]:
    """Return a message of the register; raise BadSchedule if it is none, or too large."""
    if len(body) > _LARGEST:
        raise BadSchedule(f"a message of {len(body)} bytes in the register")
    try:
        message = decode_bounded(body)
    except TooMany as error:
        raise BadSchedule(f"a message in the register has {error}") from None
    except (ValueError, RecursionError):
        raise BadSchedule("a message in the register is no JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get(KIND), str):
        raise BadSchedule("a message in the register has no kind")
    if message[KIND] != DEFINE and len(body) > _LARGEST_OTHER:
        raise BadSchedule(f"a message of {len(body)} bytes in the register")
    return message


def latest(timing: Timing, after: float, until: float, most: int) -> list[float]:
    """Return the last `most` times after `after`, until `until`, in order.

    It looks back in growing windows: a schedule of every second may have missed a year.
    """
    window = _FIRST_WINDOW
    while True:
        found: deque[float] = deque(maxlen=most)
        begin = max(after, until - window)
        at = timing.next_after(begin)
        while at <= until:
            found.append(at)
            at = timing.next_after(at)
        if len(found) == most or begin == after:
            return list(found)
        window *= 8

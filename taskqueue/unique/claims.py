"""The claims on keys: a state machine without clocks or input, driven by the entries of a log.

The same entries in the same order give the same claims, whoever applies them: each keeper does that to know
what the one before it knew.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, NamedTuple

from taskqueue.unique.wire import (
    ASK,
    END,
    RELEASE,
    ROUTED,
    VOID,
    Answer,
    Ask,
    Follower,
    Scope,
    Verdict,
    check_end,
    follower_of,
    queue_of,
    scope_of,
    short_of,
    time_of,
)

#: Maximum number of keys in use; a claim takes about a kilobyte.
MOST_CLAIMS: Final = 100_000
MOST_FOLLOWERS: Final = 1000  # of a workitem
_MOST_TOKENS: Final = 10  # of a claim
#: Seconds after which a claim counts as unrouted for good if its dispatcher has ended and nobody asked again:
#: the broker redelivers what that dispatcher had, which is then asked for at once.
_ORPHANED: Final = 300.0
_DOUBTFUL: Final = 60.0  # seconds after which a dispatcher that has not routed is asked whether it will
_PURGE_DELAY: Final = 1.0  # seconds between two searches for claims that are over
_SLACK: Final = 60.0  # seconds that the clocks of hosts may differ


@dataclass(slots=True)
class Claim:
    """A workitem that has a key, or that waits to get it."""

    id: str
    asker: str  # the dispatcher that may route it; "" for one that has ended
    number: int  # of that dispatcher's question
    asked: float  # when it was asked for last, in seconds since 1970
    kept_until: float
    until: float
    is_routed: bool = False
    ended: float = 0.0
    wait: float = 0.0  # seconds until it asks again, while it waits
    rival: tuple[str, int] | None = None  # a later question for the same workitem
    #: Those of its questions, any of which may have been routed; () if an earlier release may have.
    tokens: tuple[str, ...] = ()
    reply: Follower | None = None  # its own caller, while it waits
    followers: dict[str, Follower] = field(default_factory=dict)  # by the ids of their workitems

    def is_free(self, now: float) -> bool:
        """Return whether another workitem may have the key."""
        if now >= self.until or (self.ended and now >= self.kept_until):
            return True
        return not (self.asker or self.is_routed) and now >= self.asked + _ORPHANED

    def add_token(self, token: str) -> None:
        """Add the token of a further question, which may be routed in the place of the first one."""
        if not token:
            self.tokens = ()
        elif self.tokens and token not in self.tokens:
            first, *others = self.tokens
            self.tokens = (first, *others[2 - _MOST_TOKENS :], token)

    def is_ended_by(self, head: Mapping[str, Any]) -> bool:
        """Return whether an end is that of the workitem which has the key, and not that of a copy.

        Who knows the id may publish a copy past the dispatchers, but does not know the token. A consumer of
        an earlier release does not tell tokens: its ends count, else the keys of its workitems stayed taken.
        """
        if self.id != str(head["id"]) or self.ended:
            return False
        return not self.tokens or "token" not in head or head["token"] in self.tokens


class Effect(NamedTuple):
    """The consequences of an entry."""

    is_change: bool  # whether the claims are others now
    answers: tuple[tuple[str, Answer], ...] = ()  # each with the queue of its dispatcher
    followers: tuple[Follower, ...] = ()  # who get the result that the entry has


_PLAIN: Final = tuple(each.name for each in fields(Claim) if each.name not in ("reply", "followers"))
_NOTHING: Final = Effect(is_change=False)


class Claims:
    """All claims."""

    def __init__(self) -> None:
        self.running: dict[Scope, Claim] = {}  # by key; also those that are over, but kept
        self.waiting: dict[Scope, Claim] = {}  # debounced ones
        self._purged = 0.0

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting)

    def apply(self, head: Mapping[str, Any]) -> Effect:
        """Apply an entry. Raises KeyError, TypeError or ValueError if it lacks something."""
        acts: dict[str, Callable[[Mapping[str, Any]], Effect]] = {
            ASK: self._take_asks,
            ROUTED: self._take_routed,
            VOID: self._take_void,
            END: self._take_end,
            RELEASE: self._take_release,
        }
        return acts[head["kind"]](head)

    def purge(self, now: float) -> None:
        """Forget claims that have been over for long enough that no host's clock contradicts."""
        for claims in (self.running, self.waiting):
            for scope in [scope for scope, claim in claims.items() if claim.is_free(now - _SLACK)]:
                del claims[scope]

    # --- questions ---

    def _take_asks(self, head: Mapping[str, Any]) -> Effect:
        asker = queue_of(head["asker"])
        asks = [Ask.of_json(plain) for plain in head["asks"]]
        found = [self._ask(asker, ask) for ask in asks]
        answers = tuple(answer for effect in found for answer in effect.answers)
        return Effect(any(effect.is_change for effect in found), answers)

    def _ask(self, asker: str, ask: Ask) -> Effect:
        if ask.debounce and not ask.is_settled:
            return self._wait(asker, ask)
        if ask.debounce and (waiting := self._live(self.waiting, ask)) is not None:
            if waiting.id != ask.id:
                return self._taken(asker, ask, waiting)
            running = self._live(self.running, ask)
            if running is not None and running.id != ask.id:
                answer = Answer(ask.number, Verdict.LATER, running.id, wait=ask.debounce)
                return Effect(is_change=False, answers=((asker, answer),))
            del self.waiting[ask.scope]
            return self._grant(self.running, asker, ask, waiting.followers)
        running = self._live(self.running, ask)
        if running is None:
            return self._grant(self.running, asker, ask, {})
        return self._same(asker, ask, running) if running.id == ask.id else self._taken(asker, ask, running)

    def _live(self, claims: dict[Scope, Claim], ask: Ask) -> Claim | None:
        """Return the claim on a key; None, and forget it, if the key is free."""
        claim = claims.get(ask.scope)
        if claim is not None and claim.is_free(ask.time):
            del claims[ask.scope]
            return None
        return claim

    def _grant(
        self, claims: dict[Scope, Claim], asker: str, ask: Ask, followers: dict[str, Follower]
    ) -> Effect:
        if len(self) >= MOST_CLAIMS and ask.time - self._purged >= _PURGE_DELAY:
            self._purged = ask.time
            self.purge(ask.time)
        if len(self) >= MOST_CLAIMS:
            return Effect(is_change=False, answers=((asker, Answer(ask.number, Verdict.FULL)),))
        claim = Claim(ask.id, asker, ask.number, ask.time, ask.kept_until, ask.until, followers=followers)
        claim.tokens = (ask.token,) if ask.token else ()
        claims[ask.scope] = claim
        if claims is self.waiting:
            claim.wait, claim.reply = ask.debounce, ask.follower
        return _granted(claim)

    def _wait(self, asker: str, ask: Ask) -> Effect:
        """Let a workitem wait, in the place of the one that waits."""
        known = self._live(self.waiting, ask)
        if known is not None and known.id == ask.id:
            return self._same(asker, ask, known)
        followers: dict[str, Follower] = {}
        if known is not None:
            followers = known.followers
            if known.reply is not None and len(followers) < MOST_FOLLOWERS:
                followers[known.id] = known.reply
            del self.waiting[ask.scope]
        return self._grant(self.waiting, asker, ask, followers)

    def _taken(self, asker: str, ask: Ask, claim: Claim) -> Effect:
        """Refuse a key that another workitem has; its caller follows that one, if it wants a result."""
        has_room = len(claim.followers) < MOST_FOLLOWERS or ask.id in claim.followers
        is_followed = ask.follower is not None and not claim.ended and has_room
        is_change = is_followed and ask.id not in claim.followers
        if ask.follower is not None and is_change:
            claim.followers[ask.id] = ask.follower
        answer = Answer(ask.number, Verdict.TAKEN, claim.id, claim.ended, is_followed)
        answers = [(asker, answer)]
        if claim.asker and not claim.is_routed and ask.time >= claim.asked + _DOUBTFUL:
            answers += _granted(claim).answers
        return Effect(is_change, tuple(answers))

    def _same(self, asker: str, ask: Ask, claim: Claim) -> Effect:
        """Answer for a workitem that has the key itself: it was delivered or published again."""
        if claim.is_routed or claim.ended:
            return Effect(is_change=False, answers=((asker, Answer(ask.number, Verdict.HERE, claim.id)),))
        claim.asked = ask.time
        claim.add_token(ask.token)
        if not claim.asker or (claim.asker, claim.number) == (asker, ask.number):
            claim.asker, claim.number = asker, ask.number
            return _granted(claim)
        claim.rival = asker, ask.number  # the first dispatcher tells whether it still has the workitem
        return _granted(claim)

    # --- what becomes of workitems ---

    def _take_routed(self, head: Mapping[str, Any]) -> Effect:
        answers: list[tuple[str, Answer]] = []
        is_change = False
        for plain, workitem in head["claims"]:
            scope = scope_of(plain)
            for claim in filter(None, (self.running.get(scope), self.waiting.get(scope))):
                if claim.id == workitem and not claim.is_routed:
                    is_change = claim.is_routed = True
                    answers += _tell_rival(claim)
        return Effect(is_change, tuple(answers))

    def _take_void(self, head: Mapping[str, Any]) -> Effect:
        """Let others route what a dispatcher has not: all of it, or one question's."""
        asker, number = str(head["asker"]), head["number"]
        answers: list[tuple[str, Answer]] = []
        is_change = False
        for claim in (*self.running.values(), *self.waiting.values()):
            if claim.asker != asker or claim.is_routed or number not in (None, claim.number):
                continue
            is_change, claim.asker = True, ""
            if claim.rival is not None:
                (claim.asker, claim.number), claim.rival = claim.rival, None
                answers += _granted(claim).answers
        return Effect(is_change, tuple(answers))

    def _take_end(self, head: Mapping[str, Any]) -> Effect:
        check_end(head)
        scope, at = scope_of(head["scope"]), float(head["time"])
        claim = self.running.get(scope)
        if claim is None or not claim.is_ended_by(head):
            return _NOTHING
        followers, claim.followers = tuple(claim.followers.values()), {}
        answers = tuple(_tell_rival(claim))
        claim.ended = at
        if at >= claim.kept_until:
            del self.running[scope]
        return Effect(is_change=True, answers=answers, followers=followers)

    def _take_release(self, head: Mapping[str, Any]) -> Effect:
        check_end(head)
        scope, workitem = scope_of(head["scope"]), str(head["id"])
        for claims in (self.running, self.waiting):
            claim = claims.get(scope)
            if claim is not None and claim.id == workitem:
                del claims[scope]
                followers = tuple(claim.followers.values())
                return Effect(is_change=True, answers=tuple(_tell_rival(claim)), followers=followers)
        return _NOTHING

    # --- snapshots ---

    def as_json(self) -> Iterable[list[Any]]:
        """Yield each claim as `add_json` takes it."""
        for is_waiting, claims in ((False, self.running), (True, self.waiting)):
            for scope, claim in claims.items():
                plain = {name: getattr(claim, name) for name in _PLAIN}  # asdict takes ten times as long
                plain["reply"] = claim.reply and asdict(claim.reply)
                plain["followers"] = {name: asdict(each) for name, each in claim.followers.items()}
                yield [is_waiting, scope, plain]

    def add_json(self, plain: list[Any]) -> None:
        """Add a claim that `as_json` has yielded. Raises KeyError, TypeError or ValueError if it is none."""
        is_waiting, scope, fields = plain
        rival, reply = fields["rival"], fields["reply"]
        claim = Claim(
            short_of(fields["id"]),
            queue_of(fields["asker"]),
            int(fields["number"]),
            time_of(fields["asked"]),
            time_of(fields["kept_until"]),
            time_of(fields["until"]),
            wait=time_of(fields["wait"]),
            is_routed=bool(fields["is_routed"]),
            ended=time_of(fields["ended"]),
            rival=None if rival is None else (queue_of(rival[0]), int(rival[1])),
            reply=None if reply is None else follower_of(reply),
            followers={str(name): follower_of(each) for name, each in fields["followers"].items()},
            tokens=tuple(map(short_of, fields.get("tokens", ()))),  # earlier releases write none
        )
        (self.waiting if is_waiting else self.running)[scope_of(scope)] = claim


def _granted(claim: Claim) -> Effect:
    answer = Answer(claim.number, Verdict.MINE, claim.id, wait=claim.wait)
    return Effect(is_change=True, answers=((claim.asker, answer),))


def _tell_rival(claim: Claim) -> list[tuple[str, Answer]]:
    rival, claim.rival = claim.rival, None
    return [] if rival is None else [(rival[0], Answer(rival[1], Verdict.HERE, claim.id))]

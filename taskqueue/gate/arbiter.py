"""The decisions of the gate that leads: what consumers report, who has ended, what is granted."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from taskqueue.errors import BadLimitMessage
from taskqueue.limits.definition import Key, Limit
from taskqueue.limits.occupancy import Occupancy
from taskqueue.limits.turns import Turns
from taskqueue.limits.wire import Asked, Held, Identity, Reply, Report
from taskqueue.process.logs import Log

#: Seconds without a report after which a consumer is taken for dead. It kills its limited runs before, as it
#: counts from the sending of a report that the gate has replied to (SILENT_GATE in consumer/permits.py).
SILENT_CONSUMER: Final = 60.0

_ABSENT: Final = 6.0  # seconds without a report after which a consumer gets no more permits
_SUSPECT: Final = 3.0  # seconds without a report after which its supervisor is looked for
_DYING: Final = 3.0  # seconds that the workers of a dead supervisor may take to end

_MOST_CONSUMERS: Final = 10_000
_MOST_ASKS: Final = 65_535  # of a consumer; it repeats others in its next whole report


class Answer(NamedTuple):
    """A reply and where it goes."""

    reply_to: str
    reply: Reply


class Arbiter:
    """Takes reports and grants permits; its occupancy records what the log must have.

    A permit ends with its run, which its consumer reports; or with its consumer: when the next one of the
    same seat reports, when its supervisor is seen dead on this host, or after a minute of silence.
    """

    def __init__(
        self,
        limits: Mapping[str, Limit],
        occupancy: Occupancy,
        term: int,
        clock: Callable[[], float],
        is_dead: Callable[[Identity], bool],
    ) -> None:
        """Take over an occupancy.

        limits -- by name
        term -- of this leader
        clock -- returns seconds since 1970, and never goes back
        is_dead -- tells whether a consumer's supervisor is known to be dead
        """
        self._limits, self._occupancy, self._term = limits, occupancy, term
        self._clock, self._is_dead = clock, is_dead
        self._turns = Turns(occupancy)
        self._log = Log("gate")
        self._consumers = {
            name: _Consumer(Identity(*identity)) for name, identity in occupancy.consumers.items()
        }
        self._told: dict[str, _Consumer] = {}  # those to whom a reply is due

    # --- reports ---

    def take(self, report: Report, reply_to: str) -> None:
        """Act on a report; a report that is older than the last one is ignored."""
        consumer = self._find(report)
        if report.number <= consumer.number:
            return
        consumer.heard(report.number, reply_to)
        now, name = self._clock(), report.consumer
        self._told[name] = consumer
        self._take_held(name, consumer, report.held, now)
        for ended in report.ends:
            self._end(name, ended.number, None if ended.age is None else now - ended.age)
        if report.is_whole:
            consumer.waiting.clear()
            self._reconcile(name, report, now)
        for asked in report.asks:
            self._take_asks(name, consumer, asked)
        if consumer.capacity != report.capacity:
            consumer.capacity = report.capacity
            self._turns.set_capacity(name, report.capacity)

    def _find(self, report: Report) -> "_Consumer":
        consumer = self._consumers.get(report.consumer)
        if consumer is not None:
            return consumer
        if len(self._consumers) >= _MOST_CONSUMERS:
            raise BadLimitMessage(f"there are {_MOST_CONSUMERS} consumers")
        for name, other in list(self._consumers.items()):
            if other.identity.seat == report.identity.seat:
                self._gone(name)
        self._occupancy.know(report.consumer, report.identity)
        made = self._consumers[report.consumer] = _Consumer(report.identity)
        return made

    def _take_held(self, name: str, consumer: "_Consumer", permits: Iterable[Held], now: float) -> None:
        for held in permits:
            if held.number not in self._occupancy.permits[name]:
                self._adopt(name, held)
            if held.age is not None:
                self._start(name, held.number, now - held.age)
                consumer.workitems[held.number] = held.workitem

    def _reconcile(self, name: str, report: Report, now: float) -> None:
        """End what the consumer does not have: its report of the end was lost."""
        has = {held.number for held in report.held}
        has.update(number for asked in report.asks for number in asked.numbers)
        for number in [*self._turns.asked(name), *self._occupancy.permits[name]]:
            if number not in has:
                self._end(name, number, now)

    def _adopt(self, name: str, held: Held) -> None:
        """Count a run that this gate had taken for ended."""
        self._turns.withdraw(name, held.number)
        self._log.warning("consumer %s holds a permit that has ended; it counts again", name)
        self._occupancy.grant(name, held.number, held.keys)

    def _take_asks(self, name: str, consumer: "_Consumer", asked: Asked) -> None:
        consumer.waiting[asked.keys] = asked.waiting
        if not asked.waiting:
            del consumer.waiting[asked.keys]
        for number in asked.numbers:
            if number in self._occupancy.permits[name]:
                consumer.granted.append(number)  # the grant was lost
            elif not self._turns.has(name, number) and self._turns.number_of(name) < _MOST_ASKS:
                self._turns.ask(name, number, asked.keys)

    def _start(self, name: str, number: int, at: float) -> None:
        self._occupancy.start(name, number, at)
        self._turns.changed(name, self._occupancy.permits[name][number].keys)

    def _end(self, name: str, number: int, started: float | None) -> None:
        permit = self._occupancy.permits[name].get(number)
        if permit is None:
            self._turns.withdraw(name, number)
            return
        self._occupancy.end(name, number, started)
        self._consumers[name].workitems.pop(number, None)
        self._turns.changed(name, permit.keys)

    # --- consumers that end ---

    def tick(self, step: float) -> None:
        """Count `step` seconds of silence for each consumer."""
        for name, consumer in list(self._consumers.items()):
            consumer.silence += step
            if consumer.silence > _SUSPECT and self._is_dead(consumer.identity):
                consumer.orphaned += step
            if consumer.silence > _ABSENT and consumer.capacity:
                consumer.capacity = 0
                self._turns.set_capacity(name, 0)
            if consumer.silence > SILENT_CONSUMER or consumer.orphaned > _DYING:
                self._gone(name)

    def tidy(self) -> None:
        """Forget what counts no more."""
        self._occupancy.forget(self._clock())
        self._turns.look_at_all()

    def _gone(self, name: str) -> None:
        permits = list(self._occupancy.permits[name].values())
        if permits:
            identity = self._consumers[name].identity
            text = "the consumer of %s on %s is gone; %d permits have ended"
            self._log.info(text, identity.group, identity.host, len(permits))
        self._turns.forget(name)
        self._occupancy.gone(name, self._clock())
        del self._consumers[name]
        self._told.pop(name, None)
        for permit in permits:
            self._turns.changed(name, permit.keys)

    # --- grants ---

    def decide(self, *, grants: bool = True) -> list[Answer]:
        """Grant what there is room for; return the replies, for when the log has the grants.

        grants -- whether it may be granted: it is known what runs
        """
        for name, number in self._turns.grant(self._clock()) if grants else ():
            consumer = self._consumers[name]
            consumer.granted.append(number)
            self._told[name] = consumer
        answers = [
            Answer(each.reply_to, Reply(name, self._term, each.number, each.take_granted()))
            for name, each in self._told.items()
        ]
        self._told.clear()
        return answers

    def next_due(self) -> float | None:
        """Return when more can be granted because of a rate, in seconds since 1970; None if nothing waits."""
        return self._turns.next_due()

    # --- for people ---

    def described(self, most: int) -> Iterator[dict[str, Any]]:
        """Yield each limit in words.

        most -- maximum number of its keys; those for which most workitems wait come first
        """
        waiting: dict[Key, int] = {}
        holders: dict[Key, list[dict[str, Any]]] = {}
        for name, consumer in self._consumers.items():
            for keys, number in consumer.waiting.items():
                for key in keys:
                    waiting[key] = waiting.get(key, 0) + number
            for number, permit in self._occupancy.permits[name].items():
                for key in permit.keys:
                    holders.setdefault(key, []).append(consumer.described(number, permit.started))
        used = {key: (permits, starts) for key, permits, starts in self._occupancy.in_use()}
        for name in sorted({*self._limits, *(key.limit for key in (*used, *waiting))}):
            limit = self._limits.get(name)
            known = [key for key in {*used, *waiting} if key.limit == name]
            known.sort(key=lambda key: (-waiting.get(key, 0), -used.get(key, (0, 0))[0], key))
            shown = [
                _described(key, used.get(key, (0, 0)), waiting.get(key, 0), holders.get(key, ()))
                for key in known[:most]
            ]
            yield {
                "name": name,
                "is_defined": limit is not None,
                "concurrency": limit.concurrency if limit is not None else None,
                "rate": limit.rate if limit is not None else "",
                "in_use": sum(used.get(key, (0, 0))[0] for key in known),
                "waiting": sum(waiting.get(key, 0) for key in known),
                "keys": shown,
                "keys_left_out": len(known) - len(shown),
            }


def _described(key: Key, used: tuple[int, int], waiting: int, holders: Any) -> dict[str, Any]:
    return {
        "by": key.by,
        "value": key.value,
        "in_use": used[0],
        "started": used[1],
        "waiting": waiting,
        "holders": list(holders),
    }


class _Consumer:
    """A consumer that has reported to this gate, or to one before it."""

    __slots__ = ("capacity", "granted", "identity", "number", "orphaned", "reply_to", "silence", "waiting",
                 "workitems")  # fmt: skip

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.number = 0  # of its last report
        self.reply_to = ""
        self.capacity = 0
        self.silence = 0.0  # seconds since its last report
        self.orphaned = 0.0  # seconds for which its supervisor is known to be dead
        self.granted: list[int] = []  # since the last reply
        self.waiting: dict[tuple[Key, ...], int] = {}  # number of workitems by keys
        self.workitems: dict[int, str] = {}  # ids by permit

    def heard(self, number: int, reply_to: str) -> None:
        self.number, self.reply_to = number, reply_to
        self.silence = self.orphaned = 0.0

    def take_granted(self) -> tuple[int, ...]:
        granted, self.granted = tuple(self.granted), []
        return granted

    def described(self, number: int, started: float | None) -> dict[str, Any]:
        return {
            "host": self.identity.host,
            "group": self.identity.group,
            "workitem": self.workitems.get(number, ""),
            "since": started,
        }

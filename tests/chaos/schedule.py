"""Which faults come, in which order, after which pauses: all of it follows from the seed."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

POOLS = ("pool a", "pool b")
DISPATCHERS = ("dispatcher a", "dispatcher b")
SERVICES = (*DISPATCHERS, *POOLS)
MONITOR = "monitor"
BROKER = "broker"
PRODUCER = "producer"
LINES = (*SERVICES, MONITOR, PRODUCER)

LONGEST_PAUSE = 0.7  # seconds between two faults
LONGEST_DELAY = 1.5  # seconds that a line is slow, or dead

#: How many of each kind are among so many faults as these are together, and whom they may hit.
DECK = {
    "kill a worker": (4, POOLS),
    "kill a consumer": (3, POOLS),
    "kill a dispatcher": (2, DISPATCHERS),
    "kill a supervisor": (1, POOLS),
    "kill a dispatcher's supervisor": (1, DISPATCHERS),
    "kill a flow": (2, DISPATCHERS),
    "kill a gate": (1, DISPATCHERS),
    "kill a keeper": (1, DISPATCHERS),
    "kill a scheduler": (1, DISPATCHERS),
    "kill the monitor": (1, (MONITOR,)),
    "restart the broker": (1, (BROKER,)),
    "kill the broker": (1, (BROKER,)),
    "cut a line": (2, LINES),
    "break a line": (1, LINES),  # as cut, and no new connection for a while
    "delay a line": (2, LINES),
    "raise an alarm": (1, (BROKER,)),  # it takes no messages for a while
    "freeze a host": (1, SERVICES),  # all processes of the service stop where they are, and go on later
    "reload": (1, SERVICES),
    "roll": (1, SERVICES),
    # Commands of administrators, which are obeyed while the other faults go on:
    "pause a type": (1, POOLS),  # on all hosts
    "scale a group": (1, POOLS),  # to 0 to 4 workers
    "replace workers": (1, POOLS),
    "drain a host": (1, POOLS),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, before it is known whom exactly it will hit."""

    number: int
    pause: float  # seconds before it
    kind: str
    target: str
    choice: float  # 0 to 1: who of those that are there then
    seconds: float  # how long it lasts, if it does

    def __str__(self) -> str:
        return f"{self.number}: {self.kind}, {self.target}"


def schedule(seed: int, number: int, longest_pause: float = LONGEST_PAUSE) -> list[Fault]:
    """Return the faults that a seed stands for; `longest_pause` is in seconds."""
    chance = random.Random(f"{seed} faults")
    kinds = _kinds(chance)
    return [_fault(chance, each, next(kinds), longest_pause) for each in range(1, number + 1)]


def _kinds(chance: random.Random) -> Iterator[str]:
    """Deal one shuffled deck after the other, so that every kind comes often."""
    while True:
        deck = list(Counter({kind: count for kind, (count, _) in DECK.items()}).elements())
        chance.shuffle(deck)
        yield from deck


def _fault(chance: random.Random, number: int, kind: str, longest_pause: float) -> Fault:
    return Fault(
        number,
        chance.uniform(0, longest_pause),
        kind,
        chance.choice(DECK[kind][1]),
        chance.random(),
        chance.uniform(0.2, LONGEST_DELAY),
    )

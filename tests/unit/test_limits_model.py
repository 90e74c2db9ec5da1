"""A model of the gate's state: never more than the limits, nothing stuck, and the log repeats the state."""

import json
import math

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from support.examples import examples

from taskqueue.limits.definition import Key, Limit
from taskqueue.limits.occupancy import Occupancy
from taskqueue.limits.turns import Turns

LIMITS = {
    "three": Limit("three", concurrency=3),
    "rate": Limit("rate", starts=2, period=10.0),
    "both": Limit("both", concurrency=2, starts=3, period=5.0),
}
KEYS = [Key("three"), *(Key(name, "tenant", value) for name in LIMITS for value in ("a", "b"))]
CONSUMERS = ["p", "q", "r"]


def in_order(snapshot):
    """Return a snapshot with its lists in an order that does not depend on who was first."""
    return {**snapshot, "permits": sorted(snapshot["permits"], key=str), "starts": sorted(snapshot["starts"])}


class Gate(RuleBasedStateMachine):
    """Consumers ask, run, end and die; a leader ends, and the next one repeats its log."""

    asks = Bundle("asks")

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.count = 0
        self.log, self.snapshot = [], None
        self.starts = []  # each real start: time and keys
        self.running = {}  # the keys of what has a permit, by consumer and number
        self.begun = set()  # those of them whose handler has begun
        self.wanted = {}  # the keys of open asks

    @initialize()
    def lead(self):
        self.occupancy = Occupancy(LIMITS)
        self.turns = Turns(self.occupancy)
        for consumer in CONSUMERS:
            self.turns.set_capacity(consumer, 4)

    @rule(
        target=asks,
        consumer=st.sampled_from(CONSUMERS),
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=2, unique_by=lambda key: key.limit),
        number=st.integers(1, 4),
        grants=st.booleans(),
    )
    def ask(self, consumer, keys, number, grants):
        asks = [(consumer, self.count + each) for each in range(1, number + 1)]
        self.count += number
        for ask in asks:
            self.wanted[ask] = tuple(keys)
            self.turns.ask(*ask, tuple(keys))
        if grants:
            self.grant()
        return multiple(*asks)

    @rule(ask=consumes(asks))
    def take_back(self, ask):
        if self.turns.withdraw(*ask):
            del self.wanted[ask]

    @rule(consumer=st.sampled_from(CONSUMERS), capacity=st.integers(0, 6))
    def change_capacity(self, consumer, capacity):
        self.turns.set_capacity(consumer, capacity)

    @rule(delay=st.sampled_from([0.0, 0.5, 4.5, 9.5, 10.0]))
    def wait(self, delay):
        self.now += delay

    @rule()
    def grant(self):
        for ask in self.turns.grant(self.now):
            keys = self.wanted.pop(ask)
            self.running[ask] = keys
            for limit in (LIMITS[key.limit] for key in keys):
                assert limit.concurrency is None or self.number_of(keys, limit) <= limit.concurrency

    def number_of(self, keys, limit):
        (key,) = [key for key in keys if key.limit == limit.name]
        return sum(key in each for each in self.running.values())

    @rule(data=st.data(), number=st.integers(1, 6))
    def begin(self, data, number):
        """Have handlers begin, however long after their permits were granted."""
        waiting = data.draw(st.permutations(sorted(self.running.keys() - self.begun)))
        for ask in waiting[:number]:
            self.begun.add(ask)
            self.starts.append((self.now, self.running[ask]))

    @rule(data=st.data())
    def tell(self, data):
        """Tell the gate of a start: after it was, which counts from then on at the earliest."""
        if self.begun:
            ask = data.draw(st.sampled_from(sorted(self.begun)))
            self.occupancy.start(*ask, self.now)
            self.turns.changed(ask[0], self.running[ask])

    @rule(data=st.data())
    def end(self, data):
        """End a run, or give back a permit that was not used."""
        if self.running:
            ask = data.draw(st.sampled_from(sorted(self.running)))
            self.occupancy.end(*ask, self.now if ask in self.begun else None)
            self.give_up(ask)

    def give_up(self, ask):
        self.begun.discard(ask)
        self.turns.changed(ask[0], self.running.pop(ask))

    @rule(consumer=st.sampled_from(CONSUMERS))
    def die(self, consumer):
        for ask in [ask for ask in self.wanted if ask[0] == consumer]:
            del self.wanted[ask]
        self.turns.forget(consumer)
        self.occupancy.gone(consumer, self.now)
        for ask in [ask for ask in self.running if ask[0] == consumer]:
            self.give_up(ask)
        self.turns.set_capacity(consumer, 4)

    @rule(is_snapshot=st.booleans())
    def change_leader(self, is_snapshot):
        self.log += json.loads(json.dumps(self.occupancy.take_changes()))
        following = Occupancy(LIMITS)
        if is_snapshot:
            self.snapshot, self.log = json.loads(json.dumps(self.occupancy.snapshot())), []
        if self.snapshot is not None:
            following.restore(self.snapshot)
        for change in self.log:
            following.apply(change)
        for each in (self.occupancy, following):
            each.forget(self.now)
        assert in_order(following.snapshot()) == in_order(self.occupancy.snapshot())
        self.occupancy, self.turns = following, Turns(following)
        for consumer in CONSUMERS:
            self.turns.set_capacity(consumer, 4)
        for ask, keys in self.wanted.items():
            self.turns.ask(*ask, keys)

    @invariant()
    def no_window_has_more_starts_than_the_rate(self):
        for key in KEYS:
            limit = LIMITS[key.limit]
            times = [at for at, keys in self.starts if key in keys]
            if limit.starts is not None:
                for first, last in zip(times, times[limit.starts :], strict=False):
                    assert last - first >= limit.period, times

    def teardown(self):
        """Everything that was asked for is granted once all runs end."""
        for _ in range(len(self.wanted) * 2 + 2):
            for consumer in CONSUMERS:
                self.turns.set_capacity(consumer, 100)
            self.grant()
            for ask in list(self.running):
                self.occupancy.end(*ask, self.now)
                self.give_up(ask)
            due = self.turns.next_due()
            self.now = max(self.now, due) if due is not None else self.now
        assert not self.wanted
        self.occupancy.forget(math.inf)
        assert not list(self.occupancy.in_use())


Gate.TestCase.settings = examples(30, stateful_step_count=40, database=None)
TestGate = Gate.TestCase

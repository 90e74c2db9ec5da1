"""The decisions of the gate, without a broker: keys, reports, consumers that end, bounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import header_table
from taskqueue.errors import BadLimitMessage
from taskqueue.gate.arbiter import SILENT_CONSUMER, Arbiter
from taskqueue.limits.definition import Key, Limit, LimitUse
from taskqueue.limits.occupancy import MOST_KEYS, Occupancy
from taskqueue.limits.parts import chunks, merged, parts_of
from taskqueue.limits.turns import Turns
from taskqueue.limits.wire import Asked, Ended, Held, Identity, Reply, Report, decode, encode

ONE = (Key("one"),)
BROKERS_MOST = 16 * 1024 * 1024  # bytes of a message that RabbitMQ 4 takes


class Gate:
    """An arbiter with a clock of the test, and consumers that report to it."""

    def __init__(self, *limits, **bounds):
        self.now = 1000.0
        self.dead = set()
        self.limits = {limit.name: limit for limit in limits or (Limit("one", concurrency=1),)}
        self.occupancy = Occupancy(self.limits, **bounds)
        self.numbers = {}
        self.lead()

    def lead(self):
        """Have another leader take over the occupancy."""
        following = Occupancy(self.limits)
        following.restore(json.loads(json.dumps(self.occupancy.snapshot())))
        self.occupancy = following
        self.arbiter = Arbiter(
            self.limits, following, 1, lambda: self.now, lambda one: one.supervisor in self.dead
        )

    def report(self, consumer, seat="", capacity=10, **content):
        number = self.numbers[consumer] = self.numbers.get(consumer, 0) + 1
        identity = Identity(seat or consumer, "machine", f"supervisor of {consumer}", "host", "group")
        report = Report(consumer, number, identity, capacity, **content)
        self.arbiter.take(Report.of_json(json.loads(report.encode())), f"reply to {consumer}")
        return self.decide()

    def decide(self):
        """Return what is granted, by consumer."""
        found = {answer.reply.consumer: list(answer.reply.granted) for answer in self.arbiter.decide()}
        return {consumer: granted for consumer, granted in found.items() if granted}

    def ask(self, consumer, *numbers, keys=ONE, **content):
        return self.report(consumer, asks=[Asked(keys, numbers, len(numbers))], **content)

    def pass_time(self, seconds):
        self.now += seconds
        for _ in range(int(seconds)):
            self.arbiter.tick(1.0)
        return self.decide()


def properties(**headers):
    return Properties(header_table=header_table(headers))


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ({"x-taskqueue-tenant": "acme"}, "acme"),
        ({"x-taskqueue-tenant": "x" * 10_000}, "x" * 100),
        ({"x-taskqueue-tenant": "\x1b[2J'; DROP\n\0"}, "\x1b[2J'; DROP\n\0"),
        ({"x-taskqueue-tenant": ["a", {"b": 1}]}, ""),
        ({"x-taskqueue-tenant": 7}, "7"),
        ({"x-other": "acme"}, ""),
    ],
)
def test_any_tenant_is_a_key(headers, value):
    key = LimitUse("one", "tenant").key(properties(**headers))
    assert key == Key("one", "tenant", value)
    report = Report("c", 1, Identity(*"smvhg"), 1, [Asked((key,), (1,), 1)])
    assert Report.of_json(decode(report.encode())).asks == report.asks


def test_a_limit_may_go_by_any_header():
    assert LimitUse("one", "x-shop").key(properties(**{"x-shop": "a"})).value == "a"
    assert LimitUse("one", "x-shop").key(Properties()).value == ""


def test_permits_are_granted_in_the_order_of_asking():
    gate = Gate()
    assert gate.ask("p", 1, 2) == {"p": [1]}
    assert gate.ask("q", 1) == {}
    assert gate.report("p", ends=[Ended(1, 0.5)]) == {"p": [2]}
    assert gate.ask("p", 3, ends=[Ended(2, 0.5)]) == {"q": [1]}


def test_a_consumer_gets_no_more_permits_than_its_workers_can_use():
    gate = Gate(Limit("one", concurrency=100))
    assert gate.ask("p", 1, 2, 3, capacity=2) == {"p": [1, 2]}
    assert gate.report("p", capacity=3) == {"p": [3]}


def test_what_needs_two_limits_waits_for_both_and_keeps_nobody_from_either():
    gate = Gate(Limit("one", concurrency=1), Limit("two", concurrency=2))
    gate.ask("p", 1, keys=ONE)
    assert gate.ask("p", 2, keys=(Key("two"), Key("one"))) == {}
    assert gate.ask("q", 1, 2, keys=(Key("two"),)) == {"q": [1, 2]}
    assert gate.report("p", ends=[Ended(1, 1.0)]) == {}
    assert gate.report("q", ends=[Ended(1, 1.0)]) == {"p": [2]}


def test_a_limit_that_is_not_defined_grants_nothing():
    assert Gate().ask("p", 1, keys=(Key("other"),)) == {}


def test_the_next_consumer_of_a_seat_ends_the_permits_of_the_last_one():
    gate = Gate()
    gate.ask("old", 1, seat="s")
    gate.ask("other", 1)
    assert gate.report("new", seat="s") == {"other": [1]}


def test_a_consumer_whose_supervisor_is_dead_holds_nothing_for_long():
    gate = Gate()
    gate.ask("p", 1)
    gate.dead.add("supervisor of p")
    gate.ask("q", 1)
    for _ in range(8):
        gate.report("q")
        gate.pass_time(1)
    assert gate.occupancy.permits["q"]


def test_a_consumer_that_is_silent_for_a_minute_holds_nothing():
    gate = Gate()
    gate.ask("p", 1)
    for _ in range(int(SILENT_CONSUMER) // 5):
        assert gate.ask("q", 1) == {}
        gate.pass_time(5)
    assert gate.pass_time(1) == {"q": [1]}


def test_a_consumer_that_does_not_report_gets_nothing():
    gate = Gate()
    gate.ask("q", 1)
    gate.ask("p", 1)
    gate.pass_time(7)
    assert gate.report("q", ends=[Ended(1, None)]) == {}
    assert gate.report("p") == {"p": [1]}


def test_a_new_leader_counts_what_consumers_have():
    gate = Gate()
    gate.ask("p", 1)
    gate.lead()
    assert gate.ask("q", 1) == {}
    held = [Held(1, ONE, 2.0, "workitem")]
    assert gate.report("p", held=held, is_whole=True) == {}
    assert gate.report("p", is_whole=True) == {"q": [1]}, "the report of the end was lost"


def test_a_grant_that_was_lost_is_repeated():
    gate = Gate()
    gate.ask("p", 1)
    gate.lead()
    assert gate.ask("p", 1, is_whole=True) == {"p": [1]}


def test_an_earlier_report_changes_nothing():
    gate = Gate()
    gate.ask("p", 1)
    late = Report("p", 0, Identity(*"smvhg"), 10, ends=[Ended(1, 1.0)])
    gate.arbiter.take(late, "reply")
    assert gate.ask("q", 1) == {}


@examples(50, database=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 2), st.booleans()), min_size=5, max_size=40))
def test_no_period_has_more_starts_than_the_rate(steps):
    """Each step waits, and lets the run before it start late and report that late, or die unheard."""
    gate = Gate(Limit("one", starts=3, period=10.0))
    starts = []
    for number, (wait, delay, is_heard) in enumerate(steps):
        granted = gate.ask("p", number)
        gate.pass_time(wait)
        for each in granted.get("p", ()):
            starts.append(gate.now)
            gate.now += delay
            gate.report("p", ends=[Ended(each, delay)] if is_heard else [], is_whole=not is_heard)
    assert all(last - first >= 10.0 for first, last in zip(starts, starts[3:], strict=False))


def test_a_permit_counts_as_a_start_until_its_start_is_told_and_for_a_period_from_then_on():
    gate = Gate(Limit("one", starts=2, period=10.0))
    assert gate.ask("p", 1, 2, 3, 4) == {"p": [1, 2]}
    gate.now += 30.0
    assert gate.report("p") == {}, "both may begin at any moment"
    assert gate.report("p", held=[Held(1, ONE, 0.0, "w")], ends=[Ended(2, 0.0)]) == {}
    gate.now += 9.9
    assert gate.report("p") == {}
    gate.now += 0.1
    assert gate.report("p") == {"p": [3, 4]}


def test_the_tenants_in_use_are_bounded():
    assert MOST_KEYS == 100_000
    gate = Gate(Limit("one", starts=1, period=86400.0))
    occupancy = Occupancy(gate.limits, most_keys=5000)
    turns = Turns(occupancy)
    turns.set_capacity("p", 10_000)
    for number in range(5001):
        turns.ask("p", number, (Key("one", "tenant", f"tenant{number}"),))
    assert len(list(turns.grant(1000.0))) == 5000
    turns.ask("p", 5002, (Key("one", "tenant", "tenant1"),))
    for number in range(5000):
        occupancy.end("p", number, 1000.0)
    occupancy.forget(1000.0 + 86400.0)
    turns.look_at_all()
    assert len(list(turns.grant(1000.0 + 86400.0))) == 2


def test_the_starts_that_are_remembered_are_bounded():
    gate = Gate(Limit("one", starts=100, period=60.0))
    occupancy = Occupancy(gate.limits, most_starts=10)
    for number in range(10):
        assert occupancy.has_room(ONE[0], 1000.0)
        occupancy.grant("p", number, ONE)
        occupancy.start("p", number, 1000.0)
    assert not occupancy.has_room(ONE[0], 1000.0)
    occupancy.forget(1060.0)
    assert occupancy.has_room(ONE[0], 1060.0)


@pytest.mark.parametrize("change", [
    {"consumer": 5}, {"number": -1}, {"identity": []}, {"capacity": 1.5}, {"asks": [[[["one"]], [1]]]},
    {"asks": [[[], [1], 1]]}, {"ends": [[1, "nan"]]}, {"held": [[1, [["one", "", ""]], -1, ""]]},
    {"asks": [[[["one", "", "x" * 1000]], [1], 1]]}, {"asks": 7},
])  # fmt: skip
def test_a_malformed_report_is_refused(change):
    plain = json.loads(Report("c", 1, Identity(*"smvhg"), 1).encode())
    with pytest.raises(BadLimitMessage):
        Report.of_json(plain | change)


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 100_000, b"\xff", b"{}" + b" " * 5_000_000])
def test_a_message_that_is_no_object_is_refused(body):
    with pytest.raises(BadLimitMessage):
        decode(body)


def test_a_reply_is_read_as_it_was_written():
    reply = Reply("c", 3, 4, (5, 6))
    assert Reply.decode(reply.encode()) == reply
    with pytest.raises(BadLimitMessage):
        Reply.decode(b'{"consumer": "c"}')


def test_a_state_of_any_size_has_parts_that_fit_into_messages_and_make_it_up():
    limits = {"one": Limit("one", concurrency=1, starts=10**6, period=86400.0)}
    occupancy = Occupancy(limits)
    for number in range(8000):  # an emoji is twelve bytes in JSON
        key = Key("one", "tenant", f"{number:05}" + "\U0001f600" * 95)
        occupancy.know(f"c{number}", Identity(*"smvhg"))
        occupancy.grant(f"c{number}", 1, (key,))
    for number in range(16_000):
        occupancy.grant("c0", number + 2, ONE)
        occupancy.end("c0", number + 2, 1000.0 + number)
    whole = occupancy.snapshot()
    assert len(encode(whole)) > BROKERS_MOST / 2
    parts = [json.loads(json.dumps(part)) for part in parts_of(whole)]
    assert max(len(encode(part)) for part in parts) < BROKERS_MOST / 2
    again = Occupancy(limits)
    again.restore(merged(parts))
    assert again.snapshot() == whole


def test_changes_of_any_size_are_divided_in_order():
    changes = [["granted", "c", number, [list(ONE[0])]] for number in range(1000)]
    divided = list(chunks(changes, 1000))
    assert [change for chunk in divided for change in chunk] == changes
    assert 1 < max(len(json.dumps(chunk)) for chunk in divided) <= 1000
    assert list(chunks([])) == [[]]
    assert list(chunks([changes[0]], 1)) == [[changes[0]]], "one that is too large alone"


def test_the_asks_of_a_consumer_are_bounded_and_the_next_report_repeats_the_others():
    gate = Gate(Limit("one", concurrency=10**6))
    numbers = tuple(range(1, 65_535 + 11))
    gate.ask("p", *numbers, capacity=0)
    assert gate.arbiter._turns.number_of("p") == 65_535
    gate.report("p", capacity=10)
    gate.ask("p", *numbers, is_whole=True, capacity=10)
    assert gate.arbiter._turns.number_of("p") == 65_535

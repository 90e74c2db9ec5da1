"""Workitems that wait go to the idlest workers, one by one, and to none that has run one for long."""

import os
import socket
from collections import deque
from dataclasses import replace

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import header_table
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery
from taskqueue.config import AmqpSettings, GroupSettings
from taskqueue.consumer import control, permits
from taskqueue.consumer.control import Reports
from taskqueue.consumer.in_flight import InFlightTable
from taskqueue.consumer.limited import LimitedQueue
from taskqueue.consumer.pending import PendingQueue, may_be_given_back
from taskqueue.consumer.permits import Permits
from taskqueue.consumer.prefetch import Prefetch
from taskqueue.consumer.suspects import Handling
from taskqueue.consumer.workers import Workers
from taskqueue.limits.definition import Key, LimitUse
from taskqueue.limits.wire import Identity, Reply, Report, decode
from taskqueue.process.logs import Log
from taskqueue.worker import frames

GOOD = GroupSettings("good", "good")
SOME = Properties(message_id="id")
IDENTITY = Identity(*"smvhg")
AHEAD = 8  # workitems that a worker may hold of those that take half a millisecond
LONG = 0.06  # seconds at one workitem after which nothing is given behind it


class Floor:
    """A pending queue, and three workers that are ready and do nothing by themselves."""

    def __init__(self):
        self.loop = EventLoop()
        self.ledger = InFlightTable(lambda _assignment: False)
        self.ends = control.pair()
        self.workers = Workers(
            self.loop,
            Reports(self.loop, self.ends[0]),
            Log("test"),
            GOOD,
            self,
        )
        prefetch = Prefetch(self.loop, 100, 3, sample=lambda: (0.0, False), on_change=lambda: None)
        prefetch.value = 100
        prefetch.performed(0.0005)
        self.congested = []  # how many waited when the pending queue was found congested
        self.handling = Handling()
        self.pending = self.make_pending(
            self.loop,
            self.workers,
            prefetch,
            self.handling.writer(),
            on_congested=lambda: self.congested.append(len(self.pending)),
        )
        self.lines = [self.hire(pid) for pid in (1, 2, 3)]
        self.run(0.01)
        assert self.workers.ready == 3

    def make_pending(self, *pieces, **options):
        return PendingQueue(*pieces, waiting=deque(), **options)

    def worker_ready(self, services):
        pass

    def worker_began(self, link, assignment):
        pass

    def hire(self, pid):
        link, line = socket.socketpair()
        giving, using = socket.socketpair()
        output, written = os.pipe()
        os.close(written)
        files = (link.detach(), output, giving.detach(), using.detach())
        self.workers.add(control.ControlMessage("worker", {"pid": pid, "name": f"good/{pid}"}, files))
        line.send(frames.ready())
        return line

    def assignment(self, properties=SOME):
        return self.ledger.enter(GOOD, Delivery(1, 0, False, properties.encode(), b""), properties)

    def enter(self, number):
        for _ in range(number):
            self.pending.enter(self.assignment())

    def give(self, *numbers):
        for link, number in zip(self.workers.with_room(100), numbers, strict=True):
            for _ in range(number):
                assert link.give(self.assignment())

    @property
    def loads(self):
        return [len(self.workers._links[pid].tasks) for pid in (1, 2, 3)]

    def run(self, seconds=0.0):
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()

    def close(self):
        for pid in (1, 2, 3):
            self.workers.remove(pid)
        self.loop.close()
        for end in (*self.ends, *self.lines, self.handling):
            end.close()


@pytest.fixture
def floor():
    floor = Floor()
    yield floor
    floor.close()


def test_the_idlest_is_given_the_next(floor):
    floor.give(0, 2, 5)
    floor.enter(6)
    floor.run()
    assert floor.loads == [4, 4, 5]


def test_what_comes_in_one_round_is_given_away_at_its_end(floor):
    floor.enter(4)
    assert floor.loads == [0, 0, 0]
    floor.run()
    assert floor.loads == [2, 1, 1]
    assert not floor.pending


def test_nobody_is_given_more_than_there_is_room_for(floor):
    floor.enter(3 * AHEAD + 2)
    floor.run()
    assert floor.loads == [AHEAD] * 3
    assert len(floor.pending) == 2


def test_nothing_is_given_to_who_has_been_at_one_workitem_for_long(floor):
    floor.give(1, 1, 0)
    floor.run(LONG)
    floor.enter(3)
    floor.run()
    assert floor.loads == [1, 1, 3]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("taskqueue.consumer.pending._CONGESTION_DELAY", 0.05)


def test_what_is_given_to_nobody_for_long_congests_the_pending_queue(floor, impatient):
    floor.give(AHEAD, AHEAD, AHEAD)
    floor.enter(2)
    floor.run(0.2)
    assert (floor.congested, floor.pending.is_congested) == ([2], True)


def test_what_is_given_away_meanwhile_congests_nothing(floor, impatient):
    floor.give(AHEAD, AHEAD, AHEAD - 1)
    floor.enter(1)
    floor.run(0.2)
    assert (floor.congested, floor.pending.is_congested) == ([], False)


@pytest.mark.parametrize(
    ("headers", "may"),
    [
        ({}, True),
        ({"x-delivery-count": 9}, True),
        ({"x-delivery-count": 10}, False),
        ({"x-delivery-count": "10"}, True),
    ],
)
def test_what_the_broker_has_delivered_often_is_not_given_back(floor, headers, may):
    assignment = floor.assignment(Properties(message_id="id").with_headers(headers))
    assert may_be_given_back(assignment) is may


def test_what_has_a_lease_is_not_given_back(floor):
    assignment = floor.assignment()
    assignment.lease = object()  # it is enough that there is one
    assert not may_be_given_back(assignment)


def test_a_worker_that_has_died_is_passed_over(floor):
    floor.lines[0].close()
    floor.enter(2)
    floor.run()
    assert floor.loads == [0, 1, 1]


# --- permits ---

LIMITED = replace(GOOD, limits=(LimitUse("one", "tenant"),))


class LimitedFloor(Floor):
    """A floor whose workitems need permits; a gate is not there, the test grants."""

    def make_pending(self, *pieces, **options):
        session = Session(
            self.loop, AmqpSettings.from_url("amqp://localhost"), "test", on_error=self.loop.fail
        )
        self.permits = Permits(self.loop, Outbound(self.loop, session, OutboundListener()), IDENTITY)
        return LimitedQueue(*pieces, group=LIMITED, permits=self.permits, **options)

    def worker_began(self, link, assignment):
        self.pending.begun(assignment, link)

    def enter_for(self, *tenants):
        for tenant in tenants:
            table = header_table({"x-taskqueue-tenant": tenant})
            self.pending.enter(self.assignment(Properties(message_id="id", header_table=table)))
        self.run()

    def report(self):
        return self.permits._whole()

    @property
    def asked(self):
        return {asked.keys[0].value: asked.numbers for asked in self.report().asks if asked.numbers}

    def grant(self, tenant):
        self.permits.take_reply(b"", Reply(self.permits._me, 1, 0, self.asked[tenant]).encode())
        self.run()


@pytest.fixture
def limited():
    floor = LimitedFloor()
    yield floor
    floor.close()


def test_the_permits_of_a_consumer_are_bounded_and_asked_for_in_turn(limited, monkeypatch):
    tenants = [f"{number:02}" for number in range(20)]
    monkeypatch.setattr(permits, "_MOST_BYTES", 3 * permits._size((Key("one", "tenant", "00"),)))
    monkeypatch.setattr(permits, "_now", lambda: 0.0)  # no gate has been silent
    limited.enter_for(*tenants)
    assert list(limited.asked) == ["00", "01", "02"]
    limited.grant("01")
    assert list(limited.asked) == ["00", "02"], "a permit that is held counts, too"
    (running,) = limited.pending._used.values()
    limited.pending.over(running[0])
    limited.pending.assign()
    assert list(limited.asked) == ["00", "02", "03"]
    limited.pending.take_out()
    limited.run()
    assert not limited.permits._bytes
    assert not limited.pending._crowded


def test_a_report_of_as_many_permits_as_a_consumer_may_ask_for_is_one_that_a_gate_takes(limited):
    key = Key("l" * 100, "b" * 100, "\U0001f600" * 100)
    while limited.permits.may_ask:
        limited.permits.ask((key._replace(value=f"{len(limited.permits._asked):03}" + key.value[3:]),))
    body = limited.report().encode()
    assert len(body) < 2 * 1024 * 1024
    assert len(Report.of_json(decode(body)).asks) == len(limited.permits._asked) > 500


def test_a_start_counts_after_its_worker_has_taken_the_workitem_however_late_that_is(limited, monkeypatch):
    now = 10.0
    monkeypatch.setattr(permits, "_now", lambda: now)
    limited.enter_for("a")
    limited.grant("a")
    assert sum(limited.loads) == 1
    (link,) = [link for link in limited.workers._links.values() if link.tasks]
    ages = []
    for step in range(4):
        if step == 2:
            link._credits._using.recv(8)  # as the worker does when it begins
        now += 20.0 if step == 1 else 0.3
        ages.append(limited.report().held[0].age)
    assert ages[:3] == [None, None, None]
    assert ages[3] == pytest.approx(0.05)

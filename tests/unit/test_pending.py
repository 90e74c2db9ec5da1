"""Who is given what waits: the idlest, one by one, and nobody who has been at one workitem for long."""

import logging
import os
import socket

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.subscription import Delivery
from taskqueue.config import GroupSettings
from taskqueue.consumer import control
from taskqueue.consumer.control import Reports
from taskqueue.consumer.in_flight import InFlightTable
from taskqueue.consumer.pending import PendingQueue, may_be_given_back
from taskqueue.consumer.prefetch import Prefetch
from taskqueue.consumer.suspects import Handling
from taskqueue.consumer.workers import Workers
from taskqueue.process.logs import Log
from taskqueue.worker import frames

GOOD = GroupSettings("good", "good")
SOME = Properties(message_id="id")
AHEAD = 8  # workitems that a worker may hold of those that take half a millisecond
LONG = 0.06  # seconds at one workitem after which nothing is given behind it


class Floor:
    """A lobby, and three workers that are ready and do nothing by themselves."""

    def __init__(self):
        self.loop = EventLoop()
        self.ledger = InFlightTable(lambda _assignment: False)
        self.ends = control.pair()
        self.workers = Workers(
            self.loop,
            Reports(self.loop, self.ends[0]),
            Log("test"),
            GOOD,
            on_ready=logging.debug,
            on_begin=logging.debug,
            on_progress=logging.debug,
            on_outcome=logging.debug,
        )
        prefetch = Prefetch(self.loop, 100, 3, look=lambda: (0.0, False), on_change=lambda: None)
        prefetch.value = 100
        prefetch.took(0.0005)
        self.crowded = []  # how many waited when the lobby was found crowded
        self.handling = Handling()
        self.pending = PendingQueue(
            self.loop,
            self.workers,
            prefetch,
            self.handling.writer(),
            lambda: self.crowded.append(len(self.pending)),
        )
        self.lines = [self.hire(pid) for pid in (1, 2, 3)]
        self.run(0.01)
        assert self.workers.ready == 3

    def hire(self, pid):
        link, line = socket.socketpair()
        giving, using = socket.socketpair()
        output, written = os.pipe()
        os.close(written)
        files = (link.detach(), output, giving.detach(), using.detach())
        self.workers.welcome(control.ControlMessage("worker", {"pid": pid, "name": f"good/{pid}"}, files))
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
            self.workers.bury(pid)
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
    monkeypatch.setattr("taskqueue.consumer.pending._PATIENCE", 0.05)


def test_what_is_given_to_nobody_for_long_crowds_the_lobby(floor, impatient):
    floor.give(AHEAD, AHEAD, AHEAD)
    floor.enter(2)
    floor.run(0.2)
    assert (floor.crowded, floor.pending.is_crowded) == ([2], True)


def test_what_is_given_away_meanwhile_crowds_nothing(floor, impatient):
    floor.give(AHEAD, AHEAD, AHEAD - 1)
    floor.enter(1)
    floor.run(0.2)
    assert (floor.crowded, floor.pending.is_crowded) == ([], False)


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

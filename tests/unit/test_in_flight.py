"""Which deliveries are known: ids are the producers' affair, and two workitems may have the same."""

import time

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.broker.subscription import Delivery
from taskqueue.config import GroupSettings
from taskqueue.consumer.in_flight import InFlightTable, is_redelivery

GOOD = GroupSettings("good", "good")
SAME = Properties(message_id="same")


class Line:
    """The line to the broker; what was delivered before it was cut cannot be acknowledged."""

    def __init__(self):
        self.epoch = 1
        self.in_flight = InFlightTable(lambda assignment: assignment.delivery.epoch != self.epoch)

    def deliver(self, body):
        return Delivery(1, self.epoch, redelivered=self.epoch > 1, properties=SAME.encode(), body=body)

    def enter(self, body):
        return self.in_flight.enter(GOOD, self.deliver(body), SAME)

    def knows(self, body):
        delivery = self.deliver(body)
        if not is_redelivery(delivery, SAME):
            return False
        return self.in_flight.adopt(delivery, SAME) or self.in_flight.is_superfluous(delivery, SAME)


@pytest.fixture
def line():
    return Line()


def test_after_a_cut_line_a_running_workitem_is_known_and_its_twin_is_not(line):
    line.enter(b"first")
    line.epoch += 1
    assert not line.knows(b"second")
    assert line.knows(b"first")


def test_another_copy_from_a_lease_needs_no_run_and_its_twin_does(line):
    line.enter(b"first")
    copy = SAME.with_headers({"x-taskqueue-lease": "taskqueue_lease_good_1"})
    assert line.in_flight.is_superfluous(line.deliver(b"first"), copy)
    assert not line.in_flight.is_superfluous(line.deliver(b"second"), copy)
    assert not line.knows(b"first"), "a producer may submit the same twice"


def test_after_a_cut_line_a_finished_workitem_is_known_once_and_its_twin_is_not(line):
    first = line.enter(b"first")
    line.epoch += 1
    line.in_flight.close(first)
    assert not line.knows(b"second")
    assert line.knows(b"first")
    assert not line.knows(b"first")


def test_of_two_workitems_under_one_id_the_end_of_the_first_does_not_forget_the_second(line):
    first, second = line.enter(b"first"), line.enter(b"second")
    line.in_flight.close(first)
    assert line.in_flight.find("same") is second
    line.epoch += 1
    assert line.knows(b"second")


def test_only_so_many_finished_workitems_are_remembered(line):
    made = [
        line.in_flight.enter(GOOD, line.deliver(b""), Properties(message_id=str(number)))
        for number in range(10_001)
    ]
    line.epoch += 1
    for each in made:
        line.in_flight.close(each)

    def is_known(number):
        return line.in_flight.is_superfluous(line.deliver(b""), Properties(message_id=str(number)))

    assert [is_known(number) for number in (0, 1, 10_000)] == [False, True, True]


def test_a_finished_workitem_whose_id_is_used_again_much_later_is_another(line, monkeypatch):
    first = line.enter(b"first")
    line.epoch += 1
    line.in_flight.close(first)
    later = time.monotonic() + 601
    monkeypatch.setattr("taskqueue.consumer.in_flight.time.monotonic", lambda: later)
    assert not line.knows(b"first")

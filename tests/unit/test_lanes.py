"""The lane of a workitem, and the order in which waiting workitems are taken."""

from collections import Counter
from itertools import count

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.broker.errands import QueueSize
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.topology import lane_queue, type_of_lane, worker_queue
from taskqueue.config import GroupSettings
from taskqueue.consumer.fair import FairQueue
from taskqueue.consumer.in_flight import Assignment
from taskqueue.consumer.intake import lane_prefetch
from taskqueue.dispatcher.lanes import _Type
from taskqueue.messages.lanes import lanes_of, priority_of, tenant_of
from taskqueue.messages.names import TENANT
from taskqueue.messages.routing import WORKER_TYPE

GROUP = GroupSettings("images", "images", lanes=16)
MIB = 1024 * 1024
numbers = count(1)


def properties(tenant: object = None, priority: int | None = None) -> Properties:
    found = Properties(priority=priority)
    return found if tenant is None else found.with_headers({TENANT: tenant})


def workitem(tenant: str, priority: int = 0, *, queue: str = "", delivered: float = 0.0) -> Assignment:
    delivery = Delivery(1, 0, False, b"", b"", queue=queue)
    number = next(numbers)
    found = Assignment(number, str(number), GROUP, delivery, properties(tenant, priority), b"")
    found.delivered = delivered
    return found


def tenants_of(queue: FairQueue, number: int) -> Counter[str]:
    return Counter(tenant_of(queue.popleft().properties) for _ in range(number))


# --- the lane ---


@pytest.mark.parametrize(("given", "counts_as"), [(None, 0), (0, 0), (4, 4), (9, 9), (10, 9), (255, 9)])
def test_a_priority_above_9_counts_as_9(given: int | None, counts_as: int) -> None:
    assert priority_of(properties(priority=given)) == counts_as


@pytest.mark.parametrize(
    ("given", "is_taken_as"),
    [(None, ""), ("acme", "acme"), (7, ""), (b"\xff", ""), (["acme"], ""), ("a" * 10_000, "a" * 100)],
)
def test_a_tenant_is_a_text_of_up_to_100_characters(given: object, is_taken_as: str) -> None:
    assert tenant_of(properties(given)) == is_taken_as


def test_a_lane_is_no_worker_types_queue() -> None:
    assert type_of_lane(lane_queue("images.small", 15)) == "images.small"
    assert not WORKER_TYPE.match("images:15")
    assert type_of_lane(worker_queue("images")) == type_of_lane("taskqueue") == type_of_lane("a:5") == ""


@pytest.mark.parametrize("lanes", range(4, 65))
def test_classes_of_priorities_share_no_lane(lanes: int) -> None:
    used = [
        {lane for each in range(300) for lane in lanes_of(priority, f"t{each}", lanes)}
        for priority in (0, 1, 5)
    ]
    assert sorted(lane for lanes_of_class in used for lane in lanes_of_class) == list(range(lanes))
    assert lanes_of(1, "acme", lanes) == lanes_of(4, "acme", lanes)
    assert lanes_of(5, "acme", lanes) == lanes_of(9, "acme", lanes)


def test_a_lane_depends_on_the_tenant_alone_and_on_every_host_alike() -> None:
    number = int("302657b33c4da281", 16)  # printf acme | b2sum --length 64
    assert lanes_of(0, "acme", 16) == (number % 8, (number % 8 + number // 8 % 7 + 1) % 8) == (1, 5)
    assert lanes_of(0, "\ud800\x00\n", 16) == lanes_of(0, "\ud800\x00\n", 16)


def test_few_tenants_share_both_lanes() -> None:
    pairs = Counter(frozenset(lanes_of(0, f"tenant {each}", 16)) for each in range(28_000))
    assert len(pairs) == 28
    assert all(800 < number < 1200 for number in pairs.values())


# --- the dispatcher's choice ---


def neighbours() -> tuple[str, str]:
    """Two tenants with the same first lane, and different second ones."""
    first, second = lanes_of(0, "flood", 16)
    for number in count():
        other = lanes_of(0, f"t{number}", 16)
        if other[0] == first and other[1] != second:
            return "flood", f"t{number}"
    raise AssertionError


def test_a_tenant_that_submits_many_fills_one_lane_and_others_leave_it() -> None:
    flood, other = neighbours()
    lanes = _Type(16, 0.0)
    assert {lanes.choose(0, flood) for _ in range(1000)} == {lanes_of(0, flood, 16)[0]}
    assert {lanes.choose(0, other) for _ in range(100)} == {lanes_of(0, other, 16)[1]}


def test_a_lane_that_was_emptied_is_used_again() -> None:
    flood, other = neighbours()
    lanes = _Type(16, 0.0)
    for _ in range(1000):
        lanes.choose(0, flood)
    lanes.found(lanes_of(0, flood, 16)[0], QueueSize(0, 1))
    assert lanes.choose(0, other) == lanes_of(0, other, 16)[0]


# --- the order ---


def test_higher_priorities_are_taken_first_whatever_their_tenant() -> None:
    queue = FairQueue({}, 0)
    for priority in (0, 9, 3, 9, 0):
        queue.append(workitem("acme" if priority else "other", priority))
    assert [queue.popleft().properties.priority for _ in range(5)] == [9, 9, 3, 0, 0]


def test_tenants_are_taken_in_turn() -> None:
    queue = FairQueue({}, 0)
    for tenant in ["acme"] * 100 + ["example"] * 10:
        queue.append(workitem(tenant))
    assert tenants_of(queue, 20) == {"acme": 10, "example": 10}
    assert tenants_of(queue, 90) == {"acme": 90}
    assert not queue


def test_shares_follow_the_weights() -> None:
    queue = FairQueue({"acme": 3}, 0)
    for _ in range(100):
        for tenant in ("example", "acme", ""):
            queue.append(workitem(tenant))
    assert tenants_of(queue, 100) == {"acme": 60, "example": 20, "": 20}


def test_what_was_taken_back_comes_first_again() -> None:
    queue = FairQueue({}, 0)
    first, second = workitem("acme"), workitem("acme")
    queue.append(first)
    queue.append(second)
    assert queue.popleft() is first
    queue.appendleft(first)
    assert queue.popleft() is first
    assert queue.popleft() is second


def test_what_has_waited_for_too_long_is_taken_next_but_no_two_in_succession() -> None:
    now = 100.0
    queue = FairQueue({}, 10.0, lambda: now)
    early = [workitem("acme", 0, delivered=50.0) for _ in range(2)]
    urgent = [workitem("acme", 9, delivered=99.0) for _ in range(3)]
    for each in [*urgent, *early]:
        queue.append(each)
    taken = [queue.popleft() for _ in range(5)]
    assert taken == [early[0], urgent[0], early[1], urgent[1], urgent[2]]


def test_a_lane_goes_on_waiting_when_its_workitems_are_given_back() -> None:
    now = 100.0
    queue = FairQueue({}, 10.0, lambda: now)
    queue.append(workitem("acme", 0, queue="worker_images:3", delivered=50.0))
    queue.clear()
    again = workitem("acme", 0, queue="worker_images:3", delivered=99.0)
    queue.append(workitem("acme", 9, queue="worker_images:14", delivered=98.0))
    queue.append(again)
    assert queue.popleft() is again


def test_removed_workitems_are_not_taken() -> None:
    queue = FairQueue({}, 10.0)
    gone, kept = workitem("acme"), workitem("example")
    queue.append(gone)
    queue.append(kept)
    queue.remove(gone)
    assert gone not in queue
    assert list(queue) == [kept]
    assert queue.popleft() is kept


def test_only_tenants_with_waiting_workitems_take_memory() -> None:
    queue = FairQueue({}, 10.0, lambda: 0.0)
    for number in range(20_000):
        queue.append(workitem(f"tenant {number}"))
        if len(queue) > 100:
            queue.popleft()
    assert sum(len(level._by_name) for level in queue._levels) == 100
    assert len(queue._places) == 100
    assert len(queue._oldest) < 2000


# --- what each lane takes ahead ---


def test_a_lane_can_keep_all_workers_busy_with_one_to_spare() -> None:
    assert lane_prefetch(1, 4, 5, 100) == lane_prefetch(1, 4, 17, 100) == 5


def test_only_the_first_workitems_are_taken_before_their_size_is_known() -> None:
    assert lane_prefetch(1000, 4, 17, 0) == 0


def test_each_lane_takes_ahead_several_times_what_the_workers_need_of_short_workitems() -> None:
    assert [lane_prefetch(prefetch, 2, 17, 100) for prefetch in (2, 11, 100, 1000)] == [16, 160, 600, 600]


def test_large_bodies_are_not_taken_ahead() -> None:
    for lanes in range(5, 66):
        assert lane_prefetch(1000, 16, lanes, 16 * MIB) * lanes < 16 + lanes

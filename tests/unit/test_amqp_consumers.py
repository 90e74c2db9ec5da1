"""How many AMQP consumers a subscription may have, while some of what they brought takes long."""

import pytest

from taskqueue.broker.deliveries import Consumers


@pytest.fixture
def two():
    """Two consumers and one that takes ahead; nothing has come yet."""
    consumers = Consumers(2, 1)
    consumers.tags, consumers.ahead = ["a", "b"], "ahead"
    return consumers


def test_the_one_that_brought_what_takes_long_is_withheld(two):
    two.delivered(1, "b")
    assert two.withhold(1) == "b"
    two.remove("b")
    assert (two.tags, two.most) == (["a"], 1)


def test_for_what_was_taken_ahead_an_idle_one_is_withheld(two):
    two.delivered(1, "ahead")
    two.delivered(2, "a")
    assert two.withhold(1) == "b"
    two.remove("b")
    two.remove("ahead")
    assert (two.tags, two.most) == (["a"], 1)


def test_where_none_is_idle_the_withheld_one_leaves_what_it_brought_to_the_others(two):
    for delivery, tag in enumerate(("ahead", "a", "b"), 1):
        two.delivered(delivery, tag)
    two.remove(two.withhold(1))
    assert (len(two.tags), two.most) == (1, 0)
    for delivery in (2, 3):
        two.done(delivery)
    assert two.most == 1


def test_what_came_by_one_that_is_no_more_counts_until_it_is_done_with(two):
    two.delivered(1, "a")
    two.remove("a")
    assert two.most == 1
    two.done(1)
    assert two.most == 2


def test_after_the_broker_has_ended_them_there_are_none_before_another_channel(two):
    two.end()
    assert (two.most, two.may_take_ahead, list(two.all)) == (0, False, [])
    two.clear()
    assert (two.most, two.may_take_ahead) == (2, True)


def test_of_one_with_a_large_prefetch_that_is_no_more_a_few_deliveries_hold_nobody_up():
    only = Consumers(1, 500)
    only.tags = ["a"]
    for delivery in range(499):
        only.delivered(delivery, "a")
    only.remove("a")
    assert only.most == 1

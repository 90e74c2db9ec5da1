"""Messages that a quorum queue has delivered often."""

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.messages.forwarding import is_near_delivery_limit, renewed
from taskqueue.messages.names import PUBLISHER


@pytest.mark.parametrize(
    ("count", "is_near"), [(0, False), (9, False), (10, True), (21, True), ("10", False)]
)
def test_a_message_is_near_the_limit_long_before_rabbitmq_drops_it(count, is_near):
    assert is_near_delivery_limit(Properties().with_headers({"x-delivery-count": count})) is is_near


def test_without_headers_or_with_unreadable_ones_a_message_is_not_worn():
    assert not is_near_delivery_limit(Properties())
    assert not is_near_delivery_limit(Properties(header_table=b"\xff\xff\xff\xff"))


def test_a_renewed_message_is_what_it_was_without_what_its_queue_has_counted():
    came = Properties(message_id="one", expiration="500", reply_to="there", delivery_mode=1)
    counted = came.with_headers({"mine": [1.5], "x-delivery-count": 12, "x-acquired-count": 12})
    fresh = renewed(counted, "us")
    assert fresh == came.replace(delivery_mode=2).with_headers({"mine": [1.5]})


def test_a_renewed_message_names_its_publisher_whom_the_broker_would_not_believe_again():
    fresh = renewed(Properties(user_id="joe"), "us")
    assert (fresh.user_id, fresh.header(PUBLISHER)) == ("us", "joe")
    assert renewed(fresh, "us") == fresh

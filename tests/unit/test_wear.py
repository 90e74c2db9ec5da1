"""Messages that a quorum queue has delivered often."""

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.messages.forwarding import is_worn, renewed
from taskqueue.messages.names import PUBLISHER


@pytest.mark.parametrize(("count", "worn"), [(0, False), (9, False), (10, True), (21, True), ("10", False)])
def test_a_message_is_worn_long_before_rabbitmq_drops_it(count, worn):
    assert is_worn(Properties().with_headers({"x-delivery-count": count})) is worn


def test_without_headers_or_with_unreadable_ones_a_message_is_not_worn():
    assert not is_worn(Properties())
    assert not is_worn(Properties(header_table=b"\xff\xff\xff\xff"))


def test_a_renewed_message_is_what_it_was_without_what_its_queue_has_counted():
    came = Properties(message_id="one", expiration="500", reply_to="there", delivery_mode=1)
    counted = came.with_headers({"mine": [1.5], "x-delivery-count": 12, "x-acquired-count": 12})
    fresh = renewed(counted, "us")
    assert fresh == came.replace(delivery_mode=2).with_headers({"mine": [1.5]})


def test_a_renewed_message_names_its_publisher_whom_the_broker_would_not_believe_again():
    fresh = renewed(Properties(user_id="joe"), "us")
    assert (fresh.user_id, fresh.header(PUBLISHER)) == ("us", "joe")
    assert renewed(fresh, "us") == fresh

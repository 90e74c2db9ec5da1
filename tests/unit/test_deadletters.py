"""The message that goes back when a dead letter is retried."""

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.deadletters.message import DeadLetter, origin, restored
from taskqueue.errors import Unroutable
from taskqueue.messages.forwarding import rejected, travelling

FAILED, REJECTED = "taskqueue_failed", "taskqueue_rejected"
CAME = Properties(
    content_type="text/plain",
    content_encoding="gzip",
    priority=9,
    correlation_id="c",
    reply_to="r",
    message_id="m",
    timestamp=1_700_000_000,
    type="digest",
    app_id="a",
    cluster_id="k",
).with_headers({"mine": [1, 2.5, {"deep": None}], "x-other": "kept"})
COUNTED = {
    "x-taskqueue-attempt": 3,
    "x-taskqueue-crashes": 1,
    "x-taskqueue-failures": 2,
    "x-taskqueue-history": [{"attempt": 1}],
    "x-taskqueue-reason": "why",
    "x-taskqueue-queue": "worker_digest",
    "x-taskqueue-due": 1.0,
    "x-taskqueue-deadline": 1.0,
    "x-taskqueue-host": "h",
    "x-taskqueue-worker": "w",
    "x-taskqueue-started": 1.0,
    "x-taskqueue-ended": 2.0,
    "x-delivery-count": 7,
    "x-death": [{"count": 1}],
    "CC": ["elsewhere"],
}


def kept(properties):
    return DeadLetter.of(properties.encode(), b"body")


def test_a_failed_workitem_loses_what_was_counted_and_nothing_else():
    assert restored(CAME.with_headers(COUNTED), "us") == CAME.replace(delivery_mode=2)


def test_a_header_that_is_kept_keeps_its_bytes():
    odd = CAME.replace(header_table=b"\x03oddB\xff")
    assert restored(odd.with_headers(COUNTED), "us").header_table == b"\x03oddB\xff"


def test_without_headers_of_its_own_it_has_none_afterwards():
    assert restored(Properties().with_headers(COUNTED), "us") == Properties(delivery_mode=2)


def test_who_published_it_is_remembered():
    gone = travelling(CAME.replace(user_id="joe", expiration="5"), "digest", login="us")
    back = restored(gone.with_headers(COUNTED), "us")
    assert (back.header("x-taskqueue-user"), back.user_id, back.expiration) == ("joe", "us", None)


@pytest.mark.parametrize("vouching", [None, "mallory"])
def test_who_published_it_is_forgotten_where_nobody_of_ours_says_so(vouching):
    forged = CAME.replace(user_id=vouching).with_headers({"x-taskqueue-user": "joe"})
    back = restored(forged, "us")
    assert (back.header("x-taskqueue-user"), back.user_id) == (None, None)


def test_a_rejected_message_is_what_it_was_but_for_expiration_user_and_persistence():
    came = CAME.replace(expiration="5", user_id="joe", delivery_mode=1)
    away = rejected(came, "why", "taskqueue", "us")
    assert restored(away, "us") == CAME.replace(delivery_mode=2, user_id="us").with_headers(
        {"x-taskqueue-user": "joe"}
    )
    assert origin(kept(away), REJECTED) == "taskqueue"


def test_a_rejected_message_without_an_id_is_given_one_and_keeps_it():
    away = rejected(CAME.replace(message_id=None), "why", "taskqueue")
    assert away.message_id
    assert away.header("x-taskqueue-original").keys().isdisjoint({"message_id"})
    assert restored(away, "us") == CAME.replace(message_id=away.message_id, delivery_mode=2)


@pytest.mark.parametrize("queue", ["worker_other", "taskqueue"])
@pytest.mark.parametrize("place", [FAILED, REJECTED])
def test_a_message_goes_back_to_the_queue_it_came_from(place, queue):
    assert origin(kept(CAME.with_headers({"x-taskqueue-queue": queue})), place) == queue


@pytest.mark.parametrize("queue", [None, "elsewhere", 5, "worker_\udcff"])
def test_where_the_queue_is_unknown_it_follows_from_type_and_place(queue):
    lost = kept(CAME.with_headers({"x-taskqueue-queue": queue}))
    assert origin(lost, FAILED) == "worker_digest"
    assert origin(lost, REJECTED) == "taskqueue"


@pytest.mark.parametrize("properties", [Properties(), Properties(type="../x")])
def test_a_failed_message_that_says_nothing_of_its_queue_has_nowhere_to_go(properties):
    with pytest.raises(Unroutable):
        origin(kept(properties), FAILED)


def test_properties_that_cannot_be_read_are_told_and_never_sent_back_without():
    broken = DeadLetter.of(b"\xff\xff", b"body")
    assert broken.reason.startswith("its properties cannot be read: ")
    assert (broken.id, broken.worker_type, broken.attempts, broken.when) == ("", "", None, None)
    for place in (FAILED, REJECTED):
        with pytest.raises(Unroutable, match="cannot be read"):
            origin(broken, place)


def test_headers_of_strangers_do_not_disturb():
    strange = {"attempt": "two", "ended": [1], "history": ["?", {"attempt": 1}], "reason": 5}
    odd = kept(CAME.with_headers({f"x-taskqueue-{name}": value for name, value in strange.items()}))
    assert (odd.attempts, odd.when, odd.history, odd.reason) == (None, None, [{"attempt": 1}], "5")

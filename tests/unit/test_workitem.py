import json
import time

import pytest

from taskqueue.errors import WorkitemUnreadable
from taskqueue.properties import Properties
from taskqueue.workitem import (
    DEADLINE,
    ENDED,
    HOST,
    ORIGINAL,
    PUBLISHER,
    QUEUE,
    REASON,
    Workitem,
    decode_body,
    is_untravelable,
    media_type,
    rejected,
    ruote_type,
    shorten,
    travelling,
)

RUOTE = b'{"fei": {"wfid": "1"}, "fields": {"params": {"worker_type": "digest"}, "path": "/x"}}'


def workitem(body, content_type=None):
    return Workitem("digest", 1, Properties(content_type=content_type).encode(), body)


# --- properties on the way ---


def test_a_routed_workitem_keeps_its_properties_and_is_given_what_is_missing():
    came = Properties(content_type="text/plain", priority=3, correlation_id="c", reply_to="r", timestamp=5,
                      app_id="a", delivery_mode=1).with_headers({"h": [1, {"x": 1.5}]})  # fmt: skip
    going = travelling(came, "digest")
    assert going.message_id
    assert going == came.replace(type="digest", delivery_mode=2, message_id=going.message_id)
    assert travelling(came.replace(message_id="m"), "digest").message_id == "m"


@pytest.mark.parametrize(
    ("reply_to", "came", "goes"),
    [
        ("amq.rabbitmq.reply-to.g1h2", 1, 1),
        ("amq.rabbitmq.reply-to.g1h2", 2, 2),
        ("amq.rabbitmq.reply-to.g1h2", None, 2),
        ("answers", 1, 2),
        (None, 1, 2),
    ],
)
def test_only_a_request_whose_reply_ends_with_the_broker_may_end_with_it_too(reply_to, came, goes):
    asked = Properties(reply_to=reply_to, delivery_mode=came, message_id="m")
    assert travelling(asked, "t") == asked.replace(delivery_mode=goes, type="t")
    assert travelling(asked, "t", is_cluster=True).delivery_mode == 2


def test_each_workitem_without_an_id_gets_one_of_its_own():
    assert len({travelling(Properties(), "t").message_id for _ in range(100)}) == 100


def test_what_must_not_travel_is_taken_out():
    gone = {
        "CC": ["q"],
        "BCC": ["q"],
        "x-death": [{}],
        "x-first-death-queue": "q",
        "x-last-death-reason": "r",
    }
    kept = {"x-delay": 5, "cc": "lower case", "x-taskqueue-attempt": 2}
    assert travelling(Properties().with_headers(gone | kept), "t").headers == kept
    assert all(map(is_untravelable, gone))


def test_the_publishers_user_becomes_a_header():
    going = travelling(Properties(user_id="joe"), "t")
    assert (going.user_id, going.header(PUBLISHER)) == (None, "joe")


def test_an_expiration_becomes_a_deadline():
    before = time.time()
    going = travelling(Properties(expiration="1500"), "t")
    assert going.expiration is None
    assert before + 1.5 <= going.header(DEADLINE) <= time.time() + 1.5


@pytest.mark.parametrize("expiration", [None, "", "soon", "-1", "1.5"])
def test_an_expiration_that_is_none_is_no_deadline(expiration):
    assert travelling(Properties(expiration=expiration), "t").header(DEADLINE) is None


def test_a_rejected_message_keeps_its_headers_and_says_why_and_what_it_was():
    came = Properties(type="../x", user_id="joe", expiration="9", message_id="m", delivery_mode=1)
    kept = rejected(came.with_headers({"h": 1, "CC": ["q"]}), "a reason", "taskqueue")
    headers = kept.headers
    assert headers.pop(HOST)
    assert time.time() - 10 < headers.pop(ENDED) <= time.time()
    assert headers == {
        "h": 1,
        REASON: "a reason",
        QUEUE: "taskqueue",
        ORIGINAL: {
            "type": "../x",
            "user_id": "joe",
            "expiration": "9",
            "message_id": "m",
            "delivery_mode": 1,
        },
    }
    assert (kept.type, kept.message_id, kept.delivery_mode) == ("../x", "m", 2)
    assert (kept.user_id, kept.expiration) == (None, None)


# --- in the worker ---


@pytest.mark.parametrize(
    ("body", "kind", "value"),
    [
        (b'{"a": [1, 2.5, null]}', None, {"a": [1, 2.5, None]}),
        (b'"x"', "application/json; charset=utf-8", "x"),
        ('"ü"'.encode("utf-16"), "application/json", "ü"),
        (b"[1]", "application/vnd.api+json", [1]),
        ("grüß".encode(), "text/plain", "grüß"),
        ("grüß".encode("latin-1"), "text/plain; charset=ISO-8859-1", "grüß"),
        ("ü".encode("utf-16"), 'text/csv; header=absent; Charset="utf-16"', "ü"),
        (b"", "text/plain", ""),
        (b"\xff\0", "application/octet-stream", b"\xff\0"),
        (b"", "image/png", b""),
    ],
)
def test_a_body_is_decoded_by_its_content_type(body, kind, value):
    assert decode_body(workitem(body, kind)) == value


@pytest.mark.parametrize(
    ("body", "kind", "complaint"),
    [
        (b"", None, "the body is not application/json: Expecting value"),
        (b"{", "application/json", "the body is not application/json: "),
        (b"\xff", "application/json", "the body is not application/json: "),
        (b"[" * 100_000, "application/json", "application/json: nested too deeply to be read"),
        (b"\xff", "text/plain", "the body is not text/plain: 'utf-8' codec can't decode"),
        (b"x", "text/plain; charset=klingon", "the body is not text/plain: unknown encoding: klingon"),
        (b"x", "text/plain; charset=hex", "the body is not text/plain: 'hex' is not a text encoding"),
    ],
)
def test_a_body_that_is_not_what_its_content_type_says_is_unreadable(body, kind, complaint):
    with pytest.raises(WorkitemUnreadable) as caught:
        decode_body(workitem(body, kind))
    assert str(caught.value).startswith(complaint)


def test_a_workitem_shows_its_headers_and_content_type():
    properties = Properties(content_type="Text/Plain; charset=x", message_id="i").with_headers({"a": 1})
    item = Workitem("t", 1, properties.encode(), b"")
    assert (item.id, item.headers, item.content_type) == ("i", {"a": 1}, "text/plain")
    assert (item.properties, repr(item)) == (properties, "<workitem i of type t, attempt 1>")
    assert workitem(b"").content_type == "application/json"


# --- small tools ---


@pytest.mark.parametrize(
    ("value", "found"),
    [(json.loads(RUOTE), "digest"), ({"fields": {"params": {}}}, None), ({"fields": [1]}, None), (None, None),
     ("fields", None), ({"fields": {"params": {"worker_type": 7}}}, 7)],
)  # fmt: skip
def test_a_ruote_workitem_is_known_by_its_fields(value, found):
    assert ruote_type(value) == found


def test_media_types_lose_parameters_and_case():
    assert [media_type(kind) for kind in (None, "", " A/B ; c=d", "a/b")] == ["", "", "a/b", "a/b"]


def test_long_texts_lose_their_middle():
    assert shorten("x" * 10, 10) == "x" * 10
    assert shorten("a" * 50 + "b" * 50, 21) == "aaaaaaaa ... bbbbbbbb"
    assert all(len(shorten("x" * 1000, limit)) <= limit for limit in range(7, 100))

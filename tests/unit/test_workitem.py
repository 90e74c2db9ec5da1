import gzip
import json
import time
from datetime import UTC, datetime

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.errors import WorkitemUnreadable
from taskqueue.messages.content import UnreadableEncoding, decompress, media_type
from taskqueue.messages.forwarding import attributed, is_untravelable, moment, rejected, travelling
from taskqueue.messages.history import again
from taskqueue.messages.names import DEADLINE, DUE, ENDED, HOST, NOTIFY, ORIGINAL, PUBLISHER, QUEUE, REASON
from taskqueue.messages.routing import ruote_type
from taskqueue.messages.workitem import LARGEST_DECOMPRESSED, Workitem, decode_body
from taskqueue.texts import shorten
from taskqueue.worker.frames import LARGEST_BODY

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
        "x-delivery-count": 3,
        "x-acquired-count": 3,
        "x-taskqueue-lease": "taskqueue_lease_t_1",
    }
    kept = {"x-delay": 5, "cc": "lower case", DUE: 1.0, DEADLINE: 2.0, NOTIFY: True}
    assert travelling(Properties().with_headers(gone | kept), "t").headers == kept
    assert all(map(is_untravelable, gone))


@pytest.mark.parametrize("name", ["attempt", "crashes", "failures", "history", "user", "status", "workitem",
                                  "host", "reason", "queue", "original", "claim", "anything"])  # fmt: skip
def test_a_producer_cannot_say_what_only_we_can_know(name):
    forged = {f"x-taskqueue-{name}": 5, "mine": 1}
    assert travelling(Properties().with_headers(forged), "t", login="us").headers == {"mine": 1}
    kept = rejected(Properties().with_headers(forged), "why", "taskqueue", "us").headers
    assert kept.get(f"x-taskqueue-{name}") != 5


def test_the_publishers_user_becomes_a_header_that_our_own_user_vouches_for():
    going = travelling(Properties(user_id="joe"), "t", login="us")
    assert (going.user_id, going.header(PUBLISHER)) == ("us", "joe")
    for properties in (going, travelling(going, "t", login="us"), again(going)):
        assert attributed(properties, "us") is properties
        assert (properties.user_id, properties.header(PUBLISHER)) == ("us", "joe")


@pytest.mark.parametrize(
    ("user", "claimed", "found"),
    [(None, "joe", None), ("mallory", "joe", "mallory"), ("mallory", None, "mallory"), ("", "joe", None)],
)
def test_who_published_a_message_is_whom_the_broker_knows(user, claimed, found):
    came = Properties(user_id=user).with_headers({PUBLISHER: claimed, "mine": 1})
    going = attributed(came, "us")
    assert (going.header(PUBLISHER), going.user_id) == (found, found and "us")
    assert going.header("mine") == 1


def test_who_published_a_message_without_headers_is_told_by_one():
    going = attributed(Properties(user_id="joe"), "us")
    assert (going.headers, going.user_id) == ({PUBLISHER: "joe"}, "us")


def test_properties_that_say_nothing_of_a_user_stay_the_same_object():
    for came in (Properties(), Properties(message_id="m").with_headers({"h": 1})):
        assert attributed(came, "us") is came


def test_a_handler_sees_neither_what_the_broker_noted_nor_our_own_user():
    noted = {"x-death": [{"count": 1}], "x-first-death-queue": "q", "x-last-death-reason": "expired",
             "x-delivery-count": 2, "CC": ["q"], "x-taskqueue-lease": "l",
             "x-taskqueue-completion": "token", "x-taskqueue-claim": "token"}  # fmt: skip
    raw = Properties(message_id="m", user_id="us").with_headers(noted | {"mine": 1}).encode()
    item = Workitem("t", 1, raw, b"")
    assert (item.headers, item.id, item.properties.user_id) == ({"mine": 1}, "m", None)


def test_headers_that_cannot_be_read_hurt_only_who_looks_at_them():
    item = Workitem("t", 1, Properties(message_id="m", header_table=b"\x01h?").encode(), b"")
    assert item.id == "m"
    with pytest.raises(MalformedProperties):
        print(item.headers)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), 1893553445.0),
        (1893553445, 1893553445.0),
        (1893553445.25, 1893553445.25),
        (True, None),
        ("1893553445", None),
        ([1], None),
        (None, None),
    ],
)
@pytest.mark.parametrize("header", [DUE, DEADLINE])
def test_a_moment_is_a_number_or_a_timestamp(header, value, seconds):
    assert moment(Properties().with_headers({header: value, "other": 1}), header) == seconds


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
    kept = rejected(came.with_headers({"h": 1, "CC": ["q"]}), "a reason", "taskqueue", "us")
    headers = kept.headers
    assert headers.pop(HOST)
    assert time.time() - 10 < headers.pop(ENDED) <= time.time()
    assert headers == {
        "h": 1,
        PUBLISHER: "joe",
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
    assert (kept.user_id, kept.expiration) == ("us", None)


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
        (b"\xef\xbb\xbfx", "text/plain", "x"),
        ("x".encode("utf-16"), "text/plain; charset=utf-16", "x"),
    ],
)
def test_a_body_is_decoded_by_its_content_type(body, kind, value):
    assert decode_body(workitem(body, kind)) == value
    raw = Properties(content_type=kind, content_encoding="gzip").encode()
    assert decode_body(Workitem("digest", 1, raw, gzip.compress(body))) == value


@pytest.mark.parametrize("kind", [None, "text/plain", "application/octet-stream"])
@pytest.mark.parametrize(
    ("encoding", "body", "complaint"),
    [
        ("br", b"{}", "content encoding 'br' is not one of gzip, deflate"),
        ("gzip", b"{}", "the body is not gzip: "),
        ("deflate", b"\x78\x9c", "the body is not deflate: it ends early"),
    ],
)
def test_a_body_that_is_not_what_its_encoding_says_is_unreadable(kind, encoding, body, complaint):
    raw = Properties(content_type=kind, content_encoding=encoding).encode()
    with pytest.raises(WorkitemUnreadable) as caught:
        decode_body(Workitem("digest", 1, raw, body))
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("body", "kind", "complaint"),
    [
        (b"", None, "the body is not application/json: Expecting value"),
        (b"{", "application/json", "the body is not application/json: "),
        (b"\xff", "application/json", "the body is not application/json: "),
        (b"[" * 100_000, "application/json", "application/json: nested too deeply to be read"),
        (b"[" + b"9" * 5000 + b"]", "a/b+json", "an integer has more than 4,300 digits; send it as a string"),
        (b"\xff", "text/plain", "the body is not text/plain: 'utf-8' codec can't decode"),
        (
            b"x",
            "text/plain; charset=klingon",
            "the body is not text/plain: charset 'klingon' is not one of ascii, ",
        ),
        (b"x", "text/plain; charset=hex", "the body is not text/plain: charset 'hex' is not one of ascii, "),
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


def test_a_compressed_body_may_have_as_many_bytes_as_another():
    assert LARGEST_DECOMPRESSED == LARGEST_BODY
    body = gzip.compress(bytes(1000))
    assert decompress(body, "gzip", 1000) == bytes(1000)
    with pytest.raises(UnreadableEncoding, match="more than 999 bytes when it is decompressed"):
        decompress(body, "gzip", 999)


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

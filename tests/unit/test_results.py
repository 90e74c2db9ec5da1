import gzip
import json
import time
from pathlib import Path

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MAX_DEPTH
from taskqueue.errors import ResultUnwritable
from taskqueue.messages import names
from taskqueue.messages.history import again, dead_letter_properties, next_run, with_history
from taskqueue.messages.results import (
    FAILED,
    HOST,
    SUCCEEDED,
    Failure,
    Run,
    encode_failure,
    encode_result,
    encode_value,
)
from taskqueue.messages.workitem import Workitem
from taskqueue.texts import TEXT_LIMIT

RUOTE = (Path(__file__).parents[1] / "fixtures" / "ruote-workitem.json").read_bytes()
FAILURE = Failure("ValueError", "no such thing", "Traceback ...")


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


def workitem(body=b"{}", properties=None):
    return Workitem("digest", 3, (properties or Properties()).encode(), body)


def ran(properties, attempt=3):
    return Run("the id", "digest", attempt, properties, b"{}", "digest/1", 1.25, 2.5)


def run(**properties):
    return ran(Properties(**properties))


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


# --- values ---


@pytest.mark.parametrize(
    ("value", "kind", "body"),
    [
        ({"a": [1, 2.5, None, True]}, "application/json", b'{"a":[1,2.5,null,true]}'),
        (None, "application/json", b"null"),
        ((1, 2), "application/json", b"[1,2]"),
        ("grüß", "text/plain; charset=utf-8", "grüß".encode()),
        ("\udcff", "text/plain; charset=utf-8", b"\xff"),  # a file's name, as os.listdir gives it
        (["\ud800"], "application/json", b'["\\ud800"]'),
        (b"\xff\0", "application/octet-stream", b"\xff\0"),
        ("", "text/plain; charset=utf-8", b""),
    ],
)
def test_what_a_handler_returns_is_sent_by_its_type(value, kind, body):
    assert encode_value(value) == (kind, body)


def circle():
    values = []
    values.append(values)
    return values


def tower():
    value = None
    for _ in range(20_000):  # Python 3.13 writes some thousands
        value = [value]
    return value


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: {1}, "returned a set .*: Object of type set is not JSON serializable"),
        (lambda: {"a": object()}, "returned a dict .*: Object of type object"),
        (lambda: {(1, 2): 3}, "returned a dict .*: keys must be"),
        (lambda: float("nan"), "returned a float .*: Out of range float"),
        (lambda: [float("inf")], "returned a list .*: Out of range float"),
        (lambda: bytearray(b"x"), "returned a bytearray "),
        (lambda: "\ud800", "returned a str .*surrogates not allowed"),
        (circle, "returned a list .*: Circular reference"),
        (tower, "returned a list .*: maximum recursion depth"),
    ],
)
def test_a_value_that_cannot_be_sent_is_refused_with_the_reason(make, complaint):
    with pytest.raises(ResultUnwritable, match="handle_task " + complaint):
        encode_value(make())


# --- failures ---


def test_a_failure_tells_type_message_and_traceback():
    failure = Failure.of(raised(ValueError("no such thing")))
    assert (failure.type, failure.message) == ("ValueError", "no such thing")
    assert failure.traceback.startswith("Traceback (most recent call last):")
    assert failure.traceback.endswith("ValueError: no such thing\n")
    assert str(failure) == "ValueError: no such thing"


def test_a_failure_without_a_message_is_its_type():
    assert str(Failure.of(raised(KeyboardInterrupt()))) == "KeyboardInterrupt"


def test_a_failure_of_an_exception_that_cannot_print_itself_is_described_all_the_same():
    failure = Failure.of(raised(Unspeakable()))
    assert str(failure) == "Unspeakable: <exception str() failed>"


def test_a_failures_message_and_traceback_are_bounded():
    failure = Failure.of(raised(ValueError("x" * 1_000_000)))
    assert len(failure.message) <= TEXT_LIMIT
    assert len(failure.traceback) <= TEXT_LIMIT


@pytest.mark.parametrize(
    ("body", "kind", "shown"),
    [
        (b'{"a": 1.5}', None, {"a": 1.5}),
        (b"text", "text/plain", "text"),
        (b"\xff", "application/octet-stream", None),
        (b"\xff{", "application/json", None),
        (b"[" * 100_000, "application/json", None),
    ],
)
def test_a_failures_body_holds_the_error_and_the_workitem_where_json_can(body, kind, shown):
    written = encode_failure(FAILURE, workitem(body, Properties(content_type=kind)))
    error = {"type": "ValueError", "message": "no such thing", "traceback": "Traceback ..."}
    assert json.loads(written) == {"error": error, "workitem": shown}


def test_a_workitem_that_is_large_is_not_decoded_again_for_its_failure():
    large = b'"' + b"x" * 17_000_000 + b'"'
    small = gzip.compress(large, 1)
    for body, encoding in ((large, None), (small, "gzip")):
        written = encode_failure(FAILURE, workitem(body, Properties(content_encoding=encoding)))
        assert len(written) < 1000


def test_what_json_does_not_have_is_not_in_a_failure():
    for number in (b"1e400", b"NaN", b"-Infinity"):
        written = encode_failure(FAILURE, workitem(b'{"x": %b}' % number))
        json.loads(written, parse_constant=pytest.fail)


def test_a_failures_body_may_leave_the_workitem_out():
    assert json.loads(encode_failure(FAILURE, None))["workitem"] is None


def test_a_failed_ruote_workitem_comes_back_whole_with_error_and_trace():
    written = json.loads(encode_failure(FAILURE, workitem(RUOTE)))
    expected = {"error": "ValueError: no such thing", "trace": "Traceback ..."}
    assert written == json.loads(RUOTE) | expected
    untraced = json.loads(encode_failure(Failure("WorkerCrashed", "killed"), workitem(RUOTE)))
    assert (untraced["error"], untraced["trace"]) == ("WorkerCrashed: killed", "killed")


def test_a_workitem_of_any_depth_can_fail():
    for depth in range(930, 1000):
        for body in ("{}", '{{"fields": {{"params": {{"worker_type": "t"}}, "x": {}}}}}'):
            written = encode_failure(FAILURE, workitem(body.format("[" * depth + "]" * depth).encode()))
            assert b"no such thing" in written


# --- properties ---


def reported(*arguments):
    return Properties.decode(encode_result(*arguments))


def test_a_results_headers_tell_what_ran_where_and_when():
    properties = reported(run(), SUCCEEDED, "text/plain", 0)
    assert properties.headers == {
        names.STATUS: "succeeded",
        names.WORKITEM_ID: "the id",
        names.ATTEMPT: 3,
        names.HOST: HOST,
        names.WORKER: "digest/1",
        names.STARTED: 1.25,
        names.ENDED: 2.5,
    }
    assert reported(run(), FAILED, "text/plain", 0).header(names.STATUS) == "failed"


def test_a_result_is_persistent_and_named_after_its_workitem():
    properties = reported(run(), SUCCEEDED, "text/plain", 0)
    assert (properties.type, properties.delivery_mode, properties.content_type) == ("digest", 2, "text/plain")
    assert properties.correlation_id == "the id"
    assert properties.message_id not in ("the id", None)
    assert abs(properties.timestamp - time.time()) < 5


def test_a_result_carries_the_workitems_own_correlation_id():
    assert reported(run(correlation_id="mine"), SUCCEEDED, "text/plain", 0).correlation_id == "mine"


@pytest.mark.parametrize("name", ["x", "grüß", "\udcff\udcfe", "i" * 255])
def test_a_result_has_ids_of_any_length_as_they_came(name):
    properties = reported(run(correlation_id=name)._replace(id=name[::-1]), SUCCEEDED, "text/plain", 60)
    assert properties.correlation_id == name
    assert properties.header(names.WORKITEM_ID) == name[::-1]
    assert (properties.header(names.ENDED), properties.type) == (2.5, "digest")


@pytest.mark.parametrize(("expire", "written"), [(0, None), (604800.0, "604800000"), (0.5, "500")])
def test_a_result_expires_in_milliseconds_or_never(expire, written):
    assert reported(run(), SUCCEEDED, "text/plain", expire).expiration == written


def test_a_kept_copy_keeps_the_properties_and_says_why():
    token = {names.CLAIM: "of a key that is free"}
    properties = Properties(message_id="m", reply_to="r", type="digest").with_headers({"mine": 1, **token})
    copy = dead_letter_properties(ran(properties), "a reason", "worker_digest")
    assert (copy.message_id, copy.reply_to, copy.type, copy.delivery_mode) == ("m", "r", "digest", 2)
    assert copy.headers == {
        "mine": 1,
        names.REASON: "a reason",
        names.QUEUE: "worker_digest",
        names.ATTEMPT: 3,
        names.HOST: HOST,
        names.WORKER: "digest/1",
        names.STARTED: 1.25,
        names.ENDED: 2.5,
    }


@pytest.mark.parametrize(("counter", "delay"), [(names.CRASHES, 0), (names.FAILURES, 12.5)])
def test_a_workitem_goes_back_with_one_attempt_and_one_such_end_more(counter, delay):
    old = {"mine": 1, names.CLAIM: "token", names.ATTEMPT: 3}
    old |= {names.CRASHES: 1, names.FAILURES: 1, names.DUE: 3.5, names.WAIT: 3}
    properties = Properties(message_id="m", user_id="joe").with_headers(old | {"x-death": [{}]})
    before = time.time()
    back = next_run(ran(properties), counter, 2, delay)
    headers = back.headers
    if delay:
        assert before + delay <= headers.pop(names.DUE) <= time.time() + delay
        assert headers.pop(names.WAIT) == delay
    counted = {names.ATTEMPT: 4, names.CRASHES: 1, names.FAILURES: 1} | {counter: 2}
    assert headers == {"mine": 1, names.CLAIM: "token"} | counted
    assert (back.message_id, back.user_id, back.delivery_mode) == ("m", None, 2)


def test_a_kept_copy_is_not_due_any_more():
    properties = Properties(message_id="m").with_headers({names.DUE: 12.5})
    copy = dead_letter_properties(ran(properties), "why", "worker_digest")
    assert names.DUE not in copy.headers


# --- history ---


def history_of(number, history=None):
    """Return the history after `number` runs that failed, upon what a producer may have written there."""
    properties = Properties() if history is None else Properties().with_headers({names.HISTORY: history})
    for attempt in range(1, number + 1):
        latest = ran(properties, attempt)
        properties = with_history(latest, "failed", f"error {attempt}").workitem.properties
    return properties.headers[names.HISTORY]


def test_a_history_tells_of_each_run_what_became_of_it():
    entry = {"attempt": 1, "what": "failed", "error": "error 1", "host": HOST, "worker": "digest/1"}
    assert history_of(1) == [entry | {"started": 1.25, "ended": 2.5}]
    crashed = with_history(run(), "crashed", "killed by SIGSEGV", 12345).workitem.properties
    assert crashed.headers[names.HISTORY][0]["peak_memory"] == 12345


def test_a_history_keeps_the_first_and_the_latest_of_its_entries():
    assert [entry["attempt"] for entry in history_of(20)] == list(range(1, 21))
    assert [entry["attempt"] for entry in history_of(150)] == [1, 2, *range(133, 151)]


def test_an_error_is_cut_short_in_the_history():
    latest = with_history(run(), "failed", "x" * 100_000).workitem.properties
    assert len(latest.headers[names.HISTORY][0]["error"]) <= 500


@pytest.mark.parametrize("garbage", ["all well", 7, {"a": 1}, []])
def test_what_is_no_history_is_replaced(garbage):
    assert [entry["attempt"] for entry in history_of(2, garbage)] == [1, 2]


def test_a_history_that_nests_too_deep_to_be_read_is_replaced():
    history = []
    for _ in range(MAX_DEPTH + 1):
        history = [history]
    assert [entry["attempt"] for entry in history_of(1, history)] == [1]


def test_what_is_published_again_has_nothing_that_the_broker_refuses_or_acts_upon():
    properties = Properties(user_id="joe", expiration="5", delivery_mode=1)
    assert again(properties) == Properties(delivery_mode=2)
    loaded = properties.with_headers({"CC": ["q"], "x-death": [{}], "mine": 1})
    assert again(loaded).headers == {"mine": 1}

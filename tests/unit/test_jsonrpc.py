"""Ids, batches and notifications of JSON-RPC 2.0; the examples are the specification's."""

import json
import re
import tracemalloc

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.calls import message
from taskqueue.calls.call import Call
from taskqueue.errors import BadArguments
from taskqueue.messages import jsonrpc, results
from taskqueue.messages.content import JSON
from taskqueue.messages.results import Failure, encode_answer, encode_failure
from taskqueue.messages.routing import FORMATS, find_route
from taskqueue.messages.workitem import Workitem

REQUEST = {"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}


def failed(body, error=None):
    workitem = Workitem("subtract", 1, Properties(content_type=JSON).encode(), json.dumps(body).encode())
    return encode_failure(Failure.of(error or ValueError("no")), workitem)


def test_a_result_is_a_response_to_a_request_and_nothing_to_a_notification():
    assert json.loads(encode_answer(19, REQUEST)[1]) == {"jsonrpc": "2.0", "result": 19, "id": 1}
    assert encode_answer(19, {"jsonrpc": "2.0", "method": "update"}) == (JSON, b"")
    assert encode_answer(19, {"method": "update", "id": 1}) == (JSON, b"19")


def test_a_failure_is_an_error_to_a_request_and_to_each_of_a_batch():
    response = json.loads(failed(REQUEST, BadArguments("b is missing")))
    assert (response["id"], response["error"]["code"], response["error"]["message"]) == (
        1,
        -32602,
        "b is missing",
    )
    assert failed({"jsonrpc": "2.0", "method": "update"}) == b""
    batch = [REQUEST, {"jsonrpc": "2.0", "method": "update"}, REQUEST | {"id": "9"}]
    assert [each["id"] for each in json.loads(failed(batch))] == [1, "9"]
    assert failed(batch[1:2]) == b""


def test_a_batch_that_fails_as_a_whole_has_answers_of_a_bounded_size():
    data = {"type": "TaskTimeout", "traceback": "x" * 16_000}
    batch = [{"jsonrpc": "2.0", "method": "m", "id": number} for number in range(jsonrpc.MOST_REQUESTS)]
    answers = jsonrpc.errors(batch, -32000, "no", data)
    assert len(json.loads(answers)) == jsonrpc.MOST_REQUESTS
    assert len(answers) < 200_000
    answer = json.loads(jsonrpc.errors([*batch, *batch], -32000, "no", data))
    assert (answer["id"], answer["error"]["message"]) == (None, "no")


@pytest.mark.parametrize("id_", ["NaN", "Infinity", "[[1]]", "{}", "1e999"])
def test_an_id_that_cannot_be_sent_back_is_null(id_):
    body = json.loads(f'{{"jsonrpc": "2.0", "method": "a", "id": {id_}}}')
    assert json.loads(encode_answer(1, body)[1])["id"] is None
    assert json.loads(jsonrpc.errors(body, -32000, "no", {}))["id"] is None


def test_a_batch_goes_where_its_first_request_does():
    assert find_route(Properties(), json.dumps([REQUEST, 1]).encode(), FORMATS).worker_type == "subtract"


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","error":{"code":[1],"message":{}},"id":1}',
        b'{"jsonrpc":"2.0","error":7}',
        b'{"jsonrpc":"2.0","method":"progress","params":{"fraction":"much"}}',
        b"[" * 100_000,
        b"\xff",
        b"",
    ],
)
def test_whatever_comes_as_a_reply_ends_no_client(body):
    call = Call(None, "id", "add")
    properties, content = message.decode(Properties(content_type=JSON).encode(), body)
    found = message.notice(content)
    if found is None:
        message.take_reply(call, properties, content)
        assert call.status() == "FAILED"
        assert str(call.error())
    else:
        message.take_notice(call, *found)
        assert call.progress() == (0.0, "")


def test_the_result_of_a_plugin_that_is_no_response_is_a_value_or_a_failure():
    status = "x-taskqueue-status"
    call = Call(None, "id", "digest")
    good = Properties(content_type="text/plain").with_headers({status: results.SUCCEEDED})
    message.take_reply(call, *message.decode(good.encode(), b"words"))
    assert call.status() == "SUCCEEDED"
    call = Call(None, "id", "digest")
    bad = Properties(content_type=JSON).with_headers({status: results.FAILED})
    body = b'{"error": {"type": "KeyError", "message": "a", "traceback": "..."}, "workitem": null}'
    message.take_reply(call, *message.decode(bad.encode(), body))
    assert str(call.error()) == "KeyError: a"


def outcome(function, body):
    try:
        return repr(function(body))  # NaN is unequal to itself
    except (ValueError, RecursionError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le", "latin-1"])
def test_json_is_read_as_pythons_own_reader_reads_it(encoding):
    for text in ['{"a": [1, 2.5]}', ' "x"\n', "null", "NaN", '"\\ud800"', '"\u00fc"', "", " ", "[1,]",
                 '{"a":', "1 2", '"\0"']:  # fmt: skip
        body = text.encode(encoding)
        assert outcome(jsonrpc.decode, body) == outcome(json.loads, body), text


@pytest.mark.parametrize(
    "body", [b"\xff", b'"\xed\xa0\x80"', b"[" * 100_000], ids=["no text", "half a pair", "deep"]
)
def test_what_is_hardly_json_ends_as_with_pythons_own_reader(body):
    assert outcome(jsonrpc.decode, body) == outcome(json.loads, body)


# --- what nobody performs ---


def refused(body):
    answer = jsonrpc.refusal(body, jsonrpc.METHOD_NOT_FOUND, "why", {})
    return [(each["error"]["code"], each["id"]) for each in _listed(json.loads(answer))] if answer else None


def _listed(answer):
    return answer if isinstance(answer, list) else [answer]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (REQUEST, [(-32601, 1)]),
        ({"jsonrpc": "2.0", "method": "../x"}, None),
        ({"jsonrpc": "2.0", "method": 1, "params": "bar"}, [(-32600, None)]),
        ({"jsonrpc": "2.0", "method": 1, "id": 7}, [(-32600, 7)]),
        ({"jsonrpc": "2.0", "method": "a", "params": 5, "id": 7}, [(-32600, 7)]),
        ({"jsonrpc": "2.0", "id": 7}, [(-32600, 7)]),
        ([], [(-32600, None)]),
        ([1], [(-32600, None)]),
        ([1, 2, 3], [(-32600, None)] * 3),
        ([1, REQUEST], [(-32600, None), (-32601, 1)]),
        ([{"jsonrpc": "2.0", "method": "a"}, {"foo": "boo"}], [(-32600, None)]),
        ([{"jsonrpc": "2.0", "method": "a"}], None),
    ],
)
def test_what_nobody_performs_is_answered_as_the_specification_says(body, errors):
    assert refused(body) == errors
    assert isinstance(json.loads(jsonrpc.refusal(body or [], -32601, "", {}) or "[]"), list) == bool(
        (isinstance(body, list) and body) or errors is None
    )


def test_a_batch_is_routed_by_its_first_valid_request():
    for batch in ([1, REQUEST], [{"foo": "boo"}, REQUEST], [{"jsonrpc": "2.0", "method": 1}, REQUEST]):
        assert find_route(Properties(), json.dumps(batch).encode(), FORMATS).worker_type == "subtract"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_a_batch_is_read_as_any_json(encoding):
    for text in ["[]", "[ ]", '[1,"a" , [2] ,{"b":null}]', " \n[\t1 ]\r\n", "[[[]]]"]:
        assert jsonrpc.decode_batch(text.encode(encoding)) == json.loads(text), text


def test_what_is_no_array_is_no_batch():
    for text in ["", "{}", "[", "[1", "[1,", "[,1]", "[1 2]", "[1]]", "[1] x", "[nul]", "1"]:
        with pytest.raises(ValueError, match=r"expected|value|goes on"):
            jsonrpc.decode_batch(text.encode())


def test_no_more_of_a_batch_is_decoded_than_may_be_performed():
    assert len(jsonrpc.decode_batch(b"[" + b"{}," * 999 + b"{}]")) == 1000
    many = b"[" + b"{}," * 100_000 + b"{}]"
    tracemalloc.start()
    with pytest.raises(jsonrpc.TooMany, match="more than 1000 requests"):
        jsonrpc.decode_batch(many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(many) + 1_000_000  # the text, and little beside


@pytest.mark.parametrize("value", ["[]", '{"":0}', "1", '""', '"\\"{"', "[[0]]"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_as_many_values_as_may_be_are_decoded_and_not_one_more(value, encoding, monkeypatch):
    monkeypatch.setattr(jsonrpc, "MOST_VALUES", 1000)
    of_each = 1 + len(re.findall(r"[\[{]", value.replace('\\"{', "")))  # and a comma
    most = (jsonrpc.MOST_VALUES - 2) // of_each
    text = '{"a":[' + ",".join([value] * most) + "]"
    assert len(jsonrpc.decode_bounded((text + "}").encode(encoding))["a"]) == most
    with pytest.raises(jsonrpc.TooMany, match=r"more than 1,000 values of JSON; name the worker type by"):
        jsonrpc.decode_bounded((text + ',"b":[' + "0," * of_each * 2 + "0]}").encode(encoding))


@pytest.mark.parametrize("text", ["[{,", '\\"[{,', "\\\\[{,", ",\n"])
def test_what_stands_in_a_string_is_no_value(text, monkeypatch):
    monkeypatch.setattr(jsonrpc, "MOST_VALUES", 1000)
    body = b'{"a": "' + text.encode() * jsonrpc.MOST_VALUES + b'"}'
    assert jsonrpc.bounded_text_of(body) == body.decode()
    assert jsonrpc.bounded_text_of(body[:-2]) == body[:-2].decode()  # nor in one that does not end

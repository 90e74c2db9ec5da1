import gc
import gzip
import json
import tracemalloc
import zlib

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.errors import Unroutable
from taskqueue.messages.routing import FORMATS, Route, checked_type, find_route
from taskqueue.messages.workitem import Workitem, decode_body
from taskqueue.texts import shorten

RUOTE = b'{"fei": {"wfid": "1"}, "fields": {"params": {"worker_type": "digest"}, "path": "/x"}}'
RPC = b'{"jsonrpc": "2.0", "method": "digest", "params": [1], "id": 7}'


def members(number):
    return json.dumps({f"a{number}": 1 for number in range(number)}).encode()


def route(body, formats=FORMATS, **properties):
    if isinstance(body, str):
        body = body.encode()
    return find_route(Properties(**properties), body, formats)


def reason(body, formats=FORMATS, **properties):
    with pytest.raises(Unroutable) as caught:
        route(body, formats, **properties)
    return str(caught.value)


# --- rules ---


@pytest.mark.parametrize("kind", [None, "application/json", "image/png", "text/plain"])
def test_the_type_property_routes_any_body_untouched(kind):
    body = b'\xff\0{"worker_type": "other", "workitem": 1}'
    assert route(body, type="digest", content_type=kind) == Route("digest", body)


@pytest.mark.parametrize("kind", [None, "", "application/json", "Application/JSON; charset=utf-8"])
def test_the_native_form_gives_type_and_workitem(kind):
    body = '{"worker_type": "digest", "workitem": {"path": "/x"}}'
    assert route(body, content_type=kind) == Route("digest", b'{"path": "/x"}')


@pytest.mark.parametrize(
    "written",
    ["1.10", "1e400", "[1, 2 ,3]", '"\\ud800"', '"grüß"', "null", "-0", '{"a":1,"a":2}', "123456789" * 99],
)
def test_the_workitem_of_the_native_form_travels_as_it_was_written(written):
    for body in (
        f'{{"worker_type":"t","workitem":{written}}}',
        f' {{ "workitem" :\n {written}\t, "worker_type" : "t" , "more" : [] }} \r\n',
    ):
        assert route(body) == Route("t", written.encode())


def test_the_last_of_equal_members_counts():
    assert route('{"worker_type": "a", "workitem": 1, "worker_type": "b"}') == Route("b", b"1")


def test_a_ruote_workitem_is_forwarded_whole():
    assert route(RUOTE) == Route("digest", RUOTE)


def test_a_json_rpc_request_is_forwarded_whole():
    assert route(RPC) == Route("digest", RPC)


def test_the_native_form_goes_before_ruote_and_ruote_before_json_rpc():
    fields = '"fields": {"params": {"worker_type": "ruote"}}'
    rpc = '"jsonrpc": "2.0", "method": "rpc"'
    native = '"worker_type": "native", "workitem": 1'
    assert route(f"{{{rpc}, {fields}, {native}}}").worker_type == "native"
    assert route(f'{{{rpc}, {fields}, "workitem": 1}}').worker_type == "ruote"
    assert route(f'{{{rpc}, "fields": {{"params": 1}}}}').worker_type == "rpc"


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        ("digest /etc/hosts now", b"/etc/hosts now"),
        ("digest", b""),
        ("digest ", b""),
        ("digest  a\n", b" a\n"),
    ],
)
def test_the_first_word_of_a_text_is_its_type(body, rest):
    assert route(body, content_type="text/plain; charset=latin-1") == Route("digest", rest)


def test_formats_of_plugins_are_asked_by_content_type():
    formats = {**FORMATS, "text/csv": lambda body: Route("csv", body)}
    assert route("a,b", formats, content_type="Text/CSV;header=absent") == Route("csv", b"a,b")


def test_what_a_format_of_a_plugin_returns_is_checked():
    assert "worker type '../x'" in reason(
        "", {"text/csv": lambda body: Route("../x", body)}, content_type="text/csv"
    )


# --- reasons ---


@pytest.mark.parametrize("name", ["a", "9", "A.b-c_d", "x" * 100, "worker1"])
def test_a_well_formed_type_is_taken(name):
    assert checked_type(name) == name


@pytest.mark.parametrize(
    "name", ["", "../../x", "x" * 101, "x" * 300, "a\0b", "\0", ".a", "-a", "_a", "a b", "a\n", "ä", "a/b", 1,
             None, ["a"], {"a": 1}, True],
)  # fmt: skip
def test_any_other_type_is_refused_and_shown(name):
    with pytest.raises(Unroutable, match="is not 1 to 100 of letters, digits") as caught:
        checked_type(name)
    assert shorten(repr(name), 120) in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "body",
    [
        '{"worker_type": "../x", "workitem": 1}',
        '{"worker_type": null, "workitem": 1}',
        '{"worker_type": "", "workitem": 1}',
        '{"fields": {"params": {"worker_type": 7}}}',
        '{"jsonrpc": "2.0", "method": ["a"]}',
    ],
)
def test_a_json_object_with_a_bad_type_is_refused_for_it(body):
    assert reason(body).startswith("worker type ")


def test_a_bad_type_property_is_refused_although_the_body_names_one():
    assert reason(RUOTE, type="../x").startswith("worker type '../x' is not")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "the body is empty; expected a JSON object"),
        (b"1", "the body is not a JSON object: it begins with '1'"),
        (b"[1]", "the JSON array is no JSON-RPC 2.0 batch: none of its elements is a request"),
        (b"[]", "the JSON array is no JSON-RPC 2.0 batch: none of its elements is a request"),
        (b"[1", "the body is not JSON: expected ',' at character 2, found ''"),
        (b"[,1]", "the body is not JSON: no value at 1"),
        (b"[1,]", "the body is not JSON: no value at 3"),
        (b"[1] 2", "the body is not JSON: text goes on after the array, at character 3"),
        (b"[" * 100_000, "the body is JSON nested too deeply to be read"),
        (b"[" + b"1," * 1000 + b"1]", "a batch has more than 1000 requests"),
        (b"[" + b"{}," * 500_000 + b"{}]", "more than 500,000 values of JSON; name the worker type by"),
        (b'{"a": [' + b"0," * 500_000 + b"0]}", "more than 500,000 values of JSON; name the worker type by"),
        (members(1001), "the JSON object has more than 1,000 members"),
        (members(1000), "the JSON object names no worker type"),
        (b"\0" * 1000, "the body is not a JSON object: it begins with '\\x00"),
        ('\ufeff{"a": 1}'.encode(), "the JSON object names no worker type"),
        ('{"a": "'.encode("utf-16-be"), "the body is not JSON: "),
        (b'{\0"\0\x00\xdc', "the body is not JSON: "),
        (b'\xff\xfe{\0"', "the body is not JSON: byte 4 is not UTF-16"),
        (b'{"a": "\xff"}', "the body is not JSON: byte 7 is not UTF-8"),
        (b"{", "the body is not JSON: expected '\"' at character 1, found ''"),
        (b"{'a': 1}", "the body is not JSON: expected '\"' at character 1, found \"'\""),
        (b'{"a"}', "the body is not JSON: expected ':' at character 4, found '}'"),
        (b'{"a": }', "the body is not JSON: no value at 6"),
        (b'{"a": 1 "b": 2}', "the body is not JSON: expected ',' at character 8, found '\"'"),
        (b'{"a": 1,}', "the body is not JSON: expected '\"' at character 8, found '}'"),
        (b'{"a": 1} x', "the body is not JSON: text goes on after the object, at character 8"),
        (b'{"a": "\n"}', "the body is not JSON: Invalid control character"),
        (b'{"a": [1, 2', "the body is not JSON: "),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer has more than 4,300 digits; send it as a string"),
        (b'[{"a": [' + b"9" * 5000 + b"]}]", "an integer has more than 4,300 digits; send it as a string"),
        (b'{"a": [1, ?]}', "the body is not JSON: no value at 10"),
        (b'{"a": ' + b"[" * 100_000, "the body is JSON nested too deeply to be read"),
        (b'{"a": 1}', "the JSON object names no worker type"),
        (b'{"worker_type": "a"}', 'the JSON object has "worker_type", but no "workitem"'),
        (b'{"workitem": 1}', "the JSON object names no worker type"),
        (b'{"fields": {"params": []}}', "the JSON object names no worker type"),
        (b'{"method": "a"}', "the JSON object names no worker type"),
        (b'{"jsonrpc": "1.0", "method": "a"}', "the JSON object names no worker type"),
        (b'{"jsonrpc": "2.0"}', "the JSON object names no worker type"),
    ],
)
def test_json_that_names_no_type_is_refused_with_the_reason(body, complaint):
    told = reason(body)
    assert told.startswith(complaint)
    assert len(told) < 400


@pytest.mark.parametrize("body", [b"", b" digest x", b"\xff\xfe x", b"\0" * 1000, b"../../x y"])
def test_a_text_that_begins_with_no_type_is_refused(body):
    assert reason(body, content_type="text/plain").startswith("worker type ")


def test_a_text_without_a_content_type_is_refused_with_the_one_that_it_needs():
    hint = "; a text needs the content type text/plain"
    assert reason("digest /x") == f"the body is not a JSON object: it begins with 'digest /x'{hint}"
    assert hint not in reason("digest /x", content_type="application/json")
    assert hint not in reason('{"worker_type": "digest"}')
    assert hint not in reason("")


def test_a_content_type_that_nobody_reads_is_refused_with_those_that_are_known():
    assert reason(b"\x89PNG", content_type="image/png") == (
        "no type property, content type 'image/png' is not one of application/json, text/plain, "
        "and the body does not begin as JSON does, with { or ["
    )
    assert len(reason(b"", content_type="x" * 255)) < 300


# --- what begins as JSON ---

NATIVE = b'{"worker_type": "digest", "workitem": {"path": "/x"}}'


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain", "Text/Plain; charset=latin-1",
                                  "application/x-unheard-of", "text/json", "none", "a/b; c=d"])  # fmt: skip
def test_json_under_another_content_type_is_read_and_goes_on_as_json(kind):
    assert route(NATIVE, content_type=kind) == Route("digest", b'{"path": "/x"}', "application/json")
    for whole in (RUOTE, RPC, b" \n\t" + RPC, b"[" + RPC + b"]"):
        assert route(whole, content_type=kind) == Route("digest", whole, "application/json")


@pytest.mark.parametrize("kind", ["application/vnd.api+json", "application/x+json; charset=utf-8"])
def test_a_content_type_that_is_json_by_its_suffix_stays(kind):
    assert route(RUOTE, content_type=kind) == Route("digest", RUOTE)


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain"])
def test_what_begins_as_json_and_is_none_is_refused_for_that(kind):
    assert reason(b"{digest /etc/hostname", content_type=kind).startswith(
        f"content type '{kind}', read as JSON: the body is not JSON: "
    )


def test_a_format_of_a_plugin_reads_its_content_type_before_json_is_tried():
    formats = {**FORMATS, "application/octet-stream": lambda body: Route("raw", body)}
    assert route(NATIVE, formats, content_type="application/octet-stream") == Route("raw", NATIVE)
    formats = {**FORMATS, "text/plain": lambda body: Route("text", body)}
    assert route(NATIVE, formats, content_type="text/plain") == Route("text", NATIVE)


# --- encodings of text ---


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le",
                                      "utf-32-be"])  # fmt: skip
@pytest.mark.parametrize("kind", [None, "application/json", "application/octet-stream"])
def test_json_in_every_encoding_that_a_worker_reads_is_routed(encoding, kind):
    written = ' \n{"worker_type": "digest", "workitem": {"a": "grüß"}}'
    found = route(written.encode(encoding), content_type=kind)
    assert (found.worker_type, found.body) == ("digest", '{"a": "grüß"}'.encode())
    for whole in (RUOTE, RPC, b"[" + RPC + b"]"):
        body = whole.decode().encode(encoding)
        found = route(body, content_type=kind)
        assert (found.worker_type, found.body) == ("digest", body)
        worked = Workitem("digest", 1, Properties(content_type=found.content_type or kind).encode(), body)
        assert decode_body(worked) == json.loads(whole)


def test_a_text_may_begin_with_a_byte_order_mark():
    assert route(b"\xef\xbb\xbfdigest /x", content_type="text/plain") == Route("digest", b"/x")


# --- compressed bodies ---


def zlib_of(body, bits):
    writer = zlib.compressobj(9, zlib.DEFLATED, bits)
    return writer.compress(body) + writer.flush()


@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("x-gzip", 31), ("GZIP", 31), ("deflate", 15),
                                                ("deflate", -15)])  # fmt: skip
def test_a_compressed_body_is_read_and_travels_compressed(encoding, bits):
    assert route(zlib_of(RUOTE, bits), content_encoding=encoding) == Route("digest", zlib_of(RUOTE, bits))
    found = route(zlib_of(NATIVE, bits), content_encoding=encoding)
    properties = Properties(content_encoding=encoding).encode()
    assert found.worker_type == "digest"
    assert decode_body(Workitem("digest", 1, properties, found.body)) == {"path": "/x"}
    found = route(zlib_of(b"digest /x", bits), content_encoding=encoding, content_type="text/plain")
    properties = Properties(content_encoding=encoding, content_type="text/plain").encode()
    assert decode_body(Workitem("digest", 1, properties, found.body)) == "/x"


@pytest.mark.parametrize("encoding", ["utf-8", "identity", "binary", "us-ascii", "UTF-8", ""])
def test_an_encoding_that_changes_nothing_is_none(encoding):
    assert route(RUOTE, content_encoding=encoding) == Route("digest", RUOTE)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, deflate", "x" * 255])
def test_an_unknown_encoding_is_named(encoding):
    told = reason(RUOTE, content_encoding=encoding)
    assert told == f"content encoding {encoding[:60]!r} is not one of gzip, deflate"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (RUOTE, "the body is not gzip: "),
        (gzip.compress(RUOTE, mtime=0)[:-1], "the body is not gzip: it ends early"),
        (b"", "the body is not gzip: it ends early"),
        (gzip.compress(RUOTE, mtime=0) + b"more", "the body is not gzip: 4 bytes follow its end"),
        (gzip.compress(b"{}", mtime=0), "the JSON object names no worker type"),
    ],
)
def test_a_body_that_is_not_what_its_encoding_says_is_refused_for_that(body, complaint):
    assert reason(body, content_encoding="gzip").startswith(complaint)


def test_a_bomb_is_refused_with_no_more_memory_than_a_large_body():
    bomb = gzip.compress(bytes(1 << 26), 1)
    tracemalloc.start()
    told = reason(bomb, content_encoding="gzip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told == "the body has more than 16777216 bytes when it is decompressed"
    assert peak < 3 * 16777216


def test_the_type_property_routes_a_compressed_body_untouched():
    assert route(b"no gzip", type="digest", content_encoding="gzip") == Route("digest", b"no gzip")


def test_a_megabyte_of_zeros_is_refused_in_few_words():
    for kind in ("application/json", "text/plain"):
        assert len(reason(bytes(1_000_000), content_type=kind)) < 300


def test_json_of_any_depth_is_routed_or_refused_and_nothing_else():
    outcomes = set()
    # Python 3.13 reads some thousands.
    for depth in [*range(1, 900, 50), *range(900, 1010), 5000, 9990, 10_010, 100_000]:
        for body in ('{{"worker_type": {}, "workitem": 1}}', '{{"worker_type": "a", "workitem": {}}}'):
            try:
                outcomes.add(route(body.format("[" * depth + "]" * depth)).worker_type)
            except Unroutable as error:
                outcomes.add(str(error)[:12])
    assert outcomes == {"a", "worker type ", "the body is "}


def test_every_truncation_of_a_workitem_is_refused():
    for body in (RUOTE, RPC, b'{"worker_type": "a", "workitem": [1, {"b": "c"}]}'):
        for end in range(1, len(body)):
            assert reason(body[:end]).startswith("the body is not ")


def test_a_large_body_is_read_without_the_garbage_collector():
    body = b'{"jsonrpc": "2.0", "method": "m", "params": [' + b"[]," * 100_000 + b"1]}"
    generations = []

    def note(phase, info):
        generations.append(info["generation"])

    gc.callbacks.append(note)
    try:
        assert find_route(Properties(), body, FORMATS).worker_type == "m"
    finally:
        gc.callbacks.remove(note)
    assert 2 not in generations
    assert gc.isenabled()

"""Finds a message's worker type, and the part of its body that is the workitem.

All functions are pure: bytes and properties in, a route out.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeGuard

from taskqueue.amqp.properties import Properties
from taskqueue.errors import Unroutable
from taskqueue.messages import jsonrpc
from taskqueue.messages.content import (
    JSON,
    TEXT,
    UnreadableEncoding,
    compress,
    decompress,
    is_compressed,
    media_type,
)
from taskqueue.texts import shorten

#: A worker type. It is part of a queue's name, so its characters are those that every tool can show.
WORKER_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")

#: Maximum bytes of JSON that a dispatcher decodes; decoded, they take up to 30 times as much.
LARGEST_READ: Final = 16 * 1024 * 1024

#: Maximum members of an object that names a worker type: two, or those of a request or a Ruote workitem.
_MOST_MEMBERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Route:
    """The worker type of a message, and the body that is sent to it.

    `content_type` is the content type of that body; None: the message's own.
    """

    worker_type: str
    body: bytes
    content_type: str | None = None


#: Reads a body of one content type; raises Unroutable. Plugins add more (`taskqueue.formats`).
Format = Callable[[bytes], Route]


def find_route(properties: Properties, body: bytes, formats: Mapping[str, Format]) -> Route:
    """Find a message's worker type, and the part of its body that is the workitem.

    Raises Unroutable with the reason. docs/protocol.md has the order of the rules.
    """
    if properties.type:
        return Route(checked_type(properties.type), body)
    try:
        route = _read_encoded(properties, body, formats)
    except UnreadableEncoding as error:
        raise Unroutable(str(error)) from None
    checked_type(route.worker_type)
    return route


def _read_encoded(properties: Properties, body: bytes, formats: Mapping[str, Format]) -> Route:
    """Read a body that may be compressed. A part that is cut out is compressed again."""
    encoding = properties.content_encoding or ""
    if not is_compressed(encoding):
        return _read_plain(properties, body, formats)
    plain = decompress(body, encoding, LARGEST_READ)
    route = _read_plain(properties, plain, formats)
    return replace(route, body=body if route.body is plain else compress(route.body, encoding))


def _read_plain(properties: Properties, body: bytes, formats: Mapping[str, Format]) -> Route:
    """Read a body by its content type, or as JSON if it begins so.

    Many clients publish JSON under their default content type.
    """
    kind = media_type(properties.content_type) or JSON
    reader = formats.get(kind)
    if (reader is None or reader is read_text) and begins_as_json(body):
        try:
            route = read_json(body)
        except Unroutable as error:
            raise Unroutable(f"content type {shorten(repr(kind), 120)}, read as JSON: {error}") from None
        return route if kind.endswith("+json") else replace(route, content_type=JSON)
    if reader is None:
        known = ", ".join(sorted(formats))
        raise Unroutable(
            f"no type property, content type {shorten(repr(kind), 120)} is not one of {known}, "
            "and the body does not begin as JSON does, with { or ["
        )
    try:
        return reader(body)
    except Unroutable as error:
        if properties.content_type or not body or begins_as_json(body):
            raise
        raise Unroutable(f"{error}; a text needs the content type text/plain") from None


def begins_as_json(body: bytes, bracket: str = "{[") -> bool:
    """Tell whether a body begins as a JSON object or array, in an encoding that `jsonrpc.text_of` knows.

    bracket -- the accepted first characters
    """
    begins = _JSON_BEGINS.match(body)
    return begins is not None and begins[1].decode() in bracket


#: A byte order mark, white space, and a brace or bracket, with the zero bytes of UTF-16 and UTF-32.
_JSON_BEGINS: Final = re.compile(rb"(?:\xef\xbb\xbf|\0\0\xfe\xff|\xff\xfe|\xfe\xff)?[\0 \t\n\r]*+([{\[])")


def checked_type(name: object, noun: str = "worker type") -> str:
    """Return a valid worker type; raise Unroutable, which calls it a `noun`, for any other value."""
    if isinstance(name, str) and WORKER_TYPE.match(name):
        return name
    shown = shorten(repr(name), 120)
    raise Unroutable(
        f"{noun} {shown} is not 1 to 100 of letters, digits, '_', '-', '.', beginning with a letter or digit"
    )


def read_json(body: bytes) -> Route:
    """Route a JSON object: the native form, a Ruote workitem, or a JSON-RPC 2.0 request or batch."""
    if len(body) > LARGEST_READ:
        raise Unroutable(f"no type property, and {len(body)} bytes of JSON; at most {LARGEST_READ} are read")
    with jsonrpc.collecting_nothing(len(body)):
        batch = _read_batch(body)
        if batch is not None:
            return batch
        return _read_object(body)


def _read_object(body: bytes) -> Route:
    members = _json_members(body)
    if "worker_type" in members and "workitem" in members:
        workitem = members["workitem"][1].encode("utf-8", "surrogatepass")
        return Route(checked_type(members["worker_type"][0]), workitem)
    ruote = ruote_type({"fields": members["fields"][0]}) if "fields" in members else None
    if ruote is not None:
        return Route(checked_type(ruote), body)
    if "method" in members and members.get("jsonrpc", ("",))[0] == "2.0":
        return Route(checked_type(members["method"][0]), body)
    if "worker_type" in members:
        raise Unroutable('the JSON object has "worker_type", but no "workitem" with the body for the worker')
    raise Unroutable(
        'the JSON object names no worker type: expected "worker_type" and "workitem", '
        '"fields.params.worker_type", or a JSON-RPC 2.0 request'
    )


def _read_batch(body: bytes) -> Route | None:
    """Route a batch by its first valid request: one worker performs all of it and returns one list."""
    if not begins_as_json(body, "["):
        return None
    try:
        batch = jsonrpc.decode_batch(body)
    except jsonrpc.TooMany as error:
        raise Unroutable(str(error)) from None
    except RecursionError:
        raise Unroutable("the body is JSON nested too deeply to be read") from None
    except ValueError as error:
        raise Unroutable(f"the body is not JSON: {shorten(str(error), 200)}") from None
    request = next(filter(jsonrpc.is_request, batch), None)
    request = next(filter(jsonrpc.is_valid, batch), request)
    if request is None:
        raise Unroutable("the JSON array is no JSON-RPC 2.0 batch: none of its elements is a request")
    return Route(checked_type(request["method"]), body)


def read_text(body: bytes) -> Route:
    """Route a text: its first word is the worker type, the rest is the workitem."""
    name, _, rest = body.removeprefix(BOM_UTF8).partition(b" ")
    return Route(checked_type(name.decode("utf-8", "replace")), rest)


#: The built-in formats.
FORMATS: Final[Mapping[str, Format]] = {JSON: read_json, TEXT: read_text}


def ruote_type(workitem: Any) -> Any:
    """Return the worker type in a Ruote workitem; None if it is no Ruote workitem."""
    for name in ("fields", "params", "worker_type"):
        if not isinstance(workitem, dict):
            return None
        workitem = workitem.get(name)
    return workitem


def is_ruote(workitem: Any) -> TypeGuard[dict[str, Any]]:
    """Tell whether a value is a Ruote workitem, routable or not: it has an expression id and fields."""
    is_whole = isinstance(workitem, dict) and "fei" in workitem and isinstance(workitem.get("fields"), dict)
    return is_whole or ruote_type(workitem) is not None


def _json_members(body: bytes) -> dict[str, tuple[Any, str]]:
    """Return the members of a JSON object (RFC 8259), each decoded and as text.

    The text of a value is forwarded unchanged: encoded again, 1.10 would become 1.1 and 1e400 Infinity.
    """
    try:
        text = jsonrpc.bounded_text_of(body)
        return _object_members(text, jsonrpc.skip_space(text, 0))
    except jsonrpc.TooMany as error:
        raise Unroutable(str(error)) from None
    except UnicodeDecodeError as error:
        name = error.encoding.upper()
        raise Unroutable(f"the body is not JSON: byte {error.start} is not {name}") from None
    except RecursionError:
        raise Unroutable("the body is JSON nested too deeply to be read") from None
    except ValueError as error:
        raise Unroutable(f"the body is not JSON: {shorten(str(error), 200)}") from None


def _object_members(text: str, at: int) -> dict[str, tuple[Any, str]]:
    if not text[at:]:
        raise Unroutable("the body is empty; expected a JSON object, or the worker type in the property type")
    if text[at : at + 1] != "{":
        raise Unroutable(f"the body is not a JSON object: it begins with {text[at : at + 20]!r}")
    members: dict[str, tuple[Any, str]] = {}
    at = jsonrpc.skip_space(text, at + 1)
    while text[at : at + 1] != "}":
        if members:
            at = jsonrpc.skip_space(text, jsonrpc.expect(text, at, ","))
        if len(members) == _MOST_MEMBERS:
            raise Unroutable(f"the JSON object has more than {_MOST_MEMBERS:,} members")
        name, at = jsonrpc.scan(text, jsonrpc.expect(text, at, '"') - 1)
        start = jsonrpc.skip_space(text, jsonrpc.expect(text, jsonrpc.skip_space(text, at), ":"))
        value, end = jsonrpc.scan(text, start)
        members[name] = (value, text[start:end])
        at = jsonrpc.skip_space(text, end)
    if jsonrpc.skip_space(text, at + 1) != len(text):
        raise ValueError(f"text goes on after the object, at character {at + 1}")
    return members

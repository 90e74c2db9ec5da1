"""The workitem: what travels, and how it is read from a message.

Everything here is a pure function of bytes and properties; nothing touches the network.
"""

import os
import random
import re
import socket
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, TypeGuard

from taskqueue.encodings import UnreadableEncoding, compress, decompress, is_compressed
from taskqueue.errors import LONGEST_DELAY, Unroutable, WorkitemUnreadable
from taskqueue.headers import MalformedProperties, as_bytes, short_string_pieces
from taskqueue.properties import Form, Properties, content_type_of, has_content_encoding
from taskqueue.rpc import jsonrpc

#: A worker type: it becomes part of a queue's name, so it is kept to what every tool can show.
WORKER_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")

#: RabbitMQ's direct reply-to (https://www.rabbitmq.com/docs/direct-reply-to): what reply_to begins with where
#: the reply comes over the connection that asked.
DIRECT_REPLY: Final = "amq.rabbitmq.reply-to"

JSON: Final = "application/json"
TEXT: Final = "text/plain"
BINARY: Final = "application/octet-stream"

#: The headers that taskqueue sets; docs/protocol.md describes each.
HEADER: Final = "x-taskqueue-"
STATUS: Final = HEADER + "status"
WORKITEM_ID: Final = HEADER + "workitem"
ATTEMPT: Final = HEADER + "attempt"
CRASHES: Final = HEADER + "crashes"
FAILURES: Final = HEADER + "failures"
HISTORY: Final = HEADER + "history"
DUE: Final = HEADER + "due"
WAIT: Final = HEADER + "wait"
DEADLINE: Final = HEADER + "deadline"
PUBLISHER: Final = HEADER + "user"
HOST: Final = HEADER + "host"
WORKER: Final = HEADER + "worker"
STARTED: Final = HEADER + "started"
ENDED: Final = HEADER + "ended"
POSSIBLY_DOUBLED: Final = HEADER + "possibly-doubled"
LEASE: Final = HEADER + "lease"
NOTIFY: Final = HEADER + "notify"
REASON: Final = HEADER + "reason"
QUEUE: Final = HEADER + "queue"
ORIGINAL: Final = HEADER + "original"
REPLY_TO: Final = HEADER + "reply-to"

#: Those of them that a producer may set.
_PRODUCERS: Final = frozenset((DUE, WAIT, DEADLINE, NOTIFY))
_PUBLISHER: Final = PUBLISHER.encode()
_WAIT: Final = WAIT.encode()

#: Bytes of JSON that a dispatcher decodes to find the worker type; decoded, they take up to 30 times as much.
LARGEST_READ: Final = 16 * 1024 * 1024

#: Members of an object that names a worker type: it has two, or those of a request or of a Ruote workitem.
_MOST_MEMBERS: Final = 1000

#: Bytes that a body may have when a worker has decompressed it: as many as one that was not compressed.
LARGEST_DECOMPRESSED: Final = 159 * 1024 * 1024

#: The charsets that a text may have. Each is read in linear time, which Python does not promise of all that
#: it knows: 400 kB of punycode take a minute.
CHARSETS: Final = frozenset(
    (
        *("utf-8", "utf8", "us-ascii", "ascii", "latin-1", "latin1", "koi8-r", "koi8-u"),
        *("utf-16", "utf-16le", "utf-16be", "utf-16-le", "utf-16-be", "utf-32", "utf-32le", "utf-32be"),
        *(f"iso-8859-{part}" for part in range(1, 17) if part != 12),
        *(f"windows-125{page}" for page in range(9)),
        *("shift-jis", "euc-jp", "euc-kr", "gb2312", "gbk", "gb18030", "big5"),
    )
)

#: Characters of a message or traceback that travel.
TEXT_LIMIT: Final = 16_384


class Workitem:
    """One workitem as its worker sees it (`self.workitem`): worker type, attempt, body, and its properties.

    `attempt` is 1 for the first run; crashes and failures before this one are counted in. `content_type` is
    the body's media type, without parameters, in lower case; JSON where none is given.
    """

    __slots__ = ("_properties", "_raw", "attempt", "body", "content_type", "worker_type")

    def __init__(self, worker_type: str, attempt: int, properties: bytes, body: bytes) -> None:
        """Take the properties as AMQP writes them: few handlers look at more than the content type."""
        self.worker_type = worker_type
        self.attempt = attempt
        self.body = body
        self.content_type = media_type(content_type_of(properties)) or JSON
        self._raw = properties
        self._properties: Properties | None = None

    def __repr__(self) -> str:
        """Show what it is, and not what is in it."""
        return f"<workitem {self.id} of type {self.worker_type}, attempt {self.attempt}>"

    @property
    def id(self) -> str:
        """The workitem's id."""
        return self.properties.message_id or ""

    @property
    def properties(self) -> Properties:
        """The message's properties, decoded, without what only the broker and we ourselves need."""
        if self._properties is None:
            self._properties = _for_handlers(Properties.decode(self._raw))
        return self._properties

    @property
    def has_content_encoding(self) -> bool:
        """Whether the message names a content encoding."""
        return has_content_encoding(self._raw)

    @property
    def headers(self) -> dict[str, Any]:
        """The message's headers, decoded."""
        return self.properties.headers


def _for_handlers(properties: Properties) -> Properties:
    try:
        kept = properties.with_headers({}, is_untravelable) if properties.header_table else properties
    except MalformedProperties:  # which the handler hears when it looks at the headers
        kept = properties
    return kept.replace(user_id=None)


@dataclass(frozen=True, slots=True)
class Route:
    """Where the dispatcher sends a message, and what of its body.

    `content_type` is what the body is from here on; None for what the message says.
    """

    worker_type: str
    body: bytes
    content_type: str | None = None


#: Reads the body of one content type; raises Unroutable. Plugins add more (`taskqueue.formats`).
Format = Callable[[bytes], Route]


# --- from a producer ----------------------------------------------------------------------------


def submitted(
    worker_type: str,
    id_: str,
    content_type: str,
    reply_to: str | None = None,
    *,
    notify: bool = False,
    persistent: bool = True,
) -> bytes:
    """Return the properties under which a workitem is submitted, as AMQP writes them.

    Args:
        worker_type: its type, which saves the dispatcher from reading the body.
        id_: its id; at most 255 bytes.
        content_type: the media type of its body.
        reply_to: where its result goes; None for where its group says.
        notify: whether whoever listens there wants to be told what happens on the way.
        persistent: whether the workitem outlives the broker.
    """
    own = as_bytes(id_)
    shared = worker_type, content_type, reply_to, notify, persistent
    return _submitted_form(shared, len(own)).encode(own, own, int(time.time()))


@lru_cache(maxsize=1024)
def _submitted_form(shared: tuple[str, str, str | None, bool, bool], size: int) -> Form:
    """Return what the properties of many workitems have in common; `size` is that of their ids."""
    worker_type, content_type, reply_to, notify, persistent = shared
    mode = 2 if persistent else 1
    fixed = Properties(content_type=content_type, delivery_mode=mode, reply_to=reply_to, type=worker_type)
    if notify:
        fixed = fixed.with_headers({NOTIFY: True})
    own = short_string_pieces(size)
    return Form(fixed, {"correlation_id": own, "message_id": own, "timestamp": ("Q",)})


# --- from a message to its worker type ---------------------------------------------------------


def find_route(properties: Properties, body: bytes, formats: Mapping[str, Format]) -> Route:
    """Find the worker type that a message names, and the part of its body that is the workitem.

    Raises Unroutable with the reason. The order of the rules is that of docs/protocol.md.
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
    """Read a body that may be compressed; what travels is compressed again, as large messages are held."""
    encoding = properties.content_encoding or ""
    if not is_compressed(encoding):
        return _read_plain(properties, body, formats)
    plain = decompress(body, encoding, LARGEST_READ)
    route = _read_plain(properties, plain, formats)
    return replace(route, body=body if route.body is plain else compress(route.body, encoding))


def _read_plain(properties: Properties, body: bytes, formats: Mapping[str, Format]) -> Route:
    """Read a body by its content type, or as the JSON that it begins as.

    Many clients publish JSON under a content type of their own default.
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
    return reader(body)


def begins_as_json(body: bytes, bracket: str = "{[") -> bool:
    """Tell whether a body begins as a JSON object or array, in any encoding that `jsonrpc.text_of` knows.

    bracket -- which of the two it is
    """
    begins = _JSON_BEGINS.match(body)
    return begins is not None and begins[1].decode() in bracket


#: A byte order mark, white space, and a brace or bracket; UTF-16 and UTF-32 have zeros between them.
_JSON_BEGINS: Final = re.compile(rb"(?:\xef\xbb\xbf|\0\0\xfe\xff|\xff\xfe|\xfe\xff)?[\0 \t\n\r]*+([{\[])")


def checked_type(name: object) -> str:
    """Return a worker type that is well formed; raise Unroutable for any other value."""
    if isinstance(name, str) and WORKER_TYPE.match(name):
        return name
    shown = shorten(repr(name), 120)
    raise Unroutable(
        f"worker type {shown} is not 1 to 100 of letters, digits, '_', '-', '.', "
        "beginning with a letter or digit"
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
    raise Unroutable(
        'the JSON object names no worker type: expected "worker_type" and "workitem", '
        '"fields.params.worker_type", or a JSON-RPC 2.0 request'
    )


def _read_batch(body: bytes) -> Route | None:
    """Route a batch by its first valid request: one worker performs all of it, and answers by one list."""
    if not begins_as_json(body, "["):
        return None
    try:
        batch = jsonrpc.decode_batch(body)
    except jsonrpc.TooMany as error:
        raise Unroutable(str(error)) from None
    except RecursionError:
        raise Unroutable("the body is JSON nested too deeply to be read") from None
    except ValueError as error:
        raise Unroutable(f"the body is not JSON: {_json_complaint(error)}") from None
    request = next(filter(jsonrpc.is_request, batch), None)
    request = next(filter(jsonrpc.is_valid, batch), request)
    if request is None:
        raise Unroutable("the JSON array is no JSON-RPC 2.0 batch: none of its elements is a request")
    return Route(checked_type(request["method"]), body)


def read_text(body: bytes) -> Route:
    """Route a text: its first word is the worker type, the rest the workitem."""
    name, _, rest = body.removeprefix(BOM_UTF8).partition(b" ")
    return Route(checked_type(name.decode("utf-8", "replace")), rest)


#: The formats that need no plugin.
FORMATS: Final[Mapping[str, Format]] = {JSON: read_json, TEXT: read_text}


def ruote_type(workitem: Any) -> Any:
    """Return what a Ruote workitem names as its worker type; None if it is no Ruote workitem."""
    for name in ("fields", "params", "worker_type"):
        if not isinstance(workitem, dict):
            return None
        workitem = workitem.get(name)
    return workitem


def is_ruote(workitem: Any) -> TypeGuard[dict[str, Any]]:
    """Tell whether something is a Ruote workitem, routable or not: it has an expression's id and fields."""
    is_whole = isinstance(workitem, dict) and "fei" in workitem and isinstance(workitem.get("fields"), dict)
    return is_whole or ruote_type(workitem) is not None


def _json_members(body: bytes) -> dict[str, tuple[Any, str]]:
    """Return the members of a JSON object (RFC 8259), each decoded and as it was written.

    The text of a value travels on as it is: written anew, 1.10 would become 1.1 and 1e400 Infinity.
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
    except (StopIteration, ValueError) as error:
        raise Unroutable(f"the body is not JSON: {_json_complaint(error)}") from None


def _json_complaint(error: Exception) -> str:
    return shorten(str(error), 200) if isinstance(error, ValueError) else f"no value at {error.value}"  # type: ignore[attr-defined]


def _object_members(text: str, at: int) -> dict[str, tuple[Any, str]]:
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


# --- from the dispatcher on --------------------------------------------------------------------


def is_untravelable(header: str) -> bool:
    """Tell whether a header must not be published again, nor be shown to a handler.

    CC and BCC would route copies, and RabbitMQ before 4.0 takes a repeated x-death for a cycle and
    drops the message (https://www.rabbitmq.com/docs/dlx#automatic-dead-letter-cycles). Queues count their
    deliveries in headers, each its own. A lease is over.
    """
    return header in _UNTRAVELABLE or header.startswith(("x-death", "x-first-death-", "x-last-death-"))


_UNTRAVELABLE: Final = frozenset(("CC", "BCC", "x-delivery-count", "x-acquired-count", LEASE))


def _is_taken_out(header: str) -> bool:
    """Tell whether a header of a producer's stays behind: ours say what only we can know."""
    is_ours = header.startswith(HEADER) and header not in _PRODUCERS
    return (is_ours and header != PUBLISHER) or is_untravelable(header)


def attributed(properties: Properties, login: str) -> Properties:
    """Return properties with the header that says who published the message, if the broker knows that.

    The broker admits a message with the property user_id only from that user
    (https://www.rabbitmq.com/docs/validated-user-id). So the header counts where user_id is our own login,
    under which we pass it on; elsewhere user_id is the publisher. A header without either is dropped.

    login -- our name at the broker
    """
    table, user = properties.header_table, properties.user_id
    claims = table is not None and _PUBLISHER in table
    if (user is None and not claims) or (claims and user == login):
        return properties
    return properties.with_headers({PUBLISHER: user or None}).replace(
        user_id=(login or None) if user else None
    )


def login_of(properties: Properties) -> str | None:
    """Return the user_id that properties of ours keep: the one that vouches for the publisher's name."""
    table = properties.header_table
    return properties.user_id if table is not None and _PUBLISHER in table else None


def travelling(
    properties: Properties,
    worker_type: str,
    *,
    content_type: str | None = None,
    login: str = "",
    is_cluster: bool = False,
) -> Properties:
    """Return the properties with which a routed workitem goes on: the same object where they can stay.

    Args:
        properties: as they came.
        worker_type: where it goes.
        content_type: what its body is from here on; None for what it was.
        login: our name at the broker.
        is_cluster: whether the broker may lose a queue while connections go on.
    """
    kept = attributed(properties, login)
    headers: dict[str, Any] = {}
    if kept.expiration is not None and kept.expiration.isdecimal():
        headers[DEADLINE] = time.time() + int(kept.expiration) / 1000
    if headers or kept.header_table:
        kept = kept.with_headers(headers, _is_taken_out)
    mode = 1 if _may_end_with_broker(properties) and not is_cluster else 2
    if content_type is not None:
        kept = kept.replace(content_type=content_type)
    if (kept.type, kept.delivery_mode, kept.expiration) == (worker_type, mode, None):
        return kept if kept.message_id else kept.replace(message_id=new_id())
    return kept.replace(
        type=worker_type, delivery_mode=mode, message_id=kept.message_id or new_id(), expiration=None
    )


def _may_end_with_broker(properties: Properties) -> bool:
    """Tell whether a producer says so of a message whose reply could not come any more, either."""
    return properties.delivery_mode == 1 and (properties.reply_to or "").startswith(DIRECT_REPLY)


def rejected(properties: Properties, reason: str, queue: str, login: str = "") -> Properties:
    """Return the properties under which an unroutable message is kept, the original ones inside.

    login -- our name at the broker
    """
    headers = {
        REASON: reason,
        QUEUE: queue,
        ORIGINAL: properties.fields,
        HOST: socket.gethostname(),
        ENDED: time.time(),
    }
    kept = attributed(properties, login).with_headers(headers, _is_taken_out)
    return kept.replace(delivery_mode=2, message_id=properties.message_id or new_id(), expiration=None)


_random: Final = random.Random()  # noqa: S311 -- no secret; urandom is asked once, and not for every workitem
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """Return an id for a workitem that came without one."""
    return f"{_random.getrandbits(128):032x}"


def moment(properties: Properties, header: str) -> float | None:
    """Return a header that is a time in seconds since 1970; None where a producer wrote anything else."""
    if properties.header_table is None:
        return None  # as nearly always
    try:
        value = properties.header(header)
    except MalformedProperties:
        return None
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def wait_of(properties: Properties, now: float) -> float | None:
    """Return in how many seconds a workitem is to run; None for at once. It is `now` by this host's clock.

    A delay that was meant as one (the header WAIT: seconds that are left of it) ends after that time,
    whichever way the clock was set meanwhile or another host's differs; a workitem that had to wait for a
    worker as well is due by its time. Raises Unroutable for a time more than ten years ahead.
    """
    due = moment(properties, DUE)
    if due is None:
        return None
    if not due <= now + LONGEST_DELAY:
        raise Unroutable(
            f"{DUE} is {due:g}, more than ten years ahead; expected seconds since 1970, now {now:.0f}"
        )
    wait = moment(properties, WAIT)
    return due - now if wait is None or not wait < due - now else max(0.0, wait)


def with_wait(raw: bytes, seconds: float) -> bytes:
    """Return properties, as AMQP writes them, with what is left of a delay, if they have one."""
    if _WAIT not in raw:
        return raw
    properties = Properties.decode(raw)
    if moment(properties, WAIT) is None:
        return raw
    return properties.with_headers({WAIT: max(0.0, seconds)}).encode()


# --- in the worker -----------------------------------------------------------------------------


def decode_body(workitem: Workitem, most: int = LARGEST_DECOMPRESSED) -> Any:
    """Return a workitem's body as its handler gets it: decoded JSON, str for text, else bytes.

    most -- bytes that it may have when it is decompressed

    Raises WorkitemUnreadable where the body is not what its content type says.
    """
    kind = workitem.content_type
    try:
        body = _decompressed(workitem, most) if workitem.has_content_encoding else workitem.body
        if kind == JSON or kind.endswith("+json"):
            return jsonrpc.decode(body)
        if kind.startswith("text/"):
            return body.decode(_charset(workitem.properties.content_type)).removeprefix("\ufeff")
    except RecursionError:
        raise WorkitemUnreadable(f"{kind}: nested too deeply to be read") from None
    except UnreadableEncoding as error:
        raise WorkitemUnreadable(str(error)) from None
    except (ValueError, LookupError) as error:
        raise WorkitemUnreadable(f"the body is not {kind}: {shorten(str(error), 200)}") from None
    return body


def _decompressed(workitem: Workitem, most: int) -> bytes:
    encoding = workitem.properties.content_encoding or ""
    if not is_compressed(encoding):
        return workitem.body
    return decompress(workitem.body, encoding, most)


# --- small tools -------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def media_type(content_type: str | None) -> str:
    """Return a content type without its parameters, in lower case; "" where there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def _charset(content_type: str | None) -> str:
    """Return a content type's charset; LookupError for one that is not of CHARSETS."""
    match = re.search(r"charset=\"?([\w.:-]+)", content_type or "", re.IGNORECASE)
    name = match[1].lower().replace("_", "-") if match else "utf-8"
    if name not in CHARSETS:
        raise LookupError(f"charset {name[:40]!r} is not one of {', '.join(sorted(CHARSETS))}")
    return name


def shorten(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return a text of at most `limit` characters, its end kept where it is cut."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"

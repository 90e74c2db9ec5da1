"""The workitem: its properties when it is submitted, and its form for a handler."""

import time
from functools import lru_cache
from typing import Any, Final

from taskqueue.amqp.properties import Form, Properties, content_type_of, has_content_encoding
from taskqueue.amqp.tables import MalformedProperties, as_bytes, short_string_pieces
from taskqueue.errors import WorkitemUnreadable
from taskqueue.messages import jsonrpc
from taskqueue.messages.content import (
    JSON,
    UnreadableEncoding,
    charset_of,
    decompress,
    is_compressed,
    media_type,
)
from taskqueue.messages.forwarding import is_untravelable
from taskqueue.messages.names import CLAIM, COMPLETION, NOTIFY, PROOF
from taskqueue.texts import shorten

#: Maximum bytes of a decompressed body: those of an uncompressed one.
LARGEST_DECOMPRESSED: Final = 159 * 1024 * 1024

_CONSUMERS: Final = (CLAIM, COMPLETION, PROOF)


class Workitem:
    """One workitem as its worker sees it (`self.workitem`): worker type, attempt, body and properties.

    `attempt` is 1 for the first run; earlier crashes and failures count. `content_type` is the body's media
    type, in lower case, without parameters; JSON by default.
    """

    __slots__ = ("_properties", "_raw", "attempt", "body", "content_type", "worker_type")

    def __init__(self, worker_type: str, attempt: int, properties: bytes, body: bytes) -> None:
        """Take encoded properties: few handlers read more than the content type."""
        self.worker_type = worker_type
        self.attempt = attempt
        self.body = body
        self.content_type = media_type(content_type_of(properties)) or JSON
        self._raw = properties
        self._properties: Properties | None = None

    def __repr__(self) -> str:
        """Name the workitem without its content."""
        return f"<workitem {self.id} of type {self.worker_type}, attempt {self.attempt}>"

    @property
    def id(self) -> str:
        """The workitem's id."""
        return self.properties.message_id or ""

    @property
    def properties(self) -> Properties:
        """The message's decoded properties, without those for the broker and for taskqueue only."""
        if self._properties is None:
            self._properties = _for_handlers(Properties.decode(self._raw))
        return self._properties

    @property
    def has_content_encoding(self) -> bool:
        """Whether the message names a content encoding."""
        return has_content_encoding(self._raw)

    def with_body(self, body: bytes) -> "Workitem":
        """Return the same workitem with another body of the same content type."""
        return Workitem(self.worker_type, self.attempt, self._raw, body)

    @property
    def headers(self) -> dict[str, Any]:
        """The message's headers, decoded."""
        return self.properties.headers


def _is_hidden(header: str) -> bool:
    """Tell whether a handler must not see a header: messages about its end are the consumer's to send."""
    return header in _CONSUMERS or is_untravelable(header)


def _for_handlers(properties: Properties) -> Properties:
    try:
        kept = properties.with_headers({}, _is_hidden) if properties.header_table else properties
    except MalformedProperties:  # the handler gets the error when it reads the headers
        kept = properties
    return kept if kept.user_id is None else kept.replace(user_id=None)  # a copy takes eight microseconds


def submitted(
    worker_type: str,
    id_: str,
    content_type: str,
    reply_to: str | None = None,
    *,
    notify: bool = False,
    persistent: bool = True,
) -> bytes:
    """Return the encoded properties of a submitted workitem.

    Args:
        worker_type: its worker type; the dispatcher then need not read the body.
        id_: its id; at most 255 bytes.
        content_type: the media type of its body.
        reply_to: the queue for its result; None: its group's results queue.
        notify: whether the owner of that queue wants notices about progress.
        persistent: whether the workitem survives a restart of the broker.
    """
    own = as_bytes(id_)
    shared = worker_type, content_type, reply_to, notify, persistent
    return _submitted_form(shared, len(own)).encode(own, own, int(time.time()))


@lru_cache(maxsize=1024)
def _submitted_form(shared: tuple[str, str, str | None, bool, bool], size: int) -> Form:
    """Return the template of many workitems' properties; `size` is the bytes of their ids."""
    worker_type, content_type, reply_to, notify, persistent = shared
    mode = 2 if persistent else 1
    fixed = Properties(content_type=content_type, delivery_mode=mode, reply_to=reply_to, type=worker_type)
    if notify:
        fixed = fixed.with_headers({NOTIFY: True})
    own = short_string_pieces(size)
    return Form(fixed, {"correlation_id": own, "message_id": own, "timestamp": ("Q",)})


def decode_body(workitem: Workitem, most: int = LARGEST_DECOMPRESSED) -> Any:
    """Return a workitem's body for its handler: decoded JSON, str for text, else bytes.

    most -- maximum bytes of the decompressed body

    Raises WorkitemUnreadable if the body does not match its content type.
    """
    kind = workitem.content_type
    try:
        body = _decompressed(workitem, most)
        if kind == JSON or kind.endswith("+json"):
            return jsonrpc.decode(body)
        if kind.startswith("text/"):
            return body.decode(charset_of(workitem.properties.content_type)).removeprefix("\ufeff")
    except RecursionError:
        raise WorkitemUnreadable(f"{kind}: nested too deeply to be read") from None
    except (UnreadableEncoding, jsonrpc.TooMany) as error:
        raise WorkitemUnreadable(str(error)) from None
    except (ValueError, LookupError) as error:
        raise WorkitemUnreadable(f"the body is not {kind}: {shorten(str(error), 200)}") from None
    return body


def plain_body(workitem: Workitem) -> bytes:
    """Return a workitem's body without its compression.

    Raises WorkitemUnreadable if the body does not match its content encoding.
    """
    try:
        return _decompressed(workitem, LARGEST_DECOMPRESSED)
    except UnreadableEncoding as error:
        raise WorkitemUnreadable(str(error)) from None


def _decompressed(workitem: Workitem, most: int) -> bytes:
    if not workitem.has_content_encoding:
        return workitem.body
    encoding = workitem.properties.content_encoding or ""
    if not is_compressed(encoding):
        return workitem.body
    return decompress(workitem.body, encoding, most)

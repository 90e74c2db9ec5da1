"""The workitem: how a producer submits it, and what its handler gets."""

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
from taskqueue.messages.names import NOTIFY
from taskqueue.texts import shorten

#: Bytes that a body may have when a worker has decompressed it: as many as one that was not compressed.
LARGEST_DECOMPRESSED: Final = 159 * 1024 * 1024


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
            return body.decode(charset_of(workitem.properties.content_type)).removeprefix("\ufeff")
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

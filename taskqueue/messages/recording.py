"""The part of a workitem that events contain: the beginning of its body, its tenant, its labels."""

import json
from base64 import b64encode
from collections.abc import Collection
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.messages.content import is_plain
from taskqueue.messages.names import LABELS, TENANT

#: The text in the place of a redacted value.
REDACTED: Final = "***"
_LARGESTREDACTED: Final = 64 * 1024  # bytes of a body that is decoded to be redacted
#: Maximum number of characters of a tenant, and of all labels together.
LONGEST_TENANT: Final = 100
LONGEST_LABELS: Final = 500


def head_of(properties: Properties, body: bytes, most: int, redact: Collection[str]) -> str:
    """Return the beginning of a body as text; "" for a compressed one.

    most -- bytes
    redact -- keys of JSON objects whose values are left out; what is not JSON is then left out whole
    """
    if not most or not is_plain(properties.content_encoding):
        return ""
    if redact:
        body = _redacted(body, redact)
    return body[:most].decode("utf-8", "replace")


def _redacted(body: bytes, keys: Collection[str]) -> bytes:
    def without_values(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: REDACTED if key in keys else value for key, value in pairs}

    if len(body) > _LARGESTREDACTED:
        return b""
    try:
        return json.dumps(json.loads(body, object_pairs_hook=without_values)).encode()
    except (ValueError, RecursionError):
        return b""


def tenant_and_labels(properties: Properties) -> tuple[str, str]:
    """Return a workitem's tenant, and its labels separated by spaces; "" for none."""
    if properties.header_table is None:
        return "", ""  # the most frequent case
    try:
        tenant, labels = properties.header(TENANT), properties.header(LABELS)
    except MalformedProperties:
        return "", ""
    if isinstance(labels, list):
        labels = " ".join(label for label in labels if isinstance(label, str))
    return _text(tenant, LONGEST_TENANT), " ".join(_text(labels, LONGEST_LABELS).split())


def _text(value: object, longest: int) -> str:
    return value[:longest] if isinstance(value, str) else ""


def recorded_result(body: bytes, most: int) -> str | None:
    """Return a result of at most `most` bytes in Base64; None if it is larger."""
    return b64encode(body).decode() if 0 < len(body) <= most else None

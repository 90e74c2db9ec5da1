"""Results of steps between a worker and its store: large ones are kept there, references are replaced."""

import hashlib
import json
import secrets
from typing import Any, Final

from taskqueue.amqp.tables import MalformedProperties
from taskqueue.errors import StoreFailed
from taskqueue.messages import names
from taskqueue.messages.content import JSON, media_type
from taskqueue.messages.jsonrpc import collecting_nothing
from taskqueue.messages.workitem import LARGEST_DECOMPRESSED, Workitem
from taskqueue.worker.store import ResultStore
from taskqueue.workflows.definition import EXTENDED
from taskqueue.workflows.passing import Failed, value_in
from taskqueue.workflows.stored import REFERENCE, Stored, stored_in
from taskqueue.workflows.wire import MOST_RESULT, decode_value, encode_json, is_deep

#: JSON text has at most so many bytes for each of a result: a control character is one byte, and escaped six.
_GROWTH: Final = 6
_MARK: Final = b'{"$stored":'


class StepResults:
    """Keeps results of steps in a store, and gives them to the steps that need them."""

    def __init__(self, store: ResultStore | None = None) -> None:
        """Use a store; without one, large results stay as they are, and references fail their steps."""
        self._store = store

    def filled(self, workitem: Workitem) -> Workitem:
        """Return a step's workitem with results in the place of references; any other one as it is.

        Raises StoreFailed if a result cannot be read, or they are too large together.
        """
        if not refers(workitem):
            return workitem
        found = [Stored.of_match(each) for each in REFERENCE.finditer(workitem.body)]
        size = sum(each.size for each in found)
        if size > LARGEST_DECOMPRESSED:
            raise StoreFailed(
                f"the stored results among the arguments have {size:,} bytes; "
                f"at most {LARGEST_DECOMPRESSED:,} are passed on"
            )
        return workitem.with_body(REFERENCE.sub(lambda each: self.read(Stored.of_match(each)), workitem.body))

    def read(self, stored: Stored) -> bytes:
        """Return the JSON text of a result, or of an element of it. Raises StoreFailed."""
        if self._store is None:
            raise StoreFailed(
                f"an argument is a result of {stored.size:,} bytes that a store keeps, and this group has no "
                "option result_store"
            )
        data = self._store.get(stored.name)
        if len(data) != stored.size or hashlib.sha256(data).hexdigest() != stored.sha256:
            raise StoreFailed(f"the store returns other bytes than it was given for result {stored.name}")
        if stored.element is None:
            return data
        with collecting_nothing(len(data)):
            elements = json.loads(data)
        if not isinstance(elements, list) or stored.element >= len(elements):
            raise StoreFailed(f"result {stored.name} has no element {stored.element}")
        return encode_json(elements[stored.element]).encode()

    def kept(self, workitem: Workitem, content_type: str, data: bytes) -> tuple[str, bytes]:
        """Return what a worker tells of a result: that of a step is kept in the store if it is too large.

        Args:
            workitem: the step's.
            content_type: of its result.
            data: the bytes of its result.

        Raises StoreFailed if it cannot be kept.
        """
        if self._store is None or len(data) * _GROWTH <= MOST_RESULT or not _is_step(workitem):
            return content_type, data
        if media_type(content_type) == EXTENDED:
            plain = decode_value(data.decode())
            reference = self._reference(plain["result"])
            return content_type, encode_json(plain | {"result": reference}).encode() if reference else data
        try:
            with collecting_nothing(len(data)):
                reference = self._reference(value_in(content_type, data, len(data)))
        except (Failed, ValueError):  # of which the receipt tells
            return content_type, data
        return (JSON, encode_json(reference).encode()) if reference else (content_type, data)

    def _reference(self, value: Any) -> Any:
        """Keep a value that is too large to be passed on; return a reference, None if it is not."""
        if self._store is None or is_deep(value):
            return None
        text = encode_json(value)
        if not MOST_RESULT < len(text) <= LARGEST_DECOMPRESSED:
            return None
        data, name = text.encode(), secrets.token_hex(16)
        self._store.put(name, data)
        count = len(value) if isinstance(value, list) else None
        return decode_value(Stored(name, hashlib.sha256(data).hexdigest(), len(data), count).encode())


def from_store(value: Any, store: ResultStore | None) -> Any:
    """Return a value of JSON with results in the place of references. Raises StoreFailed."""
    stored = stored_in(value)
    if stored is None:
        return value
    if store is None:
        raise StoreFailed(
            f"the result has {stored.size:,} bytes and is kept in a store: give it, as result(store=…)"
        )
    text = encode_json(value).encode()
    results = StepResults(store)
    return json.loads(REFERENCE.sub(lambda each: results.read(Stored.of_match(each)), text))


def refers(workitem: Workitem) -> bool:
    """Tell whether a workitem is a step whose body may have references to a store."""
    return _MARK in workitem.body and not workitem.has_content_encoding and _is_step(workitem)


def _is_step(workitem: Workitem) -> bool:
    try:
        return names.WORKFLOW in workitem.headers
    except MalformedProperties:
        return False

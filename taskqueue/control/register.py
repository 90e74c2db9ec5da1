"""The register: a stream of documents, each with all standing commands; the newest one counts.

Every document is signed, and has a higher number than the one before. So a document that is forged, or comes
again, has no effect, and of two that were written at once, the stream's order decides. A reader reads the
stream from its beginning: its last message may be anybody's.
"""

from collections.abc import Callable
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.stream import StreamReader, StreamReaderListener
from taskqueue.broker.topology import CONTROL_REGISTER
from taskqueue.control.directives import Directives
from taskqueue.control.seal import Unsealed, seal, unseal
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id
from taskqueue.process.logs import Log, Tally

DOCUMENT: Final = "document"  # the kind of message

_PREFETCH: Final = 100
_MARK: Final = b"mark "
_REPEAT_AFTER: Final = 2_000_000  # bytes in the stream after which the newest document is written again
_RETRY_DELAY: Final = 1.0  # seconds until a document that could not be published is tried again

Change = Callable[[Directives], Directives]


class RegisterListener:
    """The owner of a register."""

    def register_read(self) -> None:
        """All documents so far are read, or a new one came."""

    def register_missing(self, reason: str) -> None:
        """There is no register on this broker."""


class ControlRegister(SessionListener, StreamReaderListener):
    """Follows the register, and changes it."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        outbound: Outbound,
        *,
        key: bytes,
        listener: RegisterListener,
        log: Log,
    ) -> None:
        """Begin without a document; `open` reads it.

        outbound -- publishes documents
        key -- signs them
        """
        self.directives = Directives()
        self.is_current = False  # whether all documents so far are read
        self._loop, self._session, self._outbound, self._key = loop, session, outbound, key
        self._listener = listener
        self._is_reading = False
        self._mark = b""  # published last, to find the end of the stream
        self._change: Change | None = None  # to be made
        self._changed: Callable[[], None] = _nothing
        self._written = ""  # the id of the document with that change
        self._passed = 0  # bytes since the newest document
        self._refused = Tally(log, "refused %d documents in the register, the last one because %s")
        self._reader = StreamReader(loop, session, CONTROL_REGISTER, _PREFETCH, self)
        self._reader.start(None)
        session.attach(self)

    def outbound_ready(self) -> None:
        """Find the end of the stream, once it exists."""
        if self._is_reading:
            self._publish_mark()

    def change(self, change: Change, changed: Callable[[], None]) -> None:
        """Write a document with a change, and call back once it is the newest.

        change -- returns new directives; called again if somebody else has written one meanwhile
        """
        self._change, self._changed = change, changed
        self._write()

    def session_down(self) -> None:
        """Find the end of the stream again after a connection."""
        self.is_current = False
        self._written = ""

    # --- the stream ---

    def stream_read(self) -> None:
        """Find the end of the stream."""
        self._is_reading = True
        self._publish_mark()

    def stream_message(self, offset: int | None, body: bytes) -> None:
        """Take a document, or the mark at the end."""
        if offset is None:
            return
        self._reader.acknowledge()
        self._passed += len(body)
        if body.startswith(_MARK):
            if body == self._mark and not self.is_current:
                self.is_current = True
                self._listener.register_read()
                self._write()
            return
        try:
            document = Directives.of_json(unseal(self._key, DOCUMENT, body))
        except Unsealed as error:
            self._refused.count(str(error))
        else:
            self._take(document)
        if self._passed > _REPEAT_AFTER and self.is_current and self.directives.sequence:
            self._passed = 0
            self._publish(self.directives)

    def stream_lost(self) -> None:
        """Stop if it is no stream; its messages would be another's."""
        self._is_reading = False
        if self._reader.is_plain:
            self._reader.stop()
            self._listener.register_missing(f"queue {CONTROL_REGISTER.name} is no stream")

    def stream_began_anew(self) -> None:
        """Write the newest document again: the stream is another one."""
        if self.directives.sequence:
            self._publish(self.directives)

    def _take(self, document: Directives) -> None:
        is_newer = document.sequence > self.directives.sequence
        if is_newer:
            self.directives, self._passed = document, 0
            if self.is_current:
                self._listener.register_read()
        elif document == self.directives:
            self._passed = 0  # it was repeated
        if self._written and document.id == self._written:
            self._written = ""
            if is_newer:
                self._end_change()
            else:
                self._write()

    # --- publications ---

    def _write(self) -> None:
        if self._change is None or self._written or not self.is_current:
            return
        wanted = self._change(self.directives)
        if wanted == self.directives:
            self._end_change()
            return
        document = wanted.next_document()
        self._written = document.id
        self._publish(document)

    def _end_change(self) -> None:
        self._change = None
        changed, self._changed = self._changed, _nothing
        changed()

    def _publish_mark(self) -> None:
        if self._outbound.is_ready:
            self._mark = _MARK + new_id().encode()
            self._send(self._mark)

    def _publish(self, document: Directives) -> None:
        self._send(seal(self._key, DOCUMENT, document.as_json()))

    def _send(self, body: bytes) -> None:
        properties = Properties(content_type=JSON, delivery_mode=2).encode()
        publication = Publication(CONTROL_REGISTER.name, properties, body, declares=False)
        self._outbound.send(publication, self._published)

    def _published(self, _publication: Publication, result: PublishResult, reason: str) -> None:
        """Try again if the stream is gone; the reader declares it."""
        if result is PublishResult.REFUSED:
            self._listener.register_missing(f"the broker refuses documents of the register: {reason}")
        elif result is PublishResult.RETURNED:
            self._loop.call_later(_RETRY_DELAY, self._again)

    def _again(self) -> None:
        self._written = ""
        if self._session.is_up:
            self._publish_mark()
            self._write()


def _nothing() -> None:
    pass

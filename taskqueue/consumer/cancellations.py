"""Which workitems are not wanted any more: what callers say to all consumers at once."""

import time
from collections.abc import Callable
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.broadcast import BroadcastConsumer
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session
from taskqueue.broker.topology import CANCEL

_REMEMBERED: Final = 10_000
_REMEMBERED_TIME: Final = 24 * 3600.0  # seconds


class Cancellations:
    """Hears which workitems are cancelled, and remembers those that have not come here yet."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        *,
        on_cancel: Callable[[str], bool],
        on_heeding: Callable[[], None],
    ) -> None:
        """Listen over `session`.

        on_cancel -- takes an id, and tells whether the workitem is in hand here
        on_heeding -- whoever cancels from now on is heard
        """
        self._on_cancel = on_cancel
        self._ids: dict[str, float] = {}  # when each was heard, the oldest first
        self._listener = BroadcastConsumer(
            loop, session, CANCEL, on_message=self._heard, on_settled=on_heeding
        )

    @property
    def are_heeded(self) -> bool:
        """Whether all that can be heard is heard."""
        return self._listener.is_settled

    def takes(self, workitem: str) -> bool:
        """Tell whether a workitem is cancelled; it is then forgotten, as it comes once."""
        return bool(self._ids) and self._ids.pop(workitem, None) is not None

    def _heard(self, raw: bytes, _body: bytes) -> None:
        try:
            workitem = Properties.decode(raw).correlation_id
        except MalformedProperties:
            return
        if not workitem or self._on_cancel(workitem):
            return
        now = time.monotonic()
        self._ids.pop(workitem, None)
        self._ids[workitem] = now
        while len(self._ids) > _REMEMBERED or next(iter(self._ids.values())) < now - _REMEMBERED_TIME:
            del self._ids[next(iter(self._ids))]

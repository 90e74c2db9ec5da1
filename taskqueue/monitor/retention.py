"""Retention: the recorder removes what is old from the record, once a minute."""

import time
from typing import TYPE_CHECKING, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.config import MonitorSettings
from taskqueue.errors import RecordDamaged, RecordUnavailable
from taskqueue.messages.events import CANCELLED, FAILED, REJECTED, SUCCEEDED
from taskqueue.monitor.store.store import Store
from taskqueue.process.logs import Log

if TYPE_CHECKING:
    from taskqueue.monitor.store.postgresql.store import PostgresqlStore  # not everybody has psycopg

_DELAY: Final = 60.0  # seconds


def keep_of(settings: MonitorSettings) -> dict[str, float]:
    """Return for how many seconds the record keeps workitems of each final state."""
    return {
        SUCCEEDED: settings.keep_succeeded,
        FAILED: settings.keep_failed,
        REJECTED: settings.keep_rejected,
        CANCELLED: settings.keep_cancelled,
    }


class Retention:
    """Removes what is too old or too much, and adds up old minutes."""

    def __init__(self, loop: EventLoop, store: "Store | PostgresqlStore", settings: MonitorSettings) -> None:
        self._loop, self._store, self._settings = loop, store, settings
        self._log = Log("recorder")

    def begin(self) -> None:
        """Do so in a minute, and once a minute; not both together, as each takes a while."""
        self._loop.call_later(_DELAY, self._prune)
        self._loop.call_later(_DELAY / 2, self._add_up)

    def _prune(self) -> None:
        settings = self._settings
        try:
            self._store.prune(time.time(), keep_of(settings), settings.keep_minutes, settings.max_size)
        except (RecordUnavailable, RecordDamaged) as error:
            self._log.warning("nothing can be removed from the record: %s", error)
        self._loop.call_later(_DELAY, self._prune)

    def _add_up(self) -> None:
        try:
            self._store.add_up(time.time())
        except (RecordUnavailable, RecordDamaged) as error:
            self._log.warning("old minutes cannot be added up to hours: %s", error)
        self._loop.call_later(_DELAY, self._add_up)

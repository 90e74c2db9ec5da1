"""The table `cancel` in PostgreSQL: `LiveTable` removes a cancel with the row of its workitem."""

from collections.abc import Callable, Collection
from typing import Final

from taskqueue.monitor.store.cancels import FORGET, MOST_KEPT, forget_old
from taskqueue.monitor.store.item import Key
from taskqueue.monitor.store.postgresql.session import Session

_NAMED: Final = "(tenant, id) IN (SELECT * FROM unnest(?::text[], ?::text[]))"
_REMOVE: Final = f"DELETE FROM cancel WHERE {_NAMED}"  # noqa: S608 -- no input
_KEEP: Final = (
    f"INSERT INTO cancel(tenant, id, at) SELECT DISTINCT tenant, id, ?::float8 FROM live WHERE {_NAMED}"  # noqa: S608 -- no input
)


class TableCancels:
    """The kept cancels of a record; each monitor may keep some, and the one that writes broadcasts them."""

    def __init__(self, connected: Callable[[], Session]) -> None:
        """Use the session that `connected` returns."""
        self._connected = connected

    def keep(self, keys: Collection[Key], now: float) -> None:
        """Keep the cancels of those workitems that are not over; now -- seconds since 1970."""
        session = self._connected()
        named = [tenant for tenant, _ in keys], [id_ for _, id_ in keys]
        with session.transaction():
            session.execute(_REMOVE, named)
            session.execute(_KEEP, (now, *named))
            session.execute(FORGET, (MOST_KEPT,))

    def kept(self, now: float) -> list[Key]:
        """Return the workitems whose cancels are kept, the oldest first; forget old ones."""
        session = self._connected()
        forget_old(session, now)
        return [(tenant, id_) for tenant, id_ in session.execute("SELECT tenant, id FROM cancel ORDER BY no")]

"""The cancels that users have done, of workitems that are not over: the table `cancel` of live.db.

A trigger of the table `live` removes a cancel with the row of its workitem, so that one that is retried
later runs.
"""

import json
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol

from taskqueue.monitor.store.database import Database
from taskqueue.monitor.store.item import Key
from taskqueue.monitor.store.names import OTHERS
from taskqueue.monitor.store.schema import translated

KEPT_TIME: Final = 24 * 3600.0  # seconds; as long as a consumer remembers a cancel
MOST_KEPT: Final = 10_000  # beyond them, the oldest are forgotten
FORGET: Final = "DELETE FROM cancel WHERE no NOT IN (SELECT no FROM cancel ORDER BY no DESC LIMIT ?)"
_KEEP: Final = """
WITH named AS (SELECT value ->> 0 AS tenant, value ->> 1 AS id FROM json_each(?))
INSERT OR REPLACE INTO cancel(id, tenant, at) SELECT DISTINCT id, live.tenant, ?
FROM named JOIN live USING(id) LEFT JOIN name ON name.no = live.tenant
WHERE coalesce(name.text, '') = named.tenant
"""
_KEPT: Final = """
SELECT coalesce(name.text, ''), id FROM cancel LEFT JOIN name ON name.no = tenant ORDER BY cancel.no
"""


class KeptCancels(Protocol):
    """The kept cancels of a record that is written."""

    def keep(self, keys: Collection[Key], now: float) -> None:
        """Keep the cancels of those workitems that are not over; now -- seconds since 1970."""

    def kept(self, now: float) -> list[Key]:
        """Return the workitems whose cancels are kept, the oldest first; forget old ones."""


class Cancels:
    """The kept cancels of a record that is written."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        """Use the database at a path."""
        self._database = database
        self._path = path

    def keep(self, keys: Collection[Key], now: float) -> None:
        """Keep the cancels of those workitems that are not over.

        keys -- their tenants and ids
        now -- seconds since 1970
        Raises RecordUnavailable and RecordDamaged.
        """
        with translated(self._path):
            self._database.execute(_KEEP, (json.dumps(list(keys)), now))
            self._database.execute(FORGET, (MOST_KEPT,))

    def kept(self, now: float) -> list[Key]:
        """Return the workitems whose cancels are kept, the oldest first; forget old ones.

        now -- seconds since 1970
        Raises RecordUnavailable and RecordDamaged.
        """
        with translated(self._path):
            forget_old(self._database, now)
            return self._database.execute(_KEPT).fetchall()


def forget_old(database: Database, now: float) -> None:
    """Forget the old cancels of a table `cancel`; now -- seconds since 1970."""
    database.execute("DELETE FROM cancel WHERE at < ?", (now - KEPT_TIME,))


def broadcast_name(key: Key) -> tuple[str, str | None]:
    """Return the id and tenant of a workitem as a cancellation names them; None for all tenants.

    The record does not know the tenants of those that it keeps under OTHERS.
    """
    tenant, id_ = key
    return id_, None if tenant == OTHERS else tenant

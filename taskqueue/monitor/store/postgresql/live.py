"""The workitems that are not over, in PostgreSQL."""

from collections.abc import Collection
from typing import Final

from taskqueue.monitor.store.live import Live
from taskqueue.monitor.store.plan import COLUMNS, Row
from taskqueue.monitor.store.postgresql.names import Names
from taskqueue.monitor.store.postgresql.session import Session

_FIND: Final = f"SELECT {', '.join(('seq', *COLUMNS))} FROM live WHERE id = ANY(?)"  # noqa: S608 -- no input


class LiveTable(Live):
    """The table `live` of a record that is written."""

    def __init__(self, session: Session, names: Names) -> None:
        """Read what is kept in memory."""
        self._session = session
        super().__init__(session, names)

    def _rows(self, ids: Collection[str]) -> list[Row]:
        return [list(row) for row in self._session.execute(_FIND, (list(ids),))]

    def _replace(self, rows: list[Row]) -> None:
        if rows:
            self._session.execute("DELETE FROM live WHERE seq = ANY(?)", ([row[0] for row in rows],))
            self._session.copy("live", rows)

    def _delete(self, seqs: list[int]) -> None:
        if seqs:
            self._session.execute("DELETE FROM live WHERE seq = ANY(?)", (seqs,))
            self._session.execute(
                "DELETE FROM cancel WHERE NOT EXISTS "
                "(SELECT 1 FROM live WHERE live.id = cancel.id AND live.tenant = cancel.tenant)"
            )

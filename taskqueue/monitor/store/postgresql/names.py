"""The names of worker types, tenants, hosts and the like: rows have them as texts, of a bounded number."""

from typing import Final

from taskqueue.monitor.store import names as limits
from taskqueue.monitor.store.names import OTHERS
from taskqueue.monitor.store.plan import NAMED, Row
from taskqueue.monitor.store.postgresql.session import Session, clean

_DAY: Final = 86400.0


class Names:
    """The names of a record that is written: those that were seen lately, and the day of each."""

    def __init__(self, session: Session) -> None:
        """Read the names."""
        self._session = session
        self._seen: dict[str, float] = {
            "": 0.0,
            **dict(session.execute("SELECT text, seen FROM name").fetchall()),
        }
        self._used: set[str] = set()

    def number(self, text: str) -> str:
        """Return a name as rows have it; without room for another one, OTHERS."""
        if text not in self._seen:
            text = self.kept(text)
            self._seen.setdefault(text, 0.0)
        self._used.add(text)
        return text

    def named(self, row: Row) -> Row:
        """Return the columns of a workitem as rows have them."""
        for column in NAMED:
            row[column] = self.number(row[column])
        return row

    def text(self, number: str) -> str:
        """Return the name of what rows have."""
        return number

    def kept(self, text: str) -> str:
        """Return a name, or OTHERS if there is no room for it."""
        if text in self._seen:
            return text
        return clean(text) if len(self._seen) < limits.MOST else OTHERS

    def save(self, now: float) -> None:
        """Write which names are in use, once a day for each."""
        day = now // _DAY * _DAY
        new = [(text, day) for text in self._used if text and self._seen[text] < day]
        self._session.executemany(
            "INSERT INTO name VALUES(?, ?) ON CONFLICT(text) DO UPDATE SET seen = excluded.seen", new
        )
        self._seen.update(new)
        self._used.clear()

    def forget(self, before: float) -> None:
        """Forget names that no row has had since a time, in the transaction of the session."""
        self._session.execute("DELETE FROM name WHERE seen < ?", (before - _DAY,))
        self._seen = {text: seen for text, seen in self._seen.items() if not text or seen >= before - _DAY}

"""The emitters of events, and the events that are missing: the tables `emitter` and `gap`."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from taskqueue.messages.events import ENDED, TAKES_WORK, Batch, Emitter, ProcessState
from taskqueue.messages.relatives import Gone, Other
from taskqueue.monitor.record import SILENT_AFTER
from taskqueue.monitor.store.database import Database

_FIRST_NUMBER: Final = 1  # of an emitter's events
_LARGEST: Final = 2**62  # numbers beyond it are no counts of events
_MOST: Final = 10_000  # emitters; beyond it, those that were seen first are forgotten
_ENDED_AFTER: Final = SILENT_AFTER  # seconds since an emitter was last seen
_MOST_ENDED: Final = 1000
_FORGOTTEN_AFTER: Final = 86400.0  # seconds since an emitter was last seen
_MOST_GAPS: Final = 10_000
_QUERY: Final = (
    "SELECT no, host, kind, grp, pid, started, next, last_seen, state, slots, busy, rss, cpu, is_blocked, "
    "lost, missed, state_at, unix_user, version, prefetch, crashes, crash, workers FROM emitter"
)
_OLDER: Final = (
    "SELECT no FROM emitter WHERE last_seen < ? ORDER BY last_seen DESC, no DESC LIMIT 1000000000 OFFSET ?"
)
_FORGET: Final = (
    "DELETE FROM emitter WHERE no NOT IN (SELECT emitter FROM gap) AND "  # noqa: S608 -- no input
    f"(last_seen < ? OR no IN ({_OLDER}) OR no IN ({_OLDER})) RETURNING last_seen"
)
_MOST_VERSIONS: Final = 1000
_NEW_VERSION: Final = "INSERT INTO software(at, host, kind, grp, version) VALUES(?, ?, ?, ?, ?)"
_NEW_GAP: Final = "INSERT INTO gap(emitter, at, first, end) VALUES(?, ?, ?, ?)"


@dataclass(slots=True)
class Known:
    """An emitter and what is expected of it."""

    no: int
    next: int  # number of its next event
    last_seen: float
    state: str = ""
    slots: int = 0
    busy: int = 0
    rss: int = 0
    cpu: float = 0.0
    is_blocked: int = 0
    lost: int = 0
    missed: int = 0
    state_at: float | None = None
    user: str = ""
    version: str = ""
    prefetch: int = 0
    crashes: int = 0
    crash: str = ""
    workers: str = ""
    is_version_noted: bool = False  # in the table `software`
    gaps: list[tuple[int, int]] = field(default_factory=list)  # first number and end of each

    def take_other(self, event: Other, now: float) -> None:
        """Take note of what another process tells of this one."""
        self.last_seen, self.state, self.state_at = now, event.state, event.at
        self.rss, self.cpu, self.user, self.version = event.rss, event.cpu, event.user, event.version

    def take(self, event: ProcessState) -> bool:
        """Take note of the emitter's own state; return whether it begins to take work."""
        begins = event.state.startswith(TAKES_WORK) and not self.state.startswith(TAKES_WORK)
        self.state, self.slots, self.busy = event.state, event.slots, event.busy
        self.rss, self.cpu = event.rss, event.cpu
        self.is_blocked, self.lost, self.state_at = event.is_blocked, event.lost, event.at
        self.user, self.version, self.prefetch = event.user, event.version, event.prefetch
        self.crashes, self.crash, self.workers = event.crashes, event.crash, event.workers
        return begins


class Emitters:
    """The emitters of a record that is written."""

    def __init__(self, database: Database) -> None:
        """Read the tables of a database."""
        self._database = database
        self._known: dict[Emitter, Known] = {}
        self._changed: dict[Emitter, Known] = {}
        self._by_pid: defaultdict[tuple[str, int], list[Emitter]] = defaultdict(list)  # with their hosts
        self.reload()

    def reload(self) -> None:
        """Read the tables again, after a transaction was rolled back."""
        self._changed.clear()
        self._known = {}
        self._by_pid.clear()
        rows = self._database.execute("SELECT value FROM meta WHERE key = 'forgotten_until'").fetchall()
        self._forgotten_until: float = rows[0][0] if rows else 0.0  # when those were last seen
        by_no = {}
        for no, host, kind, group, pid, started, *rest in self._database.execute(_QUERY):
            emitter = Emitter(host, kind, group, pid, started)
            by_no[no] = self._known[emitter] = Known(no, *rest)
            self._by_pid[host, pid].append(emitter)
        for no, first, end in self._database.execute("SELECT emitter, first, end FROM gap ORDER BY no"):
            if no in by_no:
                by_no[no].gaps.append((first, end))
        software = self._database.execute("SELECT host, kind, grp, version FROM software ORDER BY no")
        self._versions = {(host, kind, group): version for host, kind, group, version in software}

    def accept(self, batch: Batch, now: float, began_at: float) -> Known | None:
        """Take note of a batch; return its emitter, or None if the batch has come before.

        now -- on the clock of this host
        began_at -- when the record begins: of an emitter that started later, all events are expected
        """
        known = self._known.get(batch.emitter)
        if known is None:
            known = self._add(batch, now, began_at)
        known.last_seen = now
        self._changed[batch.emitter] = known
        end = batch.number + batch.size
        if end > _LARGEST:
            return None
        if batch.number < known.next:
            return known if self._fill(known, batch.number, end) else None
        if batch.number > known.next:
            self._miss(known, now, batch.number)
        known.next = end
        return known

    def take_relatives(self, told: Iterable[tuple[str, Other | Gone]], now: float) -> None:
        """Take note of processes that did not tell themselves, with the hosts of those that did."""
        for host, event in told:
            if isinstance(event, Other):
                self._tell(host, event, now)
            else:
                self._end(host, event)

    def _tell(self, host: str, event: Other, now: float) -> None:
        """Take note of a process of a host of which another one tells."""
        emitter = Emitter(host, event.kind, event.group, event.pid, event.started)
        self._make_room(now)
        known = self._known.get(emitter) or self._insert(emitter, _FIRST_NUMBER, now)
        known.take_other(event, now)
        self._changed[emitter] = known

    def _end(self, host: str, event: Gone) -> None:
        """Take note of the end of a process of a host; a later one may have its number."""
        for emitter in self._by_pid.get((host, event.pid), ()):
            if emitter.started <= event.at:
                known = self._changed[emitter] = self._known[emitter]
                known.state = ENDED

    def _add(self, batch: Batch, now: float, began_at: float) -> Known:
        """Add the emitter of its first batch."""
        self._make_room(now)
        is_new = batch.emitter.started >= max(began_at, self._forgotten_until)
        first = _FIRST_NUMBER if is_new else batch.number
        return self._insert(batch.emitter, min(first, batch.number, _LARGEST), now)

    def _make_room(self, now: float) -> None:
        """Forget emitters beyond twice their number; otherwise they are forgotten once a minute."""
        if len(self._known) >= 2 * _MOST:
            self.save()
            self.forget(now)

    def _insert(self, emitter: Emitter, number: int, now: float) -> Known:
        """Add an emitter; number -- that is expected of its next event."""
        (no,) = self._database.execute(
            "INSERT INTO emitter(host, kind, grp, pid, started, next, last_seen, state, slots, busy, "
            "rss, cpu, is_blocked, lost, missed) "
            "VALUES(?, ?, ?, ?, ?, ?, ?, '', 0, 0, 0, 0, 0, 0, 0) RETURNING no",
            (*emitter, number, now),
        ).fetchone()
        self._known[emitter] = known = Known(no, number, now)
        self._by_pid[emitter.host, emitter.pid].append(emitter)
        return known

    def _miss(self, known: Known, now: float, number: int) -> None:
        self._database.execute(_NEW_GAP, (known.no, now, known.next, number))
        known.gaps.append((known.next, number))
        known.missed += number - known.next

    def _fill(self, known: Known, number: int, end: int) -> bool:
        """Close a gap, or a part of it: after a lost connection, batches are published in another order."""
        gap = next((gap for gap in known.gaps if gap[0] <= number < end <= gap[1]), None)
        if gap is None:
            return False
        known.gaps.remove(gap)
        known.missed -= end - number
        execute = self._database.execute
        query = "SELECT at FROM gap WHERE emitter = ? AND first = ? AND end = ?"
        (at,) = execute(query, (known.no, *gap)).fetchone()
        execute("DELETE FROM gap WHERE emitter = ? AND first = ? AND end = ?", (known.no, *gap))
        for rest in ((gap[0], number), (end, gap[1])):
            if rest[0] < rest[1]:
                execute(_NEW_GAP, (known.no, at, *rest))
                known.gaps.append(rest)
        return True

    def save(self) -> None:
        """Write the changed emitters into the database."""
        rows = [
            (
                *(known.next, known.last_seen, known.state, known.slots, known.busy, known.rss, known.cpu),
                *(known.is_blocked, known.lost, known.missed, known.state_at, known.user, known.version),
                *(known.prefetch, known.crashes, known.crash, known.workers, known.no),
            )
            for known in self._changed.values()
        ]
        self._database.executemany(
            "UPDATE emitter SET next = ?, last_seen = ?, state = ?, slots = ?, busy = ?, rss = ?, cpu = ?, "
            "is_blocked = ?, lost = ?, missed = ?, state_at = ?, unix_user = ?, version = ?, prefetch = ?, "
            "crashes = ?, crash = ?, workers = ? WHERE no = ?",
            rows,
        )
        self._note_versions()
        self._changed.clear()

    def _note_versions(self) -> None:
        """Note the version of each emitter that has another one than the last of its kind, group and host.

        An emitter is looked at once: two of different versions that run side by side make two notes.
        """
        for emitter, known in self._changed.items():
            if known.is_version_noted or not known.version:
                continue
            known.is_version_noted = True
            key = (emitter.host, emitter.kind, emitter.group)
            if self._versions.get(key) != known.version:
                self._versions[key] = known.version
                values = (known.state_at, *key, known.version)
                self._database.execute(_NEW_VERSION, values)

    def forget(self, now: float) -> None:
        """Forget emitters that have ended, except those with gaps, and the oldest gaps of many.

        Of an emitter that may have been forgotten, only what follows its next batch is expected.
        """
        execute = self._database.execute
        execute(
            "DELETE FROM gap WHERE no IN (SELECT no FROM gap ORDER BY no DESC LIMIT 1000000000 OFFSET ?)",
            (_MOST_GAPS,),
        )
        execute(
            "DELETE FROM software WHERE no IN "
            "(SELECT no FROM software ORDER BY no DESC LIMIT 1000000000 OFFSET ?)",
            (_MOST_VERSIONS,),
        )
        seen = execute(
            _FORGET,
            (now - _FORGOTTEN_AFTER, now - _ENDED_AFTER, _MOST_ENDED, math.inf, _MOST),
        ).fetchall()
        if seen:
            until = max(self._forgotten_until, *(at for (at,) in seen))
            execute(
                "INSERT INTO meta VALUES('forgotten_until', ?) "
                "ON CONFLICT(key) DO UPDATE SET value = excluded.value",
                (until,),
            )
        self.reload()

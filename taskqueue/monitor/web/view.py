"""The record as a user may see it: every query is narrowed to the user's rights."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from taskqueue.messages.events import QUEUED, RETRYING, RUNNING, SCHEDULED
from taskqueue.messages.states import OVER
from taskqueue.monitor.record import (
    Action,
    Crashes,
    Details,
    EmitterRow,
    Filter,
    Gap,
    Letter,
    LogEntry,
    Minute,
    Page,
    Scope,
    TimeSum,
    TypeRow,
    TypeSum,
    TypeTimes,
    Version,
    Worker,
    Workitem,
)
from taskqueue.monitor.report import Report
from taskqueue.monitor.web.rights import ADMIN, Rights, is_pattern
from taskqueue.monitor.web.unseen import never_seen, unseen

if TYPE_CHECKING:
    from taskqueue.monitor.store.reading import Record

_NOTHING: Final = Page((), None)
_ACTIONS: Final = 1000  # of the audit
_HOUR: Final = 3600.0


class View:
    """Reads a record with the rights of a user.

    Of a workitem that the user does not see, it says what it says of one that does not exist.
    """

    def __init__(self, record: "Record", rights: Rights) -> None:
        self.rights = rights
        self._record = record

    def find(self, id_: str, tenant: str | None = None) -> Details | None:
        """Return the newest workitem of an id that the user sees; None if the record has none.

        tenant -- whose it is; None for any
        """
        found = self._record.find(id_, self._sees(tenant))
        if found is None:
            return None
        shown = replace(found, workitem=self._shown(found.workitem))
        return shown if self.rights.bodies else replace(shown, result=None)

    def unseen(self, id_: str) -> str:
        """Return what is known of an id that `find` does not find; `find` must fail again afterwards.

        For a user who sees only some workitems, nothing is: others may have it.
        """
        if self.rights.is_limited:
            return never_seen(id_, self.began_at())
        report, emitters = self._record.report(), self._record.emitters()
        return unseen(id_, self.began_at(), report, emitters)

    def page(self, wanted: Filter, cursor: str | None, limit: int) -> Page:
        """Return the newest workitems that a filter selects.

        Args:
            wanted: the filter.
            cursor: `next` of the page before; None for the first page.
            limit: the number of rows.
        """
        narrowed = self.rights.narrow(wanted, self._known(wanted.worker_types))
        if narrowed is None:
            return _NOTHING
        return self._record.page(narrowed, cursor, limit, has_heads=self.rights.bodies)

    def letters(self, wanted: Filter, limit: int) -> Sequence[Letter]:
        """Return the newest failed or rejected workitems that a filter selects, at most `limit`."""
        narrowed = self.rights.narrow(wanted, self._known(wanted.worker_types))
        return () if narrowed is None else self._record.letters(narrowed, limit)

    def count(self, wanted: Filter, limit: int | None = None) -> int:
        """Return the number of workitems that a filter selects; no more than `limit`, if it is given."""
        narrowed = self.rights.narrow(wanted, self._known(wanted.worker_types))
        return 0 if narrowed is None else self._record.count(narrowed, limit)

    def logs(self, id_: str, after: int, limit: int, tenant: str | None = None) -> Sequence[LogEntry]:
        """Return lines of output of a workitem, at most `limit`; () if the user does not see it.

        Args:
            id_: the workitem.
            after: the number of the last line that is known; -1 for none.
            limit: the number of lines.
            tenant: whose it is; None for any.
        """
        if self.find(id_, tenant) is None:
            return ()
        return self._record.logs(id_, after, limit, self._sees(tenant))

    def _sees(self, tenant: str | None) -> Callable[[str, str], bool]:
        """Return whether the user sees a worker type and tenant, of the wanted tenant, as a function."""
        if tenant is None:
            return self.rights.sees
        return lambda worker_type, its: its == tenant and self.rights.sees(worker_type, its)

    def types(self) -> Sequence[TypeRow]:
        """Return the worker types, with the numbers of the user's tenants.

        For a user who sees only some tenants, the age of the oldest workitem is not known.
        """
        rows = [row for row in self._record.types() if self.rights.sees_type(row.worker_type)]
        if not self.rights.tenants:
            return rows
        ends = self._ends(time.time())
        narrowed = [self._of_tenants(row.worker_type, ends.get(row.worker_type, {})) for row in rows]
        return [row for row in narrowed if row.waiting or row.running or row.retrying or row.ends]

    def _ends(self, now: float) -> dict[str, dict[str, int]]:
        """Return the ends of the last hour by worker type and state."""
        ends: dict[str, dict[str, int]] = {}
        for minute in self.minutes(now - _HOUR, now):
            if minute.state in OVER:
                of_type = ends.setdefault(minute.worker_type, {})
                of_type[minute.state] = of_type.get(minute.state, 0) + minute.count
        return ends

    def _of_tenants(self, worker_type: str, ends: dict[str, int]) -> TypeRow:
        def number(*states: str) -> int:
            return self.count(Filter(frozenset(states), frozenset((worker_type,))))

        return TypeRow(worker_type, number(QUEUED, SCHEDULED), number(RUNNING), number(RETRYING), None, ends)

    def sums_by_time(
        self, since: float, until: float, step: int, worker_types: Collection[str] | None = None
    ) -> Sequence[TimeSum]:
        """Return the counts of a time by state, of some worker types or of all.

        step -- seconds of each part of the time
        """
        return self._record.sums_by_time(self._scope(since, until, worker_types), step)

    def sums_by_type(
        self, since: float, until: float, worker_types: Collection[str] | None = None
    ) -> Sequence[TypeSum]:
        """Return the counts of a time by worker type and state, of some worker types or of all."""
        return self._record.sums_by_type(self._scope(since, until, worker_types))

    def times_by_type(self, since: float, until: float, worker_types: Collection[str]) -> Sequence[TypeTimes]:
        """Return the histograms of run and wait times of some worker types in a time."""
        return self._record.times_by_type(self._scope(since, until, worker_types))

    def _scope(self, since: float, until: float, worker_types: Collection[str] | None) -> Scope:
        rights, types = self.rights, worker_types
        if rights.types:
            types = [name for name in (self._known() if types is None else types) if rights.sees_type(name)]
        return Scope(since, until, types, rights.tenants or None)

    def minutes(self, since: float, until: float, *worker_types: str) -> Sequence[Minute]:
        """Return the minutes of a time, of some worker types or of all."""
        found = self._record.minutes(since, until, *worker_types)
        return [each for each in found if self.rights.sees(each.worker_type, each.tenant)]

    def crashes(self, since: float, until: float) -> Sequence[Crashes]:
        """Return the crashes of the minutes of a time."""
        found = self._record.crashes(since, until)
        return [each for each in found if self.rights.sees(each.worker_type, each.tenant)]

    def emitters(self) -> Sequence[EmitterRow]:
        """Return the processes. Raises NoRight if the user does not see all workitems."""
        self.rights.need_all()
        return self._record.emitters()

    def workers(self) -> Mapping[tuple[str, str], Worker]:
        """Return the workers of all hosts by host and name, for workitems that the user sees."""
        now = time.time()
        alive = [row for row in self._record.emitters() if row.is_alive(now)]
        return {
            (row.emitter.host, name): worker
            for row in reversed(alive)  # of two with one name, the one that was seen last
            for name, worker in row.named_workers.items()
        }

    def versions(self) -> Sequence[Version]:
        """Return from when on processes had which version; () for a user who does not see all workitems."""
        return () if self.rights.is_limited else self._record.versions()

    def gaps(self) -> Sequence[Gap]:
        """Return where events were missed. Raises NoRight if the user does not see all workitems."""
        self.rights.need_all()
        return self._record.gaps()

    def report(self) -> Report | None:
        """Return what the recorder last told of itself; None if none runs.

        A user with limits is not told the numbers of events and messages, which are about all.
        """
        found = self._record.report()
        if found is None or not self.rights.is_limited:
            return found
        return Report(found.at, found.state, found.is_reading, found.trouble)

    def audit(self) -> Sequence[Action]:
        """Return the newest actions. Raises NoRight for a user who is no admin, or does not see all."""
        self.rights.need(ADMIN)
        self.rights.need_all()
        return self._record.actions(_ACTIONS)

    def began_at(self) -> float | None:
        """Return when the record begins, in seconds since 1970; None if it is empty."""
        return self._record.began_at()

    def _known(self, wanted: Collection[str] = ()) -> frozenset[str]:
        needs_names = self.rights.types or any(map(is_pattern, wanted))
        return self._record.names() if needs_names else frozenset()

    def _shown(self, workitem: Workitem) -> Workitem:
        return workitem if self.rights.bodies else replace(workitem, head="")

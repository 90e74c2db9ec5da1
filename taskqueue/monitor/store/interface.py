"""The sources that a record is read from, with either database."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.item import Item
from taskqueue.monitor.store.plan import Row
from taskqueue.monitor.store.query import Query

#: The query of the table `log`, and of those like it.
LINES: Final = (
    "SELECT number, at, worker, level, text FROM {} WHERE id = ? AND tenant = ? AND number > ? "
    "ORDER BY number LIMIT ?"
)


def heard_of(item: Item) -> float:
    """Return when the last thing happened to a workitem."""
    return max(item.queued or 0.0, item.started or 0.0, item.ended or 0.0)


class Source(Protocol):
    """The workitems that are not over, or those of a day and a final state."""

    def query(self, text: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query. Raises RecordUnavailable and RecordDamaged."""

    def queries(self, wanted: Filter, now: float) -> Iterator[Query]:
        """Yield the queries that together return what a filter wants."""

    def number(self, name: str) -> Any:
        """Return what rows have for a name; None if none has it."""

    def name(self, number: Any) -> str:
        """Return the name of what rows have."""

    def item(self, row: Row) -> Item:
        """Return the workitem of its columns."""


class Sources(Protocol):
    """Everything that a record is read from."""

    directory: Path

    @property
    def days(self) -> Sequence[str]:
        """The days that have workitems, newest first."""

    def refresh(self) -> Self:
        """Look what there is now. Raises RecordUnavailable if there is no record."""

    @property
    def live(self) -> Source:
        """The source of the workitems that are not over, and of the counts."""

    def of_day(self, day: str, states: frozenset[int] = frozenset()) -> Iterator[Source]:
        """Yield the sources that may have a day's workitems of some states; none given: of any state."""

    def items(self, id_: str) -> list[Item]:
        """Return what has the id, newest first: what was retried after days may be there several times."""

    def lines(
        self, id_: str, owner: tuple[str, str], after: int, limit: int, *, is_shared: bool
    ) -> list[tuple[Any, ...]]:
        """Return lines of output of the workitem that has an id and an owner: worker type and tenant.

        is_shared -- whether other workitems of the tenant have the id
        """

    def mark(self) -> Any:
        """Return what `is_absent` needs; it must be called before a workitem is looked for."""

    def is_absent(self, id_: str, mark: Any) -> bool:
        """Whether a workitem that was not found was not just on its way from one place to another."""

    def names(self) -> frozenset[str]:
        """Return all names."""

    def began_at(self) -> float | None:
        """Return the time from which on the record has all ends."""

    def interrupt(self) -> None:
        """Have the statement that runs fail; any thread may call this."""

    def close(self) -> None:
        """Close everything."""

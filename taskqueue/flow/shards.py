"""The shards that a process leads: its epochs, which fence others out, and the numbers of new rows."""

from collections.abc import Iterable
from typing import Final

from taskqueue.broker.topology import SHARDS
from taskqueue.flow.store import Store


class Shards:
    """Epochs of shards. Whoever takes a shard increments its epoch; an older process finds out at once."""

    def __init__(self, store: Store) -> None:
        self._store: Final = store
        self._epochs: dict[int, int] = {}  # of the shards that this process leads
        self._former: dict[int, int] = {}  # of those that it has led, while no other process is known to
        self._next: dict[int, int] = {}  # the next number of a row in each, without the shard

    @property
    def led(self) -> tuple[int, ...]:
        """The shards that this process leads, as far as it knows."""
        return tuple(sorted(self._epochs))

    def take(self, shard: int) -> None:
        """Lead a shard, in a transaction."""
        self._store.execute("UPDATE shard SET epoch = epoch + 1 WHERE number = ?", (shard,))
        ((epoch, number),) = self._store.rows("SELECT epoch, next FROM shard WHERE number = ?", (shard,))
        self._epochs[shard], self._next[shard] = epoch, number

    def leave(self, shard: int) -> None:
        """Lead a shard no more."""
        if shard in self._epochs:
            self._former[shard] = self._epochs.pop(shard)

    def taken_by_others(self, shards: Iterable[int]) -> set[int]:
        """Return which of these shards another process has led since this one did; in a transaction."""
        former = {shard: self._former[shard] for shard in shards if shard in self._former}
        if not former or not (asked := former.keys() - self._epochs.keys()):
            return set()
        rows = self._store.rows("SELECT number, epoch FROM shard WHERE number IN ANY ?", (sorted(asked),))
        return {number for number, epoch in rows if former[number] != epoch}

    def lost(self) -> list[int]:
        """Return the shards that another process has taken, in a transaction; the others cannot be taken."""
        found = self._store.rows(
            "SELECT number, epoch, next FROM shard WHERE number IN ANY ? ORDER BY number FOR UPDATE",
            (list(self._epochs),),
        )
        self._next = {number: following for number, _, following in found}
        return [number for number, epoch, _ in found if self._epochs[number] != epoch]

    def numbers(self, shard: int, count: int) -> range:
        """Return numbers for new rows of a shard, in a transaction that has asked for `lost`."""
        first = self._next[shard]
        self._next[shard] = first + count
        self._store.execute("UPDATE shard SET next = ? WHERE number = ?", (first + count, shard))
        return range(first * SHARDS + shard, (first + count) * SHARDS + shard, SHARDS)

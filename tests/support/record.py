"""Batches of events for the tests of the record."""

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from taskqueue.messages import events
from taskqueue.messages.events import Batch, Begun, Cancelled, Emitter, Ended, Event, LogLine, Routed
from taskqueue.monitor.record import Details, Filter
from taskqueue.monitor.store.reading import Record

#: Marks the tests of SQLite's files.
FILES = pytest.mark.parametrize("database", [None], ids=["SQLite"])
#: Seconds that each state is kept.
KEEP = {"succeeded": 7 * 86400.0, "failed": 90 * 86400.0, "rejected": 90 * 86400.0, "cancelled": 7 * 86400.0}
#: 2025-01-01 12:00 UTC.
NOON = 1_735_732_800.0
DISPATCHER = Emitter("host1", "dispatcher", "", 10, NOON - 1000)
RETRY = Emitter("host1", "retry", "", 40, NOON)
CONSUMER = Emitter("host2", "consumer", "thumbs", 20, NOON - 1000)


def routed(id_: str, at: float = NOON, **more: object) -> Routed:
    return Routed(id_, "thumbs", at, 17, **more)  # type: ignore[arg-type]


def succeeded(id_: str, at: float = NOON + 2, attempt: int = 1, **more: object) -> Ended:
    return Ended(id_, "thumbs", attempt, "succeeded", events.SUCCEEDED, at, at - 1, worker="w1", **more)  # type: ignore[arg-type]


def failed(
    id_: str, at: float = NOON + 2, attempt: int = 1, state: str = events.FAILED, **more: object
) -> Ended:
    return Ended(id_, "thumbs", attempt, "failed", state, at, at - 1, worker="w1", **more)  # type: ignore[arg-type]


def states(record: Record, **filters: Any) -> dict[str, str]:
    """Return the states of the workitems that match, by id."""
    return {each.id: each.state for each in record.page(Filter(**filters), limit=1000).workitems}


def rows(path: Path, query: str) -> list[Any]:
    """Query a file of SQLite."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


class Stream:
    """A stream of batches: numbers events by emitter, and batches by offset; each is encoded and decoded."""

    def __init__(self) -> None:
        self.offset = -1
        self.numbers: dict[Emitter, int] = {}

    def batch(self, emitter: Emitter, *some: Event) -> tuple[int, Batch]:
        number = self.numbers.get(emitter, 1)
        self.numbers[emitter] = number + len(some)
        self.offset += 1
        body = events.encode(emitter, number, [events.line(event) for event in some])
        return self.offset, events.decode(body)

    def lose(self, emitter: Emitter, count: int) -> None:
        self.numbers[emitter] = self.numbers.get(emitter, 1) + count


# --- histories: what happens to workitems, and what the record must say of it in the end ---

CONSUMERS = [Emitter(f"host{n}", "consumer", "thumbs", 30 + n, NOON - 1000) for n in range(3)]


class History:
    """Random workitems: the events of each emitter in order, and what is to be told of each workitem."""

    def __init__(self, random: Random, count: int) -> None:
        self.random = random
        self.events: dict[Emitter, list[Event]] = {emitter: [] for emitter in (DISPATCHER, *CONSUMERS)}
        self.expected: dict[str, tuple[object, ...]] = {}
        self.lines: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()
        for number in range(count):
            self._add(f"item{number}", NOON + number / 10)

    def _add(self, id_: str, at: float) -> None:
        random, runs = self.random, []
        state, queued, head = "", None, ""
        if random.random() < 0.9:
            state, queued, head = "queued", at, f"body of {id_}"
            self._emit(DISPATCHER, routed(id_, at, head=head))
        attempt = told = 0
        while not state or (state not in events.FINAL and attempt == told and random.random() < 0.8):
            attempt += 1
            at += 10.0
            emitter = random.choice(CONSUMERS)
            if not state or random.random() < 0.5:
                state, told = "running", attempt
                self._emit(emitter, Begun(id_, "thumbs", attempt, at - 1, "w1"))
                self._print(emitter, id_, at)
            if random.random() < 0.8:
                state, told = self._end(emitter, id_, at, attempt), attempt
                runs.append((attempt, state))
        self.expected[id_] = (state, queued, head, told, tuple(runs))

    def _end(self, emitter: Emitter, id_: str, at: float, attempt: int) -> str:
        state = self.random.choice([*["succeeded"] * 5, "failed", "retrying", "retrying", "cancelled"])
        if state == "succeeded":
            self._emit(emitter, succeeded(id_, at, attempt))
        elif state == "cancelled":
            self._emit(emitter, Cancelled(id_, "thumbs", at, "w1", attempt, at - 1))
        else:
            self._emit(emitter, failed(id_, at, attempt, state, error=f"no {id_}"))
        return state

    def _print(self, emitter: Emitter, id_: str, at: float) -> None:
        for number in range(self.random.randrange(3)):
            text = f"{id_} {at} {number}"
            self.lines.setdefault(id_, []).append(text)
            self._emit(emitter, LogLine(id_, at - 1 + number / 10, "w1", "stdout", text))

    def _emit(self, emitter: Emitter, event: Event) -> None:
        self.events[emitter].append(event)
        if isinstance(event, Routed):
            self.counts["queued"] += 1
        elif isinstance(event, Ended):
            self.counts[event.state] += 1
        elif isinstance(event, Cancelled):
            self.counts["cancelled"] += 1

    def batches(self) -> list[tuple[int, Batch]]:
        """Return the events as batches, in a random order between the emitters; some come twice."""
        left = {emitter: list(some) for emitter, some in self.events.items() if some}
        stream = Stream()
        found: list[tuple[int, Batch]] = []
        while left:
            emitter = self.random.choice(list(left))
            size = self.random.randint(1, 8)
            found.append(stream.batch(emitter, *left[emitter][:size]))
            del left[emitter][:size]
            if not left[emitter]:
                del left[emitter]
            if self.random.random() < 0.1:
                stream.offset += 1
                found.append((stream.offset, self.random.choice(found)[1]))
        return found

    def check(self, record: Record) -> None:
        """Compare what a record says."""
        rows = record.page(Filter(), limit=10**6).workitems
        assert sorted(row.id for row in rows) == sorted(self.expected)
        for row in rows:
            runs = tuple((run.attempt, run.outcome) for run in self._details(record, row.id).runs)
            states = tuple((attempt, _OUTCOME[state]) for attempt, state in self.expected[row.id][-1])
            state = "running" if row.state == "lost" else row.state  # their emitters ended long ago
            told = (state, row.queued, row.head, row.attempts, runs)
            assert told == (*self.expected[row.id][:-1], states), (row.id, told, self.expected[row.id])
            found = sorted(line.text for line in record.logs(row.id))
            assert found == sorted(self.lines.get(row.id, [])), (row.id, found)
        counts: Counter[str] = Counter()
        for minute in record.minutes(0, 1e10):
            counts[minute.state] += minute.count
        assert counts == self.counts, (counts, self.counts)
        assert record.gaps() == []

    @staticmethod
    def _details(record: Record, id_: str) -> Details:
        details = record.find(id_)
        assert details is not None
        return details


_OUTCOME = {"retrying": "failed", "failed": "failed", "succeeded": "succeeded", "cancelled": "cancelled"}

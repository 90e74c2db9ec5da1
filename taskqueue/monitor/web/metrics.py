"""The metrics for Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/).

No label has a worker or an id: the number of time series stays that of the worker types.
"""

import threading
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest

from taskqueue.messages.events import RETRYING, Emitter
from taskqueue.messages.states import OVER
from taskqueue.monitor.record import BUCKETS, Crashes, EmitterRow, Minute, TypeRow
from taskqueue.monitor.web.view import View

_OPEN: Final = 600.0  # seconds in which the record may still add to a minute
_MINUTE: Final = 60.0
#: Of the text format that all releases of Prometheus read; prometheus_client's own varies with its version.
_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily


@dataclass(slots=True)
class _Times:
    """A histogram: counts by BUCKETS, and the sum of seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, counts: Sequence[int], seconds: float) -> None:
        for number, count in enumerate(counts[: len(self.counts)]):
            self.counts[number] += count
        self.seconds += seconds

    def plus(self, other: "_Times") -> "_Times":
        return _Times(
            [a + b for a, b in zip(self.counts, other.counts, strict=True)], self.seconds + other.seconds
        )


@dataclass(slots=True)
class _Totals:
    """Counts of minutes, by worker type and state."""

    ends: Tally[tuple[str, str]] = field(default_factory=Tally)
    crashes: Tally[tuple[str, str]] = field(default_factory=Tally)  # by worker type and cause
    runs: dict[str, _Times] = field(default_factory=dict)
    waits: dict[str, _Times] = field(default_factory=dict)

    def add(self, minute: Minute) -> None:
        name = minute.worker_type
        if minute.state in OVER or minute.state == RETRYING:
            self.ends[name, minute.state] += minute.count
        self.runs.setdefault(name, _Times()).add(minute.run_histogram, minute.run_seconds)
        self.waits.setdefault(name, _Times()).add(minute.wait_histogram, minute.wait_seconds)

    def add_crashes(self, crashes: Crashes) -> None:
        self.crashes[crashes.worker_type, crashes.cause] += crashes.count

    def plus(self, other: "_Totals") -> "_Totals":
        return _Totals(
            self.ends + other.ends,
            self.crashes + other.crashes,
            _both(self.runs, other.runs),
            _both(self.waits, other.waits),
        )


def _both(one: dict[str, _Times], other: dict[str, _Times]) -> dict[str, _Times]:
    return {name: one.get(name, _Times()).plus(other.get(name, _Times())) for name in one | other}


class _Growth:
    """A counter made of numbers of emitters, which the record forgets one after another."""

    def __init__(self) -> None:
        self._total = 0
        self._last: dict[Emitter, int] | None = None

    def add(self, numbers: dict[Emitter, int]) -> int:
        """Return by how much the numbers have grown since the first call."""
        if self._last is not None:
            last = self._last
            self._total += sum(max(0, number - last.get(each, 0)) for each, number in numbers.items())
        self._last = numbers
        return self._total


class Metrics:
    """Makes the exposition; counters begin with the process, as Prometheus expects.

    Minutes that are over for ten minutes are added up once; those after them are read each time.
    """

    def __init__(self, now: float) -> None:
        """Count from this minute on; now -- seconds since 1970."""
        self._closed = _Totals()
        self._since = now // _MINUTE * _MINUTE  # the first minute that is not in `_closed`
        self._missed, self._lost = _Growth(), _Growth()
        self._lock = threading.Lock()

    def expose(self, view: View, now: float) -> tuple[bytes, str]:
        """Return the metrics and their content type.

        Args:
            view: what is read.
            now: seconds since 1970.
        """
        types, emitters = view.types(), view.emitters()
        totals = self._read(view, now)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(
            _Collected(
                [
                    *_of_types(types),
                    *_of_totals(totals),
                    *_of_emitters(emitters, now),
                    *self._of_events(emitters),
                ]
            )
        )
        return generate_latest(registry), _CONTENT_TYPE

    def _read(self, view: View, now: float) -> _Totals:
        with self._lock:
            until = max(self._since, (now - _OPEN) // _MINUTE * _MINUTE)
            still = _Totals()
            for minute in view.minutes(self._since, now + _MINUTE):
                (self._closed if minute.at < until else still).add(minute)
            for crashes in view.crashes(self._since, now + _MINUTE):
                (self._closed if crashes.at < until else still).add_crashes(crashes)
            self._since = until
            return self._closed.plus(still)

    def _of_events(self, emitters: Sequence[EmitterRow]) -> list[_Family]:
        with self._lock:
            missed = self._missed.add({row.emitter: row.missed for row in emitters})
            lost = self._lost.add({row.emitter: row.lost for row in emitters})
        return [
            _counter("events_missed", "Events that the monitor missed.", missed),
            _counter("events_lost", "Events that processes could not emit.", lost),
        ]


class _Collected:
    """The collector that a registry asks for its metrics."""

    def __init__(self, families: Iterable[_Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[_Family]:
        return self._families


def _gauge(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> _Family:
    family = GaugeMetricFamily(f"taskqueue_{name}", text, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family


def _of_types(types: Sequence[TypeRow]) -> Iterator[_Family]:
    numbers: tuple[tuple[str, str, Any], ...] = (
        ("waiting", "Workitems that wait.", lambda row: row.waiting),
        ("running", "Workitems in work.", lambda row: row.running),
        ("retrying", "Workitems that run again later.", lambda row: row.retrying),
        ("oldest_waiting_seconds", "Age of the oldest workitem that waits.", lambda row: row.oldest or 0.0),
    )
    for name, text, number in numbers:
        yield _gauge(name, text, "type", [(row.worker_type, number(row)) for row in types])


def _of_totals(totals: _Totals) -> Iterator[_Family]:
    ends = CounterMetricFamily(
        "taskqueue_ended", "Workitems that ended, by their last state.", labels=["type", "status"]
    )
    retries = CounterMetricFamily("taskqueue_retries", "Runs that are followed by another.", labels=["type"])
    for (name, state), count in sorted(totals.ends.items()):
        if state == RETRYING:
            retries.add_metric([name], count)
        else:
            ends.add_metric([name, state], count)
    crashes = CounterMetricFamily(
        "taskqueue_crashes", "Runs that ended with their worker, by cause.", labels=["type", "cause"]
    )
    for labels, count in sorted(totals.crashes.items()):
        crashes.add_metric(labels, count)
    yield from (ends, retries, crashes)
    yield _histogram("run_seconds", "Time of runs.", totals.runs)
    yield _histogram("wait_seconds", "Time from the queueing to the run.", totals.waits)


def _histogram(name: str, text: str, times: dict[str, _Times]) -> _Family:
    family = HistogramMetricFamily(f"taskqueue_{name}", text, labels=["type"])
    bounds = [*[f"{bound:g}" for bound in BUCKETS], "+Inf"]
    for key, value in sorted(times.items()):
        family.add_metric([key], list(zip(bounds, accumulate(value.counts), strict=True)), value.seconds)
    return family


def _of_emitters(emitters: Sequence[EmitterRow], now: float) -> Iterator[_Family]:
    alive = [row for row in emitters if row.is_alive(now)]
    kinds = sorted({row.emitter.kind for row in emitters})
    yield _gauge("processes", "Processes that run.", "kind", _sums(alive, kinds, lambda _row: 1))
    yield _gauge("alarms", "Processes that wait for an alarm of the broker.", "kind",
                 _sums(alive, kinds, lambda row: row.is_blocked))  # fmt: skip
    consumers = [row for row in alive if row.emitter.kind == "consumer"]
    busy = sum(row.busy for row in consumers)
    idle = sum(max(0, row.slots - row.busy) for row in consumers)
    yield _gauge("workers", "Workers by state.", "state", [("busy", busy), ("idle", idle)])


def _counter(name: str, text: str, value: float) -> _Family:
    family = CounterMetricFamily(f"taskqueue_{name}", text)
    family.add_metric([], value)
    return family


def _sums(rows: Sequence[EmitterRow], kinds: Sequence[str], number: Any) -> list[tuple[str, float]]:
    return [(kind, sum(number(row) for row in rows if row.emitter.kind == kind)) for kind in kinds]

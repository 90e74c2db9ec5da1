"""The rows of the record: workitems through `Store.write`, then queries, then a day that is pruned.

`python -m benchmarks.record --workitems 10000000` measures a record of that size by itself; with
`--database URL`, one in PostgreSQL.
"""

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks.findings import Finding, Goal
from benchmarks.postgresql import server
from benchmarks.rows import Bench
from taskqueue.messages import events
from taskqueue.messages.events import Emitter, Ended, Routed
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.day_file import GROUPS
from taskqueue.monitor.store.opening import open_store
from taskqueue.monitor.store.reading import Record
from taskqueue.process.usage import collect_rarely

_DAYS: Final = 10
_DAY: Final = 86400.0
_TYPES, _TENANTS, _CUSTOMERS = 40, 500, 100_000
_WRITE: Final = 5000  # workitems: as many events as the recorder writes together
_BUSY: Final = 10_000  # no-op workitems a second
_BATCH: Final = 50  # events
_ASKED: Final = 60  # times that each query is asked
_ERRORS: Final = (
    "ConnectionError: host{n} refused the connection",
    "TaskTimeout: after {n} s",
    "KeyError: 'customer_{n}'",
    "WorkerCrashed: killed by SIGKILL, out of memory at {n} MiB",
)


def record(bench: Bench) -> Iterator[Finding]:
    """Record workitems, ask for them, prune a day: in SQLite, then in PostgreSQL where it is installed."""
    yield from _measure(bench.scale.recorded, None)
    with server(bench.ground) as url:
        if url is None:
            print("PostgreSQL is not installed: its rows are left out")
        else:
            yield from _measure(bench.scale.recorded, url)


def _measure(workitems: int, url: str | None) -> Iterator[Finding]:
    database = "SQLite" if url is None else "PostgreSQL"
    for finding in _measured(workitems, url):
        yield replace(finding, measure=f"{finding.measure} ({database})")


def _measured(workitems: int, url: str | None) -> Iterator[Finding]:
    directory = Path(tempfile.mkdtemp(prefix="taskqueue-record-"))
    try:
        yield _recording(directory / "noop", url, workitems)
        with _opened(directory / "full", url) as store:
            ids = fill(store, workitems)
            with Record(directory / "full", url) as found:
                yield from _queries(found, ids, workitems)
            yield _pruning(store, workitems)
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def _opened(directory: Path, url: str | None) -> Iterator[Any]:
    """Open an empty record."""
    if url is not None:
        from taskqueue.monitor.store.postgresql.session import SCHEMA, Session  # noqa: PLC0415 -- needs psycopg

        session = Session(url)
        session.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        session.close()
    with open_store(directory, url) as store:
        store.acquire()
        yield store


# --- writing ---


def _recording(directory: Path, url: str | None, workitems: int) -> Finding:
    """Record no-op workitems of a busy time: what is measured decodes and writes the batches."""
    random, now = Random(1), time.time()  # noqa: S311 -- no secret
    seconds = cpu = 0.0
    total = min(workitems, 1_000_000)
    collect_rarely()  # as the recorder does
    with _opened(directory, url) as store:
        some = writes(random, total, now - total / _BUSY, now, is_noop=True)
        for bodies, _ in some:
            begun, used = time.perf_counter(), time.process_time()
            store.write([(offset, events.decode(body)) for offset, body in bodies])
            seconds += time.perf_counter() - begun
            cpu += time.process_time() - used
    rate = total / seconds
    least = 15_000 if url is None else 10_000
    goals = [Goal.at_least_a_second(rate, least)]
    more = {"cpu": round(cpu / total * 1e6, 1)}
    return Finding("record", "record no-op workitems", "/s", rate, None, {}, goals, more)


def fill(store: Any, workitems: int, types: int = _TYPES) -> list[str]:
    """Record workitems of ten days with tenants, labels, errors and bodies; return some of their ids."""
    random, now = Random(2), time.time()  # noqa: S311 -- no secret
    ids = []
    for bodies, written in writes(random, workitems, now - _DAYS * _DAY, now, is_noop=False, types=types):
        store.write([(offset, events.decode(body)) for offset, body in bodies])
        ids += random.sample(written, 5)
    return ids


def writes(
    random: Random, workitems: int, begin: float, end: float, *, is_noop: bool, types: int = _TYPES
) -> Iterator[tuple[list[tuple[int, bytes]], list[str]]]:
    """Yield batches with their offsets, enough for one write, and the ids in them."""
    emitters = [Emitter(f"host{n}", kind, "", n, begin) for n, kind in enumerate(("dispatcher", "consumer"))]
    offsets, numbers = count(), [1, 1]
    for first in range(0, workitems, _WRITE):
        some = range(first, min(first + _WRITE, workitems))
        times = [begin + (end - begin) * number / workitems for number in some]
        told = [_workitem(random, at, types, is_noop=is_noop) for at in times]
        bodies = []
        for start in range(0, len(told), _BATCH):
            for which, emitter in enumerate(emitters):
                lines = [events.line(each[which]) for each in told[start : start + _BATCH]]
                bodies.append((next(offsets), events.encode(emitter, numbers[which], lines)))
                numbers[which] += len(lines)
        yield bodies, [routed.id for routed, _ in told]


def _workitem(random: Random, at: float, types: int, *, is_noop: bool) -> tuple[Routed, Ended]:
    id_, type_, worker = f"{random.getrandbits(128):032x}", f"type{random.randrange(types)}", "worker1"
    if is_noop:
        end = Ended(id_, type_, 1, "succeeded", events.SUCCEEDED, at + 0.02, at + 0.01, None, worker, "tq", 2)
        return Routed(id_, type_, at, 20, head='{"number": 1}'), end
    tenant, customer = f"tenant{random.randrange(_TENANTS)}", f"customer-{random.randrange(_CUSTOMERS)}"
    labels = customer if random.random() < 0.2 else ""
    head = f'{{"customer": "{customer}", "pages": {random.randrange(1000)}, "format": "pdf"}}'
    is_bad = random.random() < 0.01
    state, error = events.SUCCEEDED, ""
    if is_bad:
        state, error = events.FAILED, random.choice(_ERRORS).format(n=random.randrange(1000))
    end = Ended(id_, type_, 1, state, state, at + 0.02, at + 0.01, None, worker, "tq", 2, None, error)
    end = end._replace(tenant=tenant, labels=labels)
    return Routed(id_, type_, at, 90, None, tenant, labels, head), end


# --- reading ---


def _queries(found: Record, ids: list[str], workitems: int) -> Iterator[Finding]:
    """Ask for what the pages of the monitor ask for, with random values."""
    random, now = Random(3), time.time()  # noqa: S311 -- no secret

    def type_() -> frozenset[str]:
        return frozenset([f"type{random.randrange(_TYPES)}"])

    def tenant() -> frozenset[str]:
        return frozenset([f"tenant{random.randrange(_TENANTS)}"])

    def error_of_a_day() -> Any:
        since = now - random.random() * (_DAYS - 1) * _DAY - _DAY
        text = random.choice(["memory", f"customer_{random.randrange(1000)}"])
        return found.page(Filter(error_text=text, since=since, until=since + _DAY))

    def body() -> Any:
        text = random.choice(["pdf", f"customer-{random.randrange(_CUSTOMERS)}"])
        return found.page(Filter(body_text=text))

    failed = frozenset([events.FAILED])
    asked: dict[str, tuple[float, Callable[[], Any]]] = {
        "newest": (0.05, lambda: found.page(Filter())),
        "of a type": (0.05, lambda: found.page(Filter(worker_types=type_()))),
        "of a tenant": (0.05, lambda: found.page(Filter(tenants=tenant()))),
        "failed": (0.05, lambda: found.page(Filter(states=failed))),
        "failed, of a type": (0.05, lambda: found.page(Filter(states=failed, worker_types=type_()))),
        "failed, type and tenant": (0.05, lambda: found.page(Filter(failed, type_(), tenant()))),
        "by id": (0.005, lambda: found.find(random.choice(ids))),
        "an unknown id": (0.005, lambda: found.find(f"{random.getrandbits(128):032x}")),
        "beginning of an id": (0.05, lambda: found.page(Filter(id_prefix=random.choice(ids)[:8]))),
        "label": (0.05, lambda: found.page(Filter(label=f"customer-{random.randrange(_CUSTOMERS)}"))),
        "error text of a day": (0.1, error_of_a_day),
        "body text": (0.5, body),
        "types": (0.05, found.types),
    }
    for name, (limit, ask) in asked.items():
        costs = [_costs(ask) for _ in range(_ASKED)]
        seconds, used = (sorted(each) for each in zip(*costs, strict=True))
        most = int(_ASKED * 0.95)
        found_ms = seconds[most] * 1000
        goals = [Goal.at_most(found_ms, limit * 1000, "ms")]
        more = {"median": seconds[_ASKED // 2] * 1000, "worst": seconds[-1] * 1000, "cpu": used[most] * 1000}
        more = {key: round(value, 2) for key, value in more.items()}
        yield Finding("record", f"{name}, {workitems:,} recorded", "ms", found_ms, None, {}, goals, more)


def _pruning(store: Any, workitems: int) -> Finding:
    keep = dict.fromkeys(GROUPS, (_DAYS - 1) * _DAY)
    seconds = _seconds(lambda: store.prune(time.time(), keep, 365 * _DAY, 2**60))
    goals = [Goal.at_most(seconds, 0.1, "s")]
    return Finding("record", f"prune a day of {workitems // _DAYS:,}", "s", seconds, None, {}, goals)


def _costs(action: Callable[[], object]) -> tuple[float, float]:
    """Return seconds, and those of the processor, which tell more on a busy machine."""
    begun, used = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - begun, time.process_time() - used


def _seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def main() -> None:
    """Measure the record alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workitems", type=int, default=100_000, help="workitems that are recorded")
    parser.add_argument("--database", help="URL of a PostgreSQL database; its schema taskqueue is dropped")
    given = parser.parse_args()
    show(_measure(given.workitems, given.database))


def show(findings: Iterable[Finding]) -> None:
    """Print findings with one goal each as they come."""
    for finding in findings:
        goal = finding.goals[0]
        mark = "met" if goal.met else "not met"
        print(f"{finding.measure}: {finding.ours:,.4g} {finding.unit}", end=" ")
        print(f"({goal.text}: {mark}) {finding.more}", flush=True)


if __name__ == "__main__":
    main()

"""The rows of the monitor's pages: each page's time on the server, and many browsers that follow one.

`python -m benchmarks.pages --workitems 10000000` measures them over a record of that size by themselves.
"""

import argparse
import http.client
import json
import multiprocessing
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks.findings import Finding, Goal
from benchmarks.meter import cpu_time
from benchmarks.record import fill, show, writes
from benchmarks.rows import Bench
from taskqueue.messages import events
from taskqueue.monitor.report import Report, write_report
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web.listening import listen
from taskqueue.monitor.web.server import serve
from taskqueue.monitor.web.service import WebSettings

_TYPES: Final = 500
_TOKEN: Final = "tqm_of-the-benchmark"  # noqa: S105 -- of a server that lives for a minute
_ASKED: Final = 40  # times that each page is asked for
_BROWSERS: Final = 50
_FOLLOWED: Final = 30.0  # seconds
_RATE: Final = 200  # workitems that end in each of them
_PAGES: Final = {
    "overview, an hour": ("/", 0.15),
    "overview, a week": ("/?range=week", 0.15),
    "types": ("/types", 0.05),
    "workitems": ("/workitems", 0.05),
    "workitems, failed": ("/workitems?state=failed", 0.05),
    "a workitem": ("/workitems/{id}", 0.05),
    "running": ("/running", 0.05),
    "dead letters": ("/dead-letters", 0.05),
    "hosts": ("/hosts", 0.05),
    "metrics, a day": ("/charts?type=type7&range=day", 0.05),
    "broker": ("/broker", 0.05),
    "audit": ("/audit", 0.05),
    "account": ("/account", 0.05),
    "suggestions": ("/suggest?q={start}", 0.05),
}


def pages(bench: Bench) -> Iterator[Finding]:
    """Ask for each page, then follow the overview in many browsers while workitems end."""
    return _measure(bench.scale.recorded)


def _measure(workitems: int) -> Iterator[Finding]:
    directory = Path(tempfile.mkdtemp(prefix="taskqueue-pages-"))
    try:
        with Store(directory / "record") as store:
            ids = fill(store, workitems, _TYPES)
            write_report(directory / "record", _report())
            with _served(directory / "record") as (port, pid):
                yield from _asked(port, pid, ids[-1], workitems)
                yield _followed(store, port, pid, workitems)
    finally:
        shutil.rmtree(directory)


def _report() -> Report:
    depths = {f"worker_type{number}": 0 for number in range(_TYPES)}
    now = time.time()
    return Report(
        now, "records", is_reading=True, depths=depths, depths_at=now, consumers=depths, broker="RabbitMQ"
    )


@contextmanager
def _served(directory: Path) -> Iterator[tuple[int, int]]:
    """Have a web process serve a record; yield its port and its pid."""
    sockets = listen("127.0.0.1", 0)
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(directory, sockets))
    process.start()
    port = int(sockets[0].getsockname()[1])
    for each in sockets:
        each.close()
    try:
        yield port, process.pid or 0
    finally:
        process.terminate()
        process.join()


def _serve(directory: Path, sockets: list[socket.socket]) -> None:
    serve(WebSettings(directory, token=_TOKEN), sockets)


def _connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def _request(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    connection.request("GET", path, headers={"Authorization": f"Bearer {_TOKEN}"})
    answer = connection.getresponse()
    if answer.status != http.HTTPStatus.OK:
        raise AssertionError(f"{path}: status {answer.status}: {answer.read()[:500]!r}")
    return answer


def _asked(port: int, pid: int, id_: str, workitems: int) -> Iterator[Finding]:
    connection = _connection(port)
    for name, (pattern, limit) in _PAGES.items():
        path = pattern.format(id=id_, start=id_[:6])
        size = len(_request(connection, path).read())  # and what it needs is read once
        seconds, used = [], cpu_time([pid])
        for _ in range(_ASKED):
            begun = time.perf_counter()
            _request(connection, path).read()
            seconds.append(time.perf_counter() - begun)
        seconds.sort()
        found_ms = seconds[int(_ASKED * 0.95)] * 1000
        cpu = (cpu_time([pid]) - used) / _ASKED * 1000
        more = {"median": round(seconds[_ASKED // 2] * 1000, 1), "cpu": round(cpu, 1), "bytes": size}
        goals = [Goal.at_most(found_ms, limit * 1000, "ms")]
        yield Finding("pages", f"page {name}, {workitems:,} recorded", "ms", found_ms, None, {}, goals, more)


def _followed(store: Store, port: int, pid: int, workitems: int) -> Finding:
    """Follow the overview in many browsers; what is measured is the processor time of the web process."""
    with ExitStack() as opened:
        streams: list[Any] = []
        for _ in range(_BROWSERS):
            connection = _connection(port)
            opened.callback(connection.close)
            streams.append(_request(connection, "/live/overview?range=hour"))
        for stream in streams:
            _following(stream)
        begun, used = time.monotonic(), cpu_time([pid])
        for second in range(int(_FOLLOWED)):
            _end_some(store, second)
            time.sleep(max(0.0, begun + second + 1 - time.monotonic()))
        seconds = time.monotonic() - begun
        share = 100 * (cpu_time([pid]) - used) / seconds
        messages = sum(_following(stream) is not None for stream in streams)
    goals = [Goal.at_most(share, 25, "% of a core")]
    what = f"{_BROWSERS} browsers follow the overview, {workitems:,} recorded"
    more = {"browsers that were told": messages}
    return Finding("pages", what, "% of a core", share, None, {}, goals, more)


def _end_some(store: Store, second: int) -> None:
    """Have workitems end now, so that the overview changes."""
    now, random = time.time(), Random(second)  # noqa: S311 -- no secret
    position = store.position() or 0
    for bodies, _ in writes(random, _RATE, now - 1, now, is_noop=True, types=_TYPES):
        store.write([(position + 1 + offset, events.decode(body)) for offset, body in bodies])


def _following(stream: http.client.HTTPResponse) -> Any:
    """Return the next message of a stream; None at its end."""
    while line := stream.readline():
        if line.startswith(b"data: "):
            return json.loads(line[6:])
    return None


def main() -> None:
    """Measure the pages alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workitems", type=int, default=100_000, help="workitems that are recorded")
    show(_measure(parser.parse_args().workitems))


if __name__ == "__main__":
    main()

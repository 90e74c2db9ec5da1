"""The row of feeding: what else feeds an iterator's elements to two processes, and how fast."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

import zmq

from benchmarks.findings import Finding, Goal
from benchmarks.rows import Bench

WORKERS: Final = 2
MILLION: Final = 1_000_000
CODE: Final = """
def get_jobs(last=0, number="0"):
    yield from range(last, int(number))
def handle_job(i):
    pass
"""


def feed(bench: Bench) -> Iterator[Finding]:
    """Feed integers to two workers that do nothing with them."""
    jobs = bench.scale.jobs
    rounds = [run(jobs) for _ in range(bench.scale.rounds)]
    rate = median(rounds)
    peers = {
        "imap_unordered": pool(min(jobs, MILLION // 5), 1),
        "imap_unordered, 1,000 a chunk": pool(jobs, 1000),
        "ZeroMQ, a request a job": zeromq(min(jobs, MILLION // 10)),
    }
    for name, figures in bench.race.figures().items():
        if figures.submit is not None and figures.drain is not None:
            peers[f"{name}, a task a job"] = min(figures.submit, figures.drain)
    more = {
        "rounds": [round(each) for each in rounds],
        "size 100,000": round(run(jobs, "--size", "100000", "--chunk-max", "20000")),
    }
    goals = [Goal.at_least_a_second(rate, MILLION)]
    yield Finding("feed", "feed of integers", "/s", rate, peers=peers, goals=goals, more=more)


def run(jobs: int, *options: str) -> float:
    """Return the jobs a second of `taskqueue run` on a broker of its own, without its start and end."""
    with tempfile.TemporaryDirectory(prefix="tq-bench-") as directory:
        records = _records(Path(directory), jobs, options)
        first = next(record for record in records if record["done"])
        return float((jobs - first["done"]) / (records[-1]["elapsed"] - first["elapsed"]))


def _records(directory: Path, jobs: int, options: tuple[str, ...]) -> list[dict[str, float]]:
    """Return the records of a run's progress."""
    (directory / "jobs.py").write_text(CODE)
    command = [sys.executable, "-m", "taskqueue", "run", "jobs.py", str(WORKERS), f"number={jobs}"]
    subprocess.run(
        [*command, "--progress-file", "progress", "--no-progress", *options],
        cwd=directory,
        env=os.environ | {"XDG_STATE_HOME": str(directory), "PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
    )
    lines = (directory / "progress").read_text().splitlines()
    return [json.loads(line) for line in lines]


def nothing(_job: int) -> None:
    """Handle a job."""


def pool(jobs: int, chunksize: int) -> float:
    """Return the jobs a second of multiprocessing.Pool.imap_unordered."""
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as it ends the workers, who inherit it
    with multiprocessing.Pool(WORKERS) as workers:
        signal.signal(signal.SIGTERM, handler)
        begun = time.monotonic()
        for _ in workers.imap_unordered(nothing, range(jobs), chunksize):
            pass
        return jobs / (time.monotonic() - begun)


def zeromq(jobs: int) -> float:
    """Return the jobs a second of bare ZeroMQ, one job a request and pickled, as Taskmaster sent them."""
    context = zmq.Context()
    server = context.socket(zmq.REP)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    clients = [multiprocessing.Process(target=_request, args=(port,)) for _ in range(WORKERS)]
    for client in clients:
        client.start()
    server.recv()
    begun = time.monotonic()
    for job in range(jobs):
        server.send(pickle.dumps(job))
        server.recv()
    rate = jobs / (time.monotonic() - begun)
    for client in clients:
        client.terminate()
    context.destroy(linger=0)
    return rate


def _request(port: int) -> None:
    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(f"tcp://127.0.0.1:{port}")
    while True:
        socket.send(b"")
        nothing(pickle.loads(socket.recv()))  # noqa: S301 -- our own server sent it

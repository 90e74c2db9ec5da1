"""How many jobs a second a feed does, beside what else feeds an iterator to two processes; and its memory.

usage: python benchmarks/feed.py [--jobs N] [--memory | --simulate]

Jobs are integers, and handle_job does nothing: what is measured is what a job costs on its way. Run it on a
machine that does nothing else. ZeroMQ, one job a request as Taskmaster did it, is measured where pyzmq is
installed.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from taskqueue.feed.pace import Pace

WORKERS = 2
CODE = """
def get_jobs(last=0, number="0"):
    yield from range(last, int(number))
def handle_job(i):
    pass
"""
MILLION = 1_000_000
MOST_GROWTH = 1.05

# What a chunk and a job cost on their way, on two cores that do all of it: from the rates at --size 10,000
# and 100,000, which differ in nothing but the length of their chunks.
CHUNK_COST = 940e-6  # seconds
JOB_COST = 156e-9  # seconds
BYTES_A_JOB = 10  # an integer of nine digits, as JSON
BYTES_A_CHUNK = 1200  # headers of a chunk and its receipt
SCENARIOS = (  # seconds a job takes, workers, jobs out at a time
    (50e-9, 2, 10_000),
    (50e-9, 2, 100_000),
    (100e-6, 8, 10_000),
    (100e-6, 8, 100_000),
    (10e-3, 100, 10_000),
    (1.0, 1000, 10_000),
)


# --- what is compared ---


def feed(jobs: int, *options: str) -> float:
    """Return the jobs a second of `taskqueue run` on a broker of its own, without its start and end."""
    with tempfile.TemporaryDirectory(prefix="tq-bench-") as directory:
        records = _run(Path(directory), jobs, options)
        first = next(record for record in records if record["done"])
        return float((jobs - first["done"]) / (records[-1]["elapsed"] - first["elapsed"]))


def _run(directory: Path, jobs: int, options: tuple[str, ...]) -> list[dict[str, float]]:
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
    with multiprocessing.Pool(WORKERS) as workers:
        begun = time.monotonic()
        for _ in workers.imap_unordered(nothing, range(jobs), chunksize):
            pass
        return jobs / (time.monotonic() - begun)


def zeromq(jobs: int) -> float:
    """Return the jobs a second of bare ZeroMQ, one job a request and pickled, as Taskmaster sent them."""
    import pickle  # noqa: PLC0415 -- for this one alone

    import zmq  # noqa: PLC0415

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
    import pickle  # noqa: PLC0415

    import zmq  # noqa: PLC0415

    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(f"tcp://127.0.0.1:{port}")
    while True:
        socket.send(b"")
        nothing(pickle.loads(socket.recv()))  # noqa: S301 -- our own server sent it


def rates(jobs: int) -> Iterator[tuple[str, float]]:
    """Yield what is compared and the jobs a second of it."""
    yield "taskqueue run, --size 10,000", feed(jobs)
    yield "taskqueue run, --size 100,000", feed(jobs, "--size", "100000", "--chunk-max", "20000")
    yield "imap_unordered, chunksize 1", pool(min(jobs, MILLION // 5), 1)
    yield "imap_unordered, chunksize 1,000", pool(jobs, 1000)
    if importlib.util.find_spec("zmq") is not None:
        yield "ZeroMQ, a request a job", zeromq(min(jobs, MILLION // 10))


# --- memory ---


def memory(jobs: int) -> dict[str, int]:
    """Return the most memory in kB that feeder and workers ever had resident, in a run of so many jobs."""
    with tempfile.TemporaryDirectory(prefix="tq-bench-") as directory:
        (Path(directory) / "jobs.py").write_text(CODE)
        command = [sys.executable, "-m", "taskqueue", "run", "jobs.py", str(WORKERS), f"number={jobs}"]
        environment = os.environ | {"XDG_STATE_HOME": directory, "PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen([*command, "--no-progress"], cwd=directory, env=environment) as running:
            peaks: dict[str, int] = {}
            while running.poll() is None:
                peaks |= {name: max(size, peaks.get(name, 0)) for name, size in _peaks(running.pid)}
                time.sleep(0.1)
        return peaks


def _peaks(pid: int) -> Iterator[tuple[str, int]]:
    """Yield name and peak memory of a run's feeder and workers."""
    for process in _below(pid):
        command = _read(process, "cmdline").replace("\0", " ")
        name = "feeder" if " feed " in command else _read(process, "comm").strip()
        peak = _read(process, "status").partition("VmHWM:")[2].split()
        if peak and (name == "feeder" or name.startswith("tq:")):
            yield name, int(peak[0])


def _below(pid: int) -> Iterator[int]:
    for process in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
        if _read(process, "stat").rpartition(") ")[2].split()[1:2] == [str(pid)]:
            yield process
            yield from _below(process)


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:  # gone meanwhile
        return ""


def is_flat(say: Callable[[str], None], counts: tuple[int, ...] = (1, 10, 50)) -> bool:
    """Tell whether memory stays within 5 % from 1 to 50 million jobs."""
    first: dict[str, int] = {}
    flat = True
    for count in counts:
        peaks = memory(count * MILLION)
        first = first or peaks
        flat = flat and all(size <= first[name] * MOST_GROWTH for name, size in peaks.items())
        say(
            f"{count:3} million jobs: "
            + ", ".join(f"{name} {size:,} kB" for name, size in sorted(peaks.items()))
        )
    return flat


# --- a billion jobs ---


def simulate(say: Callable[[str], None], jobs: int = 1000 * MILLION) -> None:
    """Print what a billion jobs cost, from what a chunk and a job were measured to cost."""
    columns = "a job takes | workers | `--size` | jobs a chunk | chunks | time | feeding alone | traffic"
    say(f"| {columns} |")
    say("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for job_time, workers, size in SCENARIOS:
        length = _length(job_time, workers, size)
        chunks = -(-jobs // length)
        feeding = chunks * CHUNK_COST + jobs * JOB_COST
        handling = jobs * job_time / workers
        traffic = jobs * BYTES_A_JOB + chunks * BYTES_A_CHUNK
        took = _time(max(feeding, handling))
        cells = [_time(job_time), workers, f"{size:,}", f"{length:,}", f"{chunks:,}", took, _time(feeding)]
        say(f"| {' | '.join(map(str, cells))} | {traffic / 1e9:.1f} GB |")


def _length(job_time: float, workers: int, size: int) -> int:
    """Return the length of chunks that a feeder comes to."""
    pace = Pace(size, size)
    for number in range(100 * workers):
        pace.note(str(number % workers), 1, pace.length, pace.length * job_time)
        pace.encoded(pace.length, pace.length * BYTES_A_JOB)
    return pace.length


def _time(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=20 * MILLION, help="jobs to measure the rates with")
    parser.add_argument("--memory", action="store_true", help="measure memory, at 1, 10 and 50 million jobs")
    parser.add_argument("--simulate", action="store_true", help="print what a billion jobs would cost")
    arguments = parser.parse_args()
    if arguments.simulate:
        simulate(print)
        return
    if arguments.memory:
        sys.exit(0 if is_flat(print) else "memory grew by more than 5 %")
    for name, rate in rates(arguments.jobs):
        print(f"{name:32} {rate:12,.0f} jobs/s", flush=True)


if __name__ == "__main__":
    main()

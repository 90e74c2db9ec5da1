"""How much memory a feed takes, however long it is; and what a billion jobs would cost.

usage: python -m benchmarks.feed (--memory | --simulate)

Jobs are integers, and handle_job does nothing: what is measured is what a job costs on its way.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.feeding import CODE, MILLION, WORKERS
from taskqueue.feed.chunker import Pace

MOST_GROWTH = 1.05

# What a chunk and a job cost on their way, on two cores that do all of it: from the rates at --size 10,000
# and 100,000, which differ in nothing but the length of their chunks.
CHUNK_COST = 580e-6  # seconds
JOB_COST = 154e-9  # seconds
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
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--memory", action="store_true", help="measure memory, at 1, 10 and 50 million jobs")
    what.add_argument("--simulate", action="store_true", help="print what a billion jobs would cost")
    if parser.parse_args().simulate:
        simulate(print)
    elif not is_flat(print):
        sys.exit("memory grew by more than 5 %")


if __name__ == "__main__":
    main()

"""The progress that a feed shows, and the memory that it takes."""

import contextlib
import json
import os
import pty
import re
import subprocess
from collections import Counter
from io import FileIO

from support.ground import peak_of
from support.processes import children, cli

NO_OPERATION = """
def get_jobs(last=0, number="0"):
    yield from range(last, int(number))
def handle_job(i):
    pass
"""


def seen_on_terminal(feed, *options):
    """Return what a feed of 1,000 jobs writes to a terminal 200 columns wide."""
    master, slave = pty.openpty()
    command = [*cli(*feed.arguments("--reset", *options)), "number=1000"]
    environment = {**os.environ, **feed.env, "COLUMNS": "200", "TERM": "xterm"}
    with subprocess.Popen(command, stderr=slave, env=environment) as feeder, FileIO(master) as screen:
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while data := screen.read(65_536):
                shown += data
        assert feeder.wait(60) == 0
    return shown.decode()


def test_a_terminal_shows_count_and_rate_and_with_a_total_the_share_and_a_bar(feed):
    feed.work()
    shown = seen_on_terminal(feed)
    assert re.search(r"\w: 1,000, [0-9,]+/s, 0 in flight, 0 failed, ", shown), shown
    assert "\u2501" not in shown  # no bar
    shown = seen_on_terminal(feed, "--total", "1000")
    assert re.search(r"\w: 1,000 of 1,000 \(100\.0%\), [0-9,]+/s, 0 in flight, 0 failed, ", shown), shown
    assert "\u2501" * 50 in shown


def test_progress_is_written_as_json_lines(feed):
    feed.work()
    records = feed.directory / "progress"
    assert (
        feed.run("number=3000", "--size", "40", "--progress-file", str(records), "--total", "3000").returncode
        == 0
    )
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert [lines[0]["state"], lines[-1]["state"]] == ["connecting", "finished"]
    last = {name: lines[-1][name] for name in ("done", "failed", "total", "out")}
    assert last == {"done": 3000, "failed": 0, "total": 3000, "out": 0}
    assert lines[-1]["workers"] in (1, 2)
    assert max(line["out"] for line in lines) <= 40


def test_workers_know_nothing_of_the_key_and_address_in_their_environment(feed):
    feed.write(
        "import os\n"
        "def get_jobs():\n    yield 1\n"
        "def handle_job(i):\n    note(len({'TASKQUEUE_AMQP', 'TASKQUEUE_FEED_KEY'} & os.environ.keys()))\n"
    )
    feed.work("--pickle", TASKQUEUE_FEED_KEY="k" * 32)
    assert feed.run("--pickle", TASKQUEUE_FEED_KEY="k" * 32).returncode == 0
    assert feed.handled() == Counter([0])


def test_memory_does_not_grow_with_the_number_of_jobs(feed):
    feed.write(NO_OPERATION)
    pool = feed.work()
    peaks = []
    for number in (200_000, 2_000_000):
        _, _, used = os.wait4(feed.start(f"number={number}", "--reset").pid, 0)
        peaks.append([used.ru_maxrss * 1024, *sorted(map(peak_of, children(pool.pid)))])
    assert all(more <= 1.05 * less for less, more in zip(*peaks, strict=True)), peaks

"""A feeder and workers as real processes, on jobs that go well and jobs that do not."""

import signal
from collections import Counter

import pytest
from support.told import Record

from taskqueue.messages.events import ProcessState

SLOW = """
import time
def get_jobs(last=0):
    with open({seen!r}, "a") as seen:
        print(last, file=seen)
    yield from range(last, 200)
def handle_job(i):
    time.sleep(0.01)
    note(i)
"""


def test_every_job_is_handled_once_and_nothing_is_left_to_do(feed, foreign):
    feed.work()
    done = feed.run("number=5000")
    assert (done.returncode, done.stderr) == (0, "5000 jobs done; all jobs are done\n")
    assert feed.handled() == Counter(range(5000))
    again = feed.run("number=5000")
    assert again.returncode == 0
    assert again.stderr.startswith("nothing is left to do: 5000 jobs done")
    assert feed.count() == 5000
    assert feed.run("number=5000", "--reset").returncode == 0
    assert feed.handled() == Counter([*range(5000), *range(5000)])
    assert foreign.depth("worker_feed_jobs") == 0
    assert sorted(path.name for path in feed.directory.glob("*state*")) == ["jobs.state"]


def test_a_feed_tells_its_end(feed, foreign):
    record = Record(foreign)
    feed.work()
    assert feed.run("number=100").returncode == 0
    record.wait_for(ProcessState, state="ended")
    (ended,) = [batch for batch in record.batches if batch.events[-1][1:2] == ("ended",)]
    assert (ended.emitter.kind, ended.emitter.group) == ("feeder", "feed_jobs")


def test_jobs_that_raise_are_recorded_and_can_be_fed_again(feed):
    mended = feed.directory / "mended"
    feed.write(
        "import os\n"
        "def get_jobs():\n    yield from range(300)\n"
        "def handle_job(i):\n"
        f"    note(i)\n    if i % 100 == 7 and not os.path.exists({str(mended)!r}):\n"
        "        raise ValueError(f'no {i}')\n"
    )
    feed.work()
    done = feed.run("--retries", "2")
    assert done.returncode == 1
    assert f"300 jobs done, 3 of them failed, see {feed.failed}; all jobs are done" in done.stderr
    assert feed.handled() == Counter([*range(300), *[7, 107, 207] * 2])
    entries = {entry["index"]: entry for entry in feed.failures()}
    assert {index: (entry["job"], entry["error"]) for index, entry in entries.items()} == {
        7: (7, "ValueError: no 7"), 107: (107, "ValueError: no 107"), 207: (207, "ValueError: no 207")
    }  # fmt: skip
    assert all(f'File "{feed.file}", line' in entry["traceback"] for entry in entries.values())
    assert [entry["runs"] for entry in entries.values()] == [3, 3, 3]
    again = feed.run("--failed")  # which fail once more
    assert again.returncode == 1
    assert sorted(entry["index"] for entry in feed.failures()) == [7, 107, 207]
    mended.touch()
    last = feed.run("--failed")
    assert (last.returncode, feed.failures()) == (0, [])
    assert feed.handled()[7] == 5
    assert feed.run("--failed").stderr.startswith("nothing is left to do")


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_job_that_kills_its_worker_is_found_and_recorded(feed, foreign, threads):
    feed.write(
        "import os, signal\n"
        "def get_jobs(last=0):\n    yield from range(last, 300)\n"
        "def handle_job(i):\n    note(i)\n"
        "    if i in (100, 222):\n        os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    feed.work("--threads", threads)
    assert feed.run().returncode == 1
    assert {entry["job"] for entry in feed.failures()} == {100, 222}
    assert all("killed by SIGSEGV" in entry["error"] for entry in feed.failures())
    assert feed.handled().keys() == set(range(300))
    assert not foreign.depth("taskqueue_failed")


def test_a_pause_finishes_what_workers_have_and_the_next_start_goes_on_there(feed):
    seen = feed.directory / "seen"
    feed.write(SLOW.format(seen=str(seen)))
    feed.work()
    feeder = feed.start()
    feed.wait_for(50)
    feeder.signal(signal.SIGINT)
    assert feeder.wait() == 130
    assert "not all jobs are done; start it again without --reset to continue" in feeder.output()
    handled = feed.handled()
    assert 50 <= len(handled) < 200
    assert set(handled.values()) == {1}
    saved = feed.saved()["jobs"]
    first = min(set(range(200)) - handled.keys())  # the first unfinished job
    assert (saved["end"], saved["at"], saved["last"]) == (first, first, first)
    assert feed.run().returncode == 0
    assert feed.handled() == Counter(range(200))
    assert seen.read_text().split() == ["0", str(first)]


def test_a_second_signal_ends_at_once_and_loses_nothing(feed):
    gate = feed.directory / "gate"
    feed.write(
        "import os, time\n"
        "def get_jobs():\n    yield from range(100)\n"
        f"def handle_job(i):\n    note(i)\n"
        f"    while not os.path.exists({str(gate)!r}):\n        time.sleep(0.01)\n"
    )
    feed.work()
    feeder = feed.start()
    feed.wait_for(2)
    feeder.signal(signal.SIGINT)
    feeder.wait_for("a second signal ends the feed at once")
    feeder.signal(signal.SIGINT)
    assert feeder.wait(5) == 130
    gate.touch()
    assert feed.run().returncode == 0
    assert feed.handled().keys() == set(range(100))


def test_none_is_a_job_and_a_job_that_is_too_large_is_recorded(feed):
    feed.write(
        "def get_jobs():\n    yield None\n    yield 'x' * 50_000_000\n    yield 2\n"
        "def handle_job(job):\n    note(-1 if job is None else job)\n"
    )
    feed.work()
    done = feed.run("--no-progress")  # the tests' broker takes 16 MiB
    assert done.returncode == 1
    assert feed.handled() == Counter([-1, 2])
    [entry] = feed.failures()
    assert entry["index"] == 1
    assert entry["error"].startswith("the broker refused the message: ")


def test_a_feed_stops_when_too_many_jobs_failed(feed):
    feed.write(
        "def get_jobs():\n    yield from range(100_000)\ndef handle_job(i):\n    note(i)\n    1 / (i - i)\n"
    )
    feed.work()
    done = feed.run("--max-failures", "5")
    assert done.returncode == 3
    assert feed.count() < 50_000
    assert len(feed.failures()) >= 5
    assert feed.saved()["failed"] == len(feed.failures())


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_threads_are_how_many_jobs_a_worker_performs_at_a_time(feed, kind):
    wait = "await asyncio.sleep(0.1)" if kind == "async def" else "time.sleep(0.1)"
    feed.write(
        "import asyncio, time\nrunning = most = 0\n"
        "def get_jobs():\n    yield from range(40)\n"
        f"{kind} handle_job(i):\n    global running, most\n    running += 1\n    most = max(most, running)\n"
        f"    {wait}\n    running -= 1\n    note(most)\n    if i == 39:\n        raise KeyError(i)\n"
    )
    feed.work("--threads", "4", workers=1)
    assert feed.run().returncode == 1
    assert max(feed.handled()) == 4
    assert [entry["error"] for entry in feed.failures()] == ["KeyError: 39"]
    assert "in handle_job" in feed.failures()[0]["traceback"]


def test_the_jobs_that_failed_are_missed_with_a_line_and_nothing_changes(feed):
    feed.write("def get_jobs():\n    yield 1\ndef handle_job(job):\n    raise ValueError('no')\n")
    feed.work()
    assert feed.run().returncode == 1
    (failed,) = feed.directory.glob("*failed*")
    away, before = (
        failed.rename(failed.with_suffix(".away")),
        feed.directory.joinpath("jobs.state").read_bytes(),
    )
    for _ in range(2):
        missing = feed.run("--failed")
        assert missing.returncode == 73
        assert missing.stderr.startswith(f"taskqueue: {failed} with the failed jobs is missing")
        assert missing.stderr.endswith("restore it, or start over with --reset\n")
    assert feed.directory.joinpath("jobs.state").read_bytes() == before
    away.rename(failed)
    assert feed.run("--failed").returncode == 1

"""A feeder and workers as real processes, on jobs that go well and jobs that do not."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from io import FileIO

import pytest
from support.ground import peak_of
from support.processes import children, cli, run_cli
from support.waiting import wait_until

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
NO_OPERATION = """
def get_jobs(last=0, number="0"):
    yield from range(last, int(number))
def handle_job(i):
    pass
"""
SAYING = """
def get_jobs(last=0, number="9"):
    yield from range(last, int(number))
def handle_job(i):
    print("Got", i)
"""
TUPLES = """
def get_jobs():
    yield from [(1, "a"), (2, "b")]
def handle_job(job):
    number, _ = job
    assert type(job) is tuple
    note(number)
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
    assert "not all jobs are done; started again, without --reset, it goes on" in feeder.output()
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
    feeder.wait_for("once more ends at once")
    feeder.signal(signal.SIGINT)
    assert feeder.wait(5) == 130
    gate.touch()
    assert feed.run().returncode == 0
    assert feed.handled().keys() == set(range(100))


def test_an_iterator_that_cannot_be_told_where_to_go_on_is_advanced(feed):
    feed.write("def get_jobs():\n    yield from range(200_000)\ndef handle_job(i):\n    note(i)\n")
    feed.work()
    feeder = feed.start()
    feed.wait_for(50_000)
    feeder.kill()
    assert feed.run().returncode == 0
    handled = feed.handled()
    assert handled.keys() == set(range(200_000))
    assert handled.total() - 200_000 <= 10_000  # what was out


def test_an_iterator_that_raises_half_way_can_be_gone_on_with(feed):
    broken = feed.directory / "broken"
    broken.touch()
    feed.write(
        "import os\n"
        "def get_jobs(last=0):\n    for i in range(last, 100):\n"
        f"        if i == 60 and os.path.exists({str(broken)!r}):\n"
        "            raise OSError('no more rows')\n"
        "        yield i\n"
        "def handle_job(i):\n    note(i)\n"
    )
    feed.work()
    done = feed.run()
    assert done.returncode == 65
    assert "Traceback" in done.stderr
    assert (
        done.stderr.rstrip()
        .splitlines()[-1]
        .startswith("taskqueue: get_jobs raised OSError after 60 jobs: no")
    )
    assert feed.handled() == Counter(range(60))
    broken.unlink()
    assert feed.run().returncode == 0
    assert feed.handled() == Counter(range(100))


def test_an_iterator_that_blocks_keeps_nobody_from_going_on(feed):
    feed.write(
        "import threading\n"
        "def get_jobs():\n    yield from range(10)\n    threading.Event().wait()\n"
        "def handle_job(i):\n    note(i)\n"
    )
    feed.work()
    feeder = feed.start()
    feed.wait_for(10, timeout=10)
    wait_until(lambda: feed.saved()["jobs"]["end"] == 10)
    feeder.signal(signal.SIGINT)
    assert feeder.wait(10) == 130


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
    assert entry["error"].startswith("the broker refuses it: ")


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


# --- jobs that JSON cannot express ---


def test_a_job_that_json_cannot_express_names_the_option_that_can(feed):
    feed.write(TUPLES)
    done = feed.run()
    assert done.returncode == 65
    assert done.stderr.rstrip().splitlines()[-1] == (
        "taskqueue: job (1, 'a') cannot be sent as JSON (it would arrive as [1,\"a\"]); "
        "yield what JSON can express, or use --pickle"
    )
    assert not feed.journal.exists()


def test_pickled_jobs_travel_with_a_key_that_both_sides_have(feed):
    feed.write(TUPLES)
    key = feed.directory / "key"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    feed.work("--pickle", "--key-file", str(key))
    assert feed.run("--pickle", TASKQUEUE_FEED_KEY=key.read_text().strip()).returncode == 0
    assert feed.handled() == Counter([1, 2])


@pytest.mark.parametrize("key", [None, "another key of 32 bytes, or more"])
def test_workers_unpickle_nothing_that_their_key_has_not_signed(feed, key):
    feed.write(
        "import os\n"
        "class Bomb:\n    def __reduce__(self):\n        return note, (1,)\n"
        "def get_jobs():\n    yield Bomb()\n"
        "def handle_job(job):\n    pass\n"
    )
    arguments = [] if key is None else ["--pickle"]
    feed.work(*arguments, TASKQUEUE_FEED_KEY=key or "")
    done = feed.run("--pickle", TASKQUEUE_FEED_KEY="the feeder's key of 16 or more")
    assert done.returncode == 78
    assert (
        done.stderr.rstrip()
        .splitlines()[-1]
        .startswith("taskqueue: the workers cannot read the jobs: pickled")
    )
    assert not feed.journal.exists()


# --- who may feed what ---


def test_two_feeders_do_not_share_a_state_or_workers(feed):
    feeder = feed.start()
    wait_until(feed.state.exists)
    second = feed.run()
    assert second.returncode == 73
    assert f"process {feeder.pid} holds {feed.state}.lock" in second.stderr
    third = feed.run("--state", str(feed.directory / "other.state"))
    assert third.returncode == 73
    assert "another feeder feeds the workers of feed_jobs" in third.stderr


def test_a_state_that_is_another_feeds_or_damaged_is_refused(feed):
    feed.work()
    assert feed.run("number=10").returncode == 0
    other = feed.run("number=11")
    assert other.returncode == 73
    assert "is another feed's: of jobs.py:get_jobs with number=10" in other.stderr
    assert "found jobs.py:get_jobs with number=11" in other.stderr
    feed.state.write_text(feed.state.read_text().replace('"end": 10', '"end": 11'))
    damaged = feed.run("number=10")
    assert damaged.returncode == 73
    assert damaged.stderr.startswith(f"taskqueue: state file {feed.state} is damaged")
    assert feed.count() == 10
    assert feed.run("number=10", "--reset").returncode == 0
    assert feed.count() == 20


def test_a_reset_does_not_remove_what_is_no_state(feed):
    feed.state.write_text("my thesis")
    done = feed.run("--reset")
    assert done.returncode == 73
    assert feed.state.read_text() == "my thesis"


def test_a_state_that_cannot_be_written_is_said_before_anything_is_fed(feed):
    done = feed.run("--state", "/proc/jobs.state")
    assert done.returncode == 73
    assert done.stderr.startswith("taskqueue: state file /proc/jobs.state cannot be written: ")


def test_a_feed_that_did_not_begin_leaves_no_state_that_would_refuse_the_next_try(feed):
    feed.write("def get_jobs(number):\n    return range(int(number))\ndef handle_job(i):\n    note(i)\n")
    done = feed.run()
    assert done.returncode == 65
    assert "get_jobs cannot be called with nothing: missing a required argument: 'number'" in done.stderr
    assert not feed.state.exists()
    feed.work()
    assert feed.run("number=10").returncode == 0
    assert len(feed.handled()) == 10


@pytest.mark.parametrize("command", ["feed", "work"])
def test_a_target_that_does_not_exist_is_told_in_a_line(feed, command):
    for target, said in [
        ("missing.py", "target 'missing.py': there is no file missing.py"),
        ("missing_module", "ModuleNotFoundError: No module named 'missing_module'"),
        (
            f"{feed.file}:nothing",
            f"target {feed.file}:nothing: expected a function 'nothing', it is not there",
        ),
        ("a b", "expected MODULE, FILE.py, MODULE:FUNCTION or FILE.py:FUNCTION"),
    ]:
        done = run_cli(command, target, env=feed.env)
        assert done.returncode == 65
        assert said in done.stderr


# --- watching ---


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


# --- Taskmaster's names ---


def tm(name, *arguments):
    """Return the command line of one of Taskmaster's commands."""
    return [sys.executable, "-c", f"from taskqueue.cli.taskmaster import {name}; {name}()", *arguments]


def test_taskmasters_commands_do_what_they_did(feed, daemon):
    address = ["--address", feed.url]
    slave = daemon(tm("slave", *address, "--no-progress", "--log-level", "INFO", str(feed.file)))
    spawn = daemon(tm("spawn", *address, "--log-level", "INFO", str(feed.file), "2"))
    slave.wait_for("ready: 1 worker in 1 group")
    spawn.wait_for("ready: 2 workers in 1 group")

    def here(*command):
        line = ["env", "-C", str(feed.directory), *command]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    done = here(*tm("master", *address, "--size", "50", "--reset", "jobs.py", "number=600"))
    assert (done.returncode, done.stderr) == (0, "600 jobs done; all jobs are done\n")
    assert feed.handled() == Counter(range(600))
    other = here(*tm("run", *address, "--get-jobs-callback", "get_jobs", "jobs.py", "1", "number=700"))
    assert other.returncode == 73  # there is a state of other arguments
    assert not any(feed.url in line for line in spawn.processes().values())
    old = here(*tm("spawn", "--address", "tcp://0.0.0.0:3050", "jobs.py", "2"))
    assert (old.returncode, old.stderr.count("expected amqp://user:password@host:port/vhost")) == (2, 1)


@pytest.mark.parametrize("name", ["master", "slave", "spawn", "run"])
def test_taskmasters_commands_explain_themselves(name):
    for option in ("-h", "--help"):
        shown = subprocess.run(tm(name, option), capture_output=True, text=True, check=True)
        assert "--address URL" in shown.stdout


@pytest.mark.parametrize("option", ["--threads", "--retries", "--timeout"])
@pytest.mark.parametrize("value", ["-1", "many", "1.5", ""])
def test_a_number_that_is_none_is_refused_by_taskmasters_commands(option, value):
    done = subprocess.run(
        tm("spawn", option, value, "jobs.py", "2"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    (complaint,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert complaint.startswith(f"Error: Invalid value for '{option}': ")
    assert "Traceback" not in done.stderr


def test_taskmasters_slaves_have_a_pool_of_threads_and_its_options_are_taken(feed, daemon):
    threads = feed.directory / "threads"
    feed.write(
        "import threading, time\n"
        "def get_jobs():\n    yield from range(400)\n"
        "def handle_job(job):\n"
        "    time.sleep(0.005)\n"
        f"    with open({str(threads)!r}, 'a') as file: print(threading.get_ident(), file=file)\n"
    )
    options = ["--retries", "3", "--timeout", "2500", "--log-level", "INFO"]
    spawn = daemon(tm("spawn", "--address", feed.url, *options, str(feed.file), "1"))
    spawn.wait_for("ready: 1 worker in 1 group")
    done = feed.run()
    assert (done.returncode, done.stderr) == (0, "400 jobs done; all jobs are done\n")
    idents = Counter(threads.read_text().split())
    assert (len(idents), idents.total()) == (4, 400)


def test_what_handle_job_prints_is_shown_by_taskmasters_run(feed):
    feed.write(SAYING)
    line = ["env", "-C", str(feed.directory), *tm("run", "--address", feed.url, "jobs.py", "2", "number=90")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "90 jobs done; all jobs are done\n")
    assert Counter(done.stdout.splitlines()) == Counter(f"Got {number}" for number in range(90))


def test_what_handle_job_prints_is_shown_by_taskmasters_slave_and_spawn(feed, daemon):
    feed.write(SAYING)
    for name, *number in (("slave",), ("spawn", "1")):
        worker = daemon(tm(name, "--address", feed.url, str(feed.file), *number))
        done = feed.run("--reset", "number=9")
        assert (done.returncode, done.stderr) == (0, "9 jobs done; all jobs are done\n")
        assert worker.stop() == 0
        assert Counter(worker.output().splitlines()) == Counter(f"Got {number}" for number in range(9))


def test_what_a_handle_job_prints_without_end_is_counted_instead(feed):
    feed.write(SAYING.replace("print(", "print('\\n' * 5000, "))
    line = ["env", "-C", str(feed.directory), *tm("run", "--address", feed.url, "jobs.py", "1", "number=1")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert 200 <= len(done.stdout.splitlines()) < 300
    assert re.search(r"^\([0-9]+ lines dropped: more than 100 a second\)$", done.stdout, re.MULTILINE)


def test_what_a_handler_prints_is_logged_where_nobody_asks_for_it(feed):
    feed.write(SAYING)
    work = feed.work(workers=1)
    assert feed.run("number=1").returncode == 0
    work.wait_for("| Got 0")


def test_taskmasters_run_takes_jobs_that_only_pickle_can_express(feed):
    feed.write(TUPLES)
    line = ["env", "-C", str(feed.directory), *tm("run", "--address", feed.url, "--pickle", "jobs.py", "2")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "2 jobs done; all jobs are done\n")
    assert feed.handled() == Counter([1, 2])


# --- iterables of all kinds ---

RAISES = "    def __len__(self): raise TypeError('object of type Jobs has no len()')\n"
LOADS = "    def __len__(self): raise SystemExit('all of it was loaded into memory')\n"
UNCOUNTED = {
    "len raises": ("", RAISES),
    "len loads all": ("", LOADS),
    "a lazy kind of list": ("(list)", LOADS),
    "a lazy kind of dict": ("(dict)", LOADS),
}


@pytest.mark.parametrize("how", UNCOUNTED)
def test_an_iterable_is_not_asked_for_its_length(feed, how):
    base, length = UNCOUNTED[how]
    feed.write(
        f"class Jobs{base}:\n"
        "    def __iter__(self): return iter(range(100))\n"
        f"{length}"
        "def get_jobs():\n    return Jobs()\n"
        "def handle_job(job):\n    note(job)\n"
    )
    feed.work()
    done = feed.run()
    assert (done.returncode, done.stderr) == (0, "100 jobs done; all jobs are done\n")


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
        assert missing.stderr.startswith(f"taskqueue: {failed}, which has the jobs that failed, is not there")
        assert missing.stderr.endswith("put it back, or start over by --reset\n")
    assert feed.directory.joinpath("jobs.state").read_bytes() == before
    away.rename(failed)
    assert feed.run("--failed").returncode == 1


@pytest.mark.parametrize("name", ["migrate-users.py", "2024-users.py"])
def test_a_file_may_have_a_name_that_no_module_has(feed, name):
    feed.write("def get_jobs():\n    yield from (1, 2)\ndef handle_job(job):\n    note(job)\n")
    named = feed.file.rename(feed.file.with_name(name))
    command = ["run", "--amqp", feed.url, str(named), "1"]
    done = run_cli(*command, "--state", str(feed.directory / "state"))
    assert (done.returncode, done.stderr) == (0, "2 jobs done; all jobs are done\n")
    assert feed.handled() == Counter([1, 2])


HANDLE = "def handle_job(job):\n    note(job)\n"
AT_HOME_IN_ONE_THREAD = {
    "a database that is opened when the module is imported": (
        "import sqlite3\n"
        "db = sqlite3.connect(':memory:')\n"
        "db.execute('create table numbers (number integer)')\n"
        "db.executemany('insert into numbers values (?)', [(number,) for number in range(100)])\n"
        "def get_jobs():\n"
        "    for (number,) in db.execute('select number from numbers order by number'):\n"
        "        yield number\n"
    ),
    "signals": (
        "import signal\n"
        "def get_jobs():\n"
        "    signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "    yield from range(100)\n"
    ),
    "a time limit of its own": (
        "import signal, time\n"
        "class TooLate(Exception): pass\n"
        "def too_late(*_): raise TooLate\n"
        "def get_jobs():\n"
        "    signal.signal(signal.SIGALRM, too_late)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    except TooLate:\n"
        "        yield from range(100)\n"
    ),
    "an event loop": (
        "import asyncio\n"
        "async def numbers():\n"
        "    for number in range(100):\n"
        "        await asyncio.sleep(0)\n"
        "        yield number\n"
        "def get_jobs():\n"
        "    with asyncio.Runner() as runner:\n"
        "        numbering = numbers()\n"
        "        for _ in range(100):\n"
        "            yield runner.run(anext(numbering))\n"
    ),
}


@pytest.mark.parametrize("what", AT_HOME_IN_ONE_THREAD)
def test_jobs_may_come_from_what_lives_in_one_thread(feed, what):
    feed.write(AT_HOME_IN_ONE_THREAD[what] + HANDLE)
    feed.work()
    done = feed.run()
    assert (done.returncode, done.stderr) == (0, "100 jobs done; all jobs are done\n")
    assert feed.handled() == Counter(range(100))


def test_an_iterator_that_waits_at_the_end_may_clean_up(feed):
    cleaned = feed.directory / "cleaned"
    feed.write(
        "import pathlib, threading\n"
        "def get_jobs():\n"
        "    try:\n"
        "        yield from range(10)\n"
        "        threading.Event().wait()\n"
        "    finally:\n"
        f"        pathlib.Path({str(cleaned)!r}).touch()\n" + HANDLE
    )
    feed.work()
    feeder = feed.start()
    feed.wait_for(10)
    feeder.signal(signal.SIGINT)
    assert feeder.wait() == 130
    assert cleaned.exists()


def test_an_iterator_that_heeds_nothing_is_left_alone_and_the_feed_ends(feed):
    feed.write(
        "import signal, threading\n"
        "def get_jobs():\n"
        "    yield from range(10)\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "    threading.Event().wait()\n" + HANDLE
    )
    feed.work()
    feeder = feed.start()
    feed.wait_for(10)
    feeder.signal(signal.SIGINT)
    assert feeder.wait() == 130
    assert feeder.output().endswith(
        "10 jobs done; not all jobs are done; started again, without --reset, it goes on\n"
    )

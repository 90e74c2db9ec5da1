"""Iterators that a feed draws its jobs from: any kind of iterable, in the thread that it needs."""

import signal
from collections import Counter

import pytest
from support.processes import run_cli
from support.waiting import wait_until


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
        "10 jobs done; not all jobs are done; start it again without --reset to continue\n"
    )

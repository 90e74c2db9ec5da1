"""Taskmaster's names for the commands."""

import re
import subprocess
import sys
from collections import Counter

import pytest
from support.feeds import TUPLES

SAYING = """
def get_jobs(last=0, number="9"):
    yield from range(last, int(number))
def handle_job(i):
    print("Got", i)
"""


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

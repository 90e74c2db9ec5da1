"""`taskqueue run` on a broker of its own, while whatever it consists of is killed."""

import re
from pathlib import Path

import pytest
from support.feeds import Feed
from support.processes import cli, command, kill, run_cli, tree
from support.waiting import wait_until

JOBS = 800_000  # so many that none of the kills comes after the last
README = Path(__file__).parents[2] / "README.md"
EXAMPLE = re.search(r"```python\n# example.py\n(.*?)```", README.read_text(), re.DOTALL)[1]


@pytest.fixture
def feed(rabbitmq, tmp_path, daemon):
    """A feed without a broker."""
    made = Feed(tmp_path, "", daemon)
    jobs = EXAMPLE.replace("100_000_000", str(JOBS)).replace("    ...", "    note(i)")
    made.write(jobs)
    return made


def start(feed, daemon):
    here = ["env", "-C", str(feed.directory)]
    env = {"XDG_STATE_HOME": str(feed.directory)}
    return daemon([*here, *cli("run", "jobs.py", "2")], env)


def running(runner, what):
    """Return the process of what runs whose command line has `what` in it."""
    return wait_until(lambda: [pid for pid in tree(runner.pid) if what in command(pid)], 30, what)[0]


@pytest.mark.timeout(180)
def test_a_run_survives_the_death_of_each_of_its_processes_and_its_own(feed, daemon):
    runner = start(feed, daemon)
    for number, victim in enumerate(["taskqueue feed", "taskqueue work", "beam.smp"], 1):
        feed.wait_for(number * 50_000)
        kill(running(runner, victim))
    feed.wait_for(300_000)
    runner.kill()
    runner.assert_nothing_left()
    runner = start(feed, daemon)
    assert runner.wait(90) == 0, runner.output()
    runner.assert_nothing_left()
    handled = feed.handled()
    assert set(range(JOBS)) - handled.keys() == set()
    assert handled.total() - JOBS <= 4 * 10_000  # what was out
    assert not list((feed.directory / "taskqueue" / "feeds").iterdir())


def test_a_function_in_the_target_of_a_run_is_told_where_to_go(feed):
    done = run_cli("run", "jobs.py:get_jobs", "2")
    assert done.returncode == 2
    assert "TARGET is MODULE or FILE.py; --get-jobs-callback and" in done.stderr

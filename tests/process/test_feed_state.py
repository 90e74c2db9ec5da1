"""The rights of a feed, its target and its state file."""

import pytest
from support.processes import run_cli
from support.waiting import wait_until


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
    assert "belongs to another feed: jobs.py:get_jobs with number=10" in other.stderr
    assert "this feed is jobs.py:get_jobs with number=11" in other.stderr
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
        ("missing.py", "target 'missing.py': file missing.py does not exist"),
        ("missing_module", "ModuleNotFoundError: No module named 'missing_module'"),
        (
            f"{feed.file}:nothing",
            f"target {feed.file}:nothing: expected a function 'nothing', not found",
        ),
        ("a b", "expected MODULE, FILE.py, MODULE:FUNCTION or FILE.py:FUNCTION"),
    ]:
        done = run_cli(command, target, env=feed.env)
        assert done.returncode == 65
        assert said in done.stderr

"""Jobs that JSON cannot express."""

from collections import Counter

import pytest
from support.feeds import TUPLES


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


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "the jobs are pickled: start the workers with --pickle and the feeder's key"),
        ("another key of 32 bytes, or more", "pickled jobs that were not signed with this key"),
    ],
)
def test_workers_unpickle_nothing_that_their_key_has_not_signed(feed, key, reason):
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
        .startswith(f"taskqueue: the workers cannot read the jobs: {reason}")
    )
    assert not feed.journal.exists()

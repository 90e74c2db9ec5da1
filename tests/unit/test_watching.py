import json

import pytest

from taskqueue.cli.feed import Rate, describe, watching
from taskqueue.errors import ConfigError
from taskqueue.feed.feeder import FeedProgress


def progress(done=0, elapsed=0.0, total=None, state="feeding"):
    return FeedProgress(state, done, 2, total, 300, 4, 50, elapsed, 0)


def test_a_line_tells_everything_and_the_time_left_where_the_total_is_known():
    assert describe(progress(1500), 100.0) == "feeding: 1,500, 100/s, 300 in flight, 2 failed, 4 workers"
    assert describe(progress(1500, total=6000), 1.0) == (
        "feeding: 1,500 of 6,000 (25.0%), 1:15:00 left, 1/s, 300 in flight, 2 failed, 4 workers"
    )
    assert "left" not in describe(progress(6000, total=6000), 1.0)


def test_the_rate_is_that_of_the_last_seconds():
    rate = Rate()
    assert rate.note(progress(0, 0.0)) == 0
    assert rate.note(progress(100, 1.0)) == 100
    for second in range(2, 30):
        found = rate.note(progress(100 + 10 * (second - 1), float(second)))
    assert found == pytest.approx(10)


def test_where_there_is_no_terminal_nothing_is_written_over(tmp_path, capsys):
    with watching(str(tmp_path / "p"), is_shown=True) as (watch, say):
        watch(progress(1, 0.5))
        watch(progress(2, 0.6))
        watch(progress(3, 0.7, state="finished"))
        say("the end")
    assert capsys.readouterr().err == "the end\n"
    lines = [json.loads(line) for line in (tmp_path / "p").read_text().splitlines()]
    assert [(line["state"], line["done"]) for line in lines] == [("feeding", 1), ("finished", 3)]


def test_a_progress_file_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ConfigError, match="Is a directory"), watching(str(tmp_path), is_shown=False):
        pass

"""The time line of a workitem."""

from taskqueue.monitor.record import Details, Run, Workitem
from taskqueue.monitor.web.plain import time_line

ITEM = Workitem("a", "thumbs", "failed", queued=1.0)


def run(attempt, outcome, started):
    return Run(attempt, outcome, started, started + 1, "host", "w1")


def words(*runs):
    return [moment["what"] for moment in time_line(Details(ITEM, runs))]


def test_a_retry_of_a_dead_letter_is_told_before_its_run():
    told = time_line(Details(ITEM, (run(1, "failed", 2.0), run(2, "failed", 4.0), run(1, "succeeded", 8.0))))
    assert [(moment["at"], moment["what"]) for moment in told] == [
        (1.0, "queued"), (2.0, "started"), (3.0, "failed"), (4.0, "started"), (5.0, "failed"),
        (8.0, "came again"), (8.0, "started"), (9.0, "succeeded"),
    ]  # fmt: skip
    assert words(run(1, "crashed", 2.0), run(1, "failed", 4.0)).count("came again") == 1


def test_a_retry_a_lost_run_and_a_second_delivery_are_none():
    for first, second in (("failed", 2), ("lost", 1), ("succeeded", 1)):
        assert "came again" not in words(run(1, first, 2.0), run(second, "succeeded", 4.0))


def test_what_came_again_and_was_settled_without_a_run_is_told_at_that_time():
    again = Run(1, "failed", None, 9.0, "host", "", error="WorkitemExpired")
    (moment,) = [
        each
        for each in time_line(Details(ITEM, (run(1, "failed", 2.0), again)))
        if each["what"] == "came again"
    ]
    assert moment["at"] == 9.0

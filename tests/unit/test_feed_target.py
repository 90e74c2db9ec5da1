"""The user's code of a feed, and the jobs that it yields."""

import sys
import threading

import pytest
from support.waiting import wait_until

from taskqueue.errors import (
    TargetError,
)
from taskqueue.feed.target import JobSource, Target, call, skip, takes_last, worker_type


def test_a_target_is_a_module_or_a_file_with_a_function_or_without(tmp_path, monkeypatch):
    (tmp_path / "trial_jobs.py").write_text(
        "def get_jobs(last=0): yield 'jobs'\ndef other(): yield 'other'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    targets = {"trial_jobs": "jobs", "trial_jobs.py": "jobs"}
    targets |= {"./trial_jobs.py:other": "other", "trial_jobs:other": "other"}
    for text, yields in targets.items():
        target = Target.parse(text, "get_jobs")
        assert list(target.load()()) == [yields]
        assert worker_type(target.module) == "feed_trial_jobs"
    del sys.modules["trial_jobs"]


def test_a_file_with_the_name_of_a_module_in_use_is_refused(tmp_path):
    (tmp_path / "json.py").write_text("")
    with pytest.raises(TargetError, match="a module 'json' is already imported"):
        Target.parse(str(tmp_path / "json.py"), "get_jobs").load()


def test_only_a_parameter_of_that_name_takes_last():
    assert takes_last(lambda last=0: last)
    assert takes_last(lambda *, last: last)
    assert not takes_last(lambda **others: others)
    assert not takes_last(lambda first: first)
    assert not takes_last(range)


def test_arguments_and_jobs_that_do_not_fit_are_told():
    with pytest.raises(
        TargetError, match="get_jobs cannot be called with a, b: missing a required argument: 'c'"
    ):
        call(lambda a, b, c: (a, b, c), {"a": "1", "b": "2"})
    with pytest.raises(TargetError, match="get_jobs returned a int, expected an iterable"):
        call(lambda: 5, {})


def drain(source, number):
    found = []
    wait_until(lambda: found.extend(source.take(50, 20)) or len(found) >= number or source.is_empty)
    return found


def in_thread(function):
    threading.Thread(target=function, daemon=True).start()


def test_jobs_come_in_order_and_no_more_are_drawn_than_wanted():
    stock = []  # how many jobs are in stock, each time that one is drawn

    def jobs(first):
        for number in range(first, 400):
            stock.append(len(source))
            yield number

    source = JobSource(lambda first: (jobs(first), None), in_thread)
    source.start(3, 20)
    wait_until(lambda: len(source) >= 20)
    assert drain(source, 397) == list(range(3, 400))
    assert max(stock) <= 22
    source.close()


def test_what_the_iterator_raises_is_kept_for_who_asks():
    def jobs():
        yield 1
        raise KeyError("gone")

    source = JobSource(lambda _: (jobs(), 2), in_thread)
    source.start(0, 10)
    assert drain(source, 2) == [1]
    assert (repr(source.error), source.total, source.is_empty) == ("KeyError('gone')", 2, True)


def test_jobs_can_be_taken_while_the_next_one_is_waited_for():
    gate = threading.Event()

    def jobs():
        yield from range(5)
        gate.wait()

    source = JobSource(lambda _: (jobs(), None), in_thread)
    source.start(0, 100)
    assert drain(source, 5) == [0, 1, 2, 3, 4]
    assert not source.has_ended
    gate.set()
    wait_until(lambda: source.is_empty)


def test_skipping_leaves_out_the_first_ones():
    assert list(skip(range(5), 0)) == [0, 1, 2, 3, 4]
    assert list(skip(iter(range(5)), 3)) == [3, 4]

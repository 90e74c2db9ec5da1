"""The schedules that plugins and tasks declare, and their way to the consumer."""

import json

import pytest
from support.documentation import example

from taskqueue.calls.task import task
from taskqueue.errors import PluginError, TaskError
from taskqueue.schedules.definition import Definition
from taskqueue.worker.frames import FrameError, FrameReader, Service, ready, services_of
from taskqueue.worker.scheduled import with_schedules


def test_the_schedules_of_a_plugin_are_for_its_worker_type():
    names = {}
    exec(example("docs/scheduling.md", "from taskqueue import BaseWorker"), names)
    (service,) = with_schedules((), "report", names["Report"].SCHEDULES)
    (schedule,) = service.schedules
    assert (schedule.name, schedule.worker_type, schedule.body) == ("weekly-report", "report", '{"days": 7}')
    assert schedule.overlap is False


def test_a_plugin_without_schedules_serves_what_it_did():
    assert with_schedules((), "report", ()) == ()
    tasks = (Service("a", 1.0, 2), Service("b"))
    assert with_schedules(tasks, "tasks", ()) == tasks


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"name": "a"}, "schedule 'a': expected either cron or every, found neither"),
        ({"cron": "@daily"}, "a schedule needs a name"),
        ({"name": "a", "cron": "* * *"}, "'* * *' has 3 fields"),
        (
            {"name": "a", "every": 5, "worker_type": "other"},
            "a schedule of report has 'worker_type'; known are",
        ),
        ({"name": "a", "every": 5, "body": {1, 2}}, "the body of a schedule of report is no JSON"),
        (7, "a schedule of report is a int, expected a dict"),
    ],
)
def test_a_plugin_with_a_wrong_schedule_does_not_start(declared, reason):
    with pytest.raises(PluginError) as refused:
        with_schedules((), "report", [declared])
    assert str(refused.value).startswith("SCHEDULES of plugin 'report': ")
    assert reason in str(refused.value)


def test_a_plugin_has_a_bounded_number_of_schedules():
    declared = [{"name": f"s{number}", "every": 5} for number in range(101)]
    assert len(with_schedules((), "report", declared[:100])[0].schedules) == 100
    with pytest.raises(PluginError, match="more than 100 schedules, or 128 KiB"):
        with_schedules((), "report", declared)
    with pytest.raises(PluginError, match="more than 100 schedules, or 128 KiB"):
        with_schedules((), "report", [each | {"body": "x" * 60_000} for each in declared[:3]])


def test_a_task_has_a_schedule_of_its_own_name():
    @task(cron="30 3 * * *", name="nightly.tidy")
    def tidy():
        pass

    @task(every=90)
    def poll():
        pass

    @task
    def plain():
        pass

    assert tidy.schedules[0].when.startswith("30 3 * * * (")
    assert tidy.schedules[0].name == tidy.schedules[0].worker_type == "nightly.tidy"
    assert poll.schedules == (Definition("poll", "poll", every=90, body="[]"),)
    assert plain.schedules == ()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"cron": "0 0 30 2 *"}, "never occurs"),
        ({"every": 0.1}, "every: expected a second or more, found 0.1"),
        ({"every": "1m"}, "schedule 'wrongly': every: expected a number of seconds"),
        ({"cron": "@daily", "every": 5}, "expected either cron or every, found both"),
    ],
)
def test_a_task_with_wrong_times_is_refused_where_it_is_declared(wrong, reason):
    with pytest.raises(TaskError, match=reason):

        @task(**wrong)
        def wrongly():
            pass


def test_a_task_with_a_schedule_needs_no_arguments():
    with pytest.raises(
        TaskError, match=r"add\(a, b=1\): missing .* 'a': a schedule calls it without arguments"
    ):

        @task(every=5)
        def add(a, b=1):
            pass

    @task(every=5)
    def poll(a=1):
        pass

    assert poll.schedules


def test_schedules_pass_from_a_worker_to_its_consumer():
    services = (Service("a", schedules=(Definition("one", "a", every=5.0),)), Service("b", 1.0))
    [(_, payload)] = FrameReader().feed(ready(services))
    assert services_of(payload) == services


def test_a_worker_cannot_schedule_what_is_not_its_own():
    foreign = Definition("one", "other", every=5.0).as_json()
    (service,) = services_of(json.dumps([["a", None, None, [foreign]]]).encode())
    assert service.schedules[0].worker_type == "a"


@pytest.mark.parametrize(
    "schedules", [7, [7], [{}], [{"name": "a"}], [{"name": "a", "every": "x"}], "abc", {"a": 1}]
)
def test_impossible_schedules_of_a_worker_are_refused(schedules):
    with pytest.raises(FrameError):
        services_of(json.dumps([["a", None, None, schedules]]).encode())

"""A task: which arguments fit its signature, and what it may be given."""

import pytest

from taskqueue.calls.task import Task, task
from taskqueue.calls.task_worker import TaskWorker
from taskqueue.errors import BadArguments, InvalidRequest, PluginError, TaskError


def none(): ...
def two(a, b): ...
def some(a, b=1, /, c=2): ...
def many(a, *rest): ...
def any_at_all(*rest, **more): ...
def named(a, *, b): ...
def optional(a, *, b=1, **more): ...


ARGUMENTS = [((1,) * number, named) for number in range(5) for named in ({}, {"b": 1}, {"c": 1})]


@pytest.mark.parametrize("function", [none, two, some, many, any_at_all, named, optional])
def test_what_fits_is_what_python_takes(function):
    task = Task(function, "any", None, None)
    for args, kwargs in ARGUMENTS:
        fits = succeeds(TypeError, function, *args, **kwargs)
        assert succeeds(BadArguments, task.check, args, kwargs) == fits, (args, kwargs)


def succeeds(error, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except error:
        return False
    return True


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"timeout": float("nan")}, "timeout=nan: expected seconds, from 0 to 315576000"),
        ({"timeout": float("inf")}, "timeout=inf: "),
        ({"timeout": 1e12}, "timeout=1000000000000.0: "),
        ({"timeout": -1}, "timeout=-1: "),
        ({"timeout": "30"}, "timeout='30': "),
        ({"timeout": True}, "timeout=True: "),
        ({"retries": -1}, "retries=-1: expected a whole number from 0 to 1000000"),
        ({"retries": 1.5}, "retries=1.5: "),
        ({"retries": 10**9}, "retries=1000000000: "),
        ({"retries": float("inf")}, "retries=inf: "),
    ],
)
def test_a_task_with_an_impossible_number_is_refused_where_it_is_defined(numbers, complaint):
    with pytest.raises(TaskError, match=f"^{complaint}"):
        task(**numbers)


def test_a_worker_serves_as_many_tasks_as_a_connection_has_channels_for():
    tasks = [Task(none, f"task{number}", None, None) for number in range(1001)]
    assert len(TaskWorker(tasks[:1000]).services) == 1000
    with pytest.raises(PluginError, match="1001 tasks; a worker serves at most 1000"):
        TaskWorker(tasks)


def test_a_batch_of_too_many_requests_is_refused_as_a_whole():
    batch = [{"jsonrpc": "2.0", "method": "none", "id": number} for number in range(1001)]
    worker = TaskWorker([Task(none, "none", None, None)])
    assert len(worker.handle_task(batch[:1000]).responses) == 1000
    with pytest.raises(InvalidRequest, match="a batch has at most 1000 requests"):
        worker.handle_task(batch)

"""A task's signature: which arguments fit it."""

import pytest

from taskqueue.errors import BadArguments
from taskqueue.rpc.task import Task


def none(): ...
def two(a, b): ...
def some(a, b=1, /, c=2): ...
def many(a, *rest): ...
def any_at_all(*rest, **more): ...
def named(a, *, b): ...
def optional(a, *, b=1, **more): ...


ARGUMENTS = [((1,) * number, named) for number in range(5) for named in ({}, {"b": 1}, {"c": 1})]


@pytest.mark.parametrize("function", [none, two, some, many, any_at_all, named, optional])
@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS)
def test_what_fits_is_what_python_takes(function, args, kwargs):
    task = Task(function, "any", None, None)
    try:
        function(*args, **kwargs)
    except TypeError:
        with pytest.raises(BadArguments):
            task.check(args, kwargs)
    else:
        task.check(args, kwargs)

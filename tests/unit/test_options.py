"""The options of submissions: which are valid, which count, and how messages express them."""

import re
from functools import partial

import pytest

from taskqueue import Client, task
from taskqueue.amqp.properties import Properties
from taskqueue.errors import TaskError
from taskqueue.messages.options import NONE, Options
from taskqueue.testing import Bench

RAW = Properties(type="digest", priority=None).encode()


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        ({"priority": 10}, "priority=10: expected a whole number from 0 to 9"),
        ({"priority": True}, "priority=True: expected a whole number from 0 to 9"),
        ({"tenant": "x" * 101}, "expected a text of at most 100 characters"),
        ({"tenant": "\udcff"}, r"tenant='\udcff': expected a text of at most 100 characters"),
        (
            {"tags": "one"},
            "tags='one': expected a list of words without blanks, together at most 500 characters",
        ),
        ({"tags": 5}, "tags=5: expected a list of words without blanks"),
        ({"tags": ["two words"]}, "expected a list of words without blanks"),
        ({"tags": [""]}, "expected a list of words without blanks"),
        ({"tags": ["x" * 501]}, "together at most 500 characters"),
        ({"delay": -1}, "delay=-1: expected seconds, from 0 to 315576000"),
        ({"delay": float("nan")}, "delay=nan: expected seconds"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(asked, fault):
    with pytest.raises(ValueError, match=re.escape(fault)) as caught:
        Options.checked(**asked)
    assert "\n" not in str(caught.value)
    with pytest.raises(TaskError):
        task(name="add", **asked)


@pytest.mark.parametrize(
    ("takes", "known"),
    [
        (task(name="add")(abs).options, "priority, tags, tenant"),
        (task, "name, priority, retries, tags, tenant"),
        (
            partial(Client, "amqp://localhost"),
            "amqp, broker_timeout, config, delay, direct, priority",
        ),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest_one_or_with_all(takes, known):
    with pytest.raises(TypeError, match="there is no option 'uniqe'; the nearest one is 'unique'"):
        takes(uniqe="key")
    with pytest.raises(TypeError, match="there is no option 'xyz'; known are ") as caught:
        takes(xyz=1)
    listed = str(caught.value).partition("known are ")[2].split(", ")
    assert set(known.split(", ")) <= set(listed)


def test_an_option_that_is_not_set_is_that_of_the_defaults():
    defaults = Options.checked(priority=3, tenant="acme", delay=5)
    asked = Options.checked(priority=0, tags=["a", "b"])
    assert asked.over(defaults) == Options(0, "acme", ("a", "b"), 5)
    assert NONE.over(defaults) == defaults


def test_options_are_properties_and_headers_of_the_message():
    options = Options.checked(priority=7, tenant="acme", tags=("a", "b"), delay=2)
    properties = Properties.decode(options.marked(RAW, now=1000.0))
    assert (properties.type, properties.priority) == ("digest", 7)
    assert properties.headers == {
        "x-taskqueue-due": 1002.0,
        "x-taskqueue-wait": 2.0,
        "x-taskqueue-tenant": "acme",
        "x-taskqueue-labels": "a b",
    }
    assert NONE.marked(RAW) == RAW


@task(name="add", priority=2, tenant="of the task")
def add(a, b):
    return a + b


def test_the_options_of_a_call_are_those_of_its_client_else_of_its_task():
    with Bench(add) as bench:
        client = bench.async_client.options(tenant="of the client", tags=["x"])
        client.submit(add, 1, 2)
        client.options(priority=9).submit(add.options(delay=60), 1, 2)
        client.add(1, 2)
        list(client.map(add, []))
        sent = [each.properties for each in bench._messages]
    assert [each.priority for each in sent] == [2, 9, None]
    assert {each.headers["x-taskqueue-tenant"] for each in sent} == {"of the client"}
    assert ["x-taskqueue-due" in each.headers for each in sent] == [False, True, False]
    assert add.defaults.delay is None
    assert add(1, 2) == 3


def test_a_delayed_call_runs_when_it_is_due():
    with Bench(add) as bench:
        call = bench.async_client.options(delay=60).add(1, 2)
        bench.run()
        assert not call.done()
        bench.advance(60)
        bench.run()
        assert call.result() == 3

"""The parameters of the monitor's API: what is accepted, and what a refusal says."""

import pytest

from taskqueue.messages.states import SHOWN
from taskqueue.monitor.record import Filter
from taskqueue.monitor.web.api import ActionRequest, action_of
from taskqueue.monitor.web.parameters import (
    FILTER,
    MOST_IDS,
    PAGE,
    BadRequest,
    filter_of,
    filter_of_json,
    json_of,
    read,
)

EVERYTHING = {
    "state": ["failed", "lost"],
    "type": ["digest"],
    "tenant": ["north"],
    "label": ["nightly"],
    "host": ["host1"],
    "since": ["1000"],
    "until": ["1970-01-01T01:00:00+00:00"],
    "id": ["abc"],
    "error": ["disk full"],
    "body": ["invoice"],
}
MEANT = Filter(
    states=frozenset(("failed", "lost")),
    worker_types=frozenset(("digest",)),
    tenants=frozenset(("north",)),
    label="nightly",
    host="host1",
    since=1000.0,
    until=3600.0,
    id_prefix="abc",
    error_text="disk full",
    body_text="invoice",
)


def test_a_query_has_all_conditions_of_a_filter():
    assert filter_of(read((*FILTER, *PAGE), EVERYTHING | {"limit": ["7"], "cursor": ["12"]})) == MEANT
    assert filter_of(read(FILTER, {})) == Filter()


def test_json_has_them_too_and_back():
    assert filter_of_json(json_of(MEANT)) == MEANT
    assert json_of(Filter()) == {}
    assert filter_of_json({"state": "failed", "since": 1000}) == Filter(frozenset(("failed",)), since=1000.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stat": ["failed"]}, "parameter 'stat': unknown; expected one of state, type, tenant"),
        ({"state": ["done"]}, "parameter state: expected one of queued, scheduled"),
        ({"state": ["failed", "done"]}, "found 'done'"),
        ({"type": ["a b"]}, "parameter type: expected a worker type"),
        ({"type": ["../x"]}, "parameter type: expected a worker type"),
        ({"label": [""]}, "parameter label: expected 1 to 255 printable characters"),
        ({"label": ["x" * 256]}, "parameter label: expected 1 to 255 printable characters"),
        ({"label": ["a\0"]}, r"printable characters, found 'a\\x00'"),
        ({"label": ["a", "b"]}, "parameter label: expected at most 1 value, found 2"),
        ({"tenant": ["a"] * 101}, "parameter tenant: expected at most 100 values, found 101"),
        (
            {"since": ["yesterday"]},
            "parameter since: expected 30m, 2h or 7d ago, seconds since 1970, or",
        ),
        ({"since": ["nan"]}, "parameter since: expected 30m"),
        ({"since": ["1e300"]}, "parameter since: expected 30m"),
        ({"since": ["-1"]}, "parameter since: expected 30m"),
        ({"since": ["20"], "until": ["10"]}, "parameter since: expected a time that is not after until"),
        ({"cursor": ["x"]}, "parameter cursor: expected `next` of the page before, found 'x'"),
        ({"cursor": ["9" * 19]}, "parameter cursor: expected `next`"),
        ({"cursor": ["-1"]}, "parameter cursor: expected `next`"),
        ({"limit": ["0"]}, "parameter limit: expected a whole number from 1 to 1000, found '0'"),
        ({"limit": ["1001"]}, "parameter limit: expected a whole number from 1 to 1000"),
        ({"limit": ["1_0"]}, "parameter limit: expected a whole number"),
        ({"limit": ["٣"]}, "parameter limit: expected a whole number"),
        ({"limit": ["9" * 5000]}, "parameter limit: expected a whole number"),
        ({"\x1b[31m": ["x"]}, r"parameter '\\x1b\[31m': unknown"),
    ],
)
def test_what_is_not_accepted_is_named_with_what_was_expected(given, said):
    with pytest.raises(BadRequest, match=said) as caught:
        filter_of(read((*FILTER, *PAGE), given))
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_a_request_without_parameters_takes_none():
    with pytest.raises(BadRequest, match="parameter 'x': unknown; expected none"):
        read((), {"x": ["1"]})


def test_the_states_are_those_of_the_events():
    assert filter_of(read(FILTER, {"state": list(SHOWN)})).states == set(SHOWN)


def test_an_action_is_about_ids_or_a_filter():
    assert action_of("retry", {"ids": ["a", "b", "a"]}) == ActionRequest("retry", ("a", "b"))
    assert action_of("cancel", {"ids": ["a"], "tenant": "north"}) == ActionRequest(
        "cancel", ("a",), tenant="north"
    )
    assert action_of("purge", {"filter": {"type": "digest"}, "dry_run": True}) == ActionRequest(
        "purge", (), Filter(worker_types=frozenset(("digest",))), dry_run=True
    )


@pytest.mark.parametrize(
    ("action", "body", "said"),
    [
        ("drop", {"ids": ["a"]}, "expected one of retry, cancel, purge"),
        ("retry", [], "expected a JSON object"),
        ("retry", None, "expected a JSON object"),
        ("retry", {}, 'expected one of "ids" and "filter"'),
        ("retry", {"ids": ["a"], "filter": {}}, 'expected one of "ids" and "filter"'),
        ("retry", {"ids": ["a"], "force": True}, "expected ids, tenant, filter and dry_run, found 'force'"),
        ("retry", {"ids": []}, "expected a list of ids, found an empty list"),
        ("retry", {"ids": "a"}, "expected a list of ids, found a text"),
        ("retry", {"ids": [1]}, "expected texts"),
        ("retry", {"ids": ["x" * 256]}, "expected texts of 1 to 255 characters"),
        ("retry", {"ids": ["x"] * (MOST_IDS + 1)}, "expected at most 1000"),
        ("cancel", {"ids": ["a"], "tenant": 1}, "tenant: expected a text"),
        ("cancel", {"filter": {}, "tenant": "north"}, "a filter has its own"),
        ("retry", {"ids": ["a"], "dry_run": 1}, "dry_run: expected true or false"),
        ("retry", {"filter": []}, "filter: expected an object, found an empty list"),
        ("retry", {"filter": {"state": {}}}, "expected a text or a list of texts, found an object"),
        ("retry", {"filter": {"state": [None]}}, "found null"),
        ("retry", {"filter": {"state": True}}, "found true or false"),
        ("retry", {"filter": {"limit": 1}}, "parameter 'limit': unknown"),
    ],
)
def test_an_action_that_is_not_accepted_is_named_with_what_was_expected(action, body, said):
    with pytest.raises(BadRequest, match=said):
        action_of(action, body)

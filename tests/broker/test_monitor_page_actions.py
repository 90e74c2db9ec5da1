"""Actions by the monitor's pages, without a script, on real dead letters: the question, then the action."""

import hashlib
import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.deadletters import keep, left
from support.desk import Desk, desk_over_letters
from support.foreign import Foreign
from support.forked import Forked
from support.processes import Daemon
from support.web import Answer, Browser, Web

PASSWORD = "correct horse"


@pytest.fixture
def desk(tmp_path: Path, forked: Callable[..., Forked], amqp_url: str, foreign: Foreign) -> Desk:
    return desk_over_letters(tmp_path / "record", forked, amqp_url, foreign)


@pytest.fixture
def eve(desk: Desk, daemon: Callable[[list[str]], Daemon]) -> Browser:
    browser = Browser(Web(daemon, desk.directory))
    browser.log_in("eve", PASSWORD)
    return browser


def fields_of(answer: Answer) -> dict[str, list[str]]:
    """Return the hidden fields of a question."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"/?>', answer.text):
        found.setdefault(name, []).append(value.replace("&amp;", "&"))
    return found


def test_the_selected_are_counted_asked_for_and_sent_back(desk: Desk, eve: Browser, foreign: Foreign) -> None:
    page = eve.get("/workitems?state=failed")
    back = "/workitems?state=failed"
    question = eve.post("/actions", {"action": "retry", "id": ["a", "g"], "back": back}, on=page)
    assert "Retry 1 workitem?" in question.text, "the other one has not failed"
    assert desk.audit() == [], "a question does nothing"
    done = eve.send("/actions", {**fields_of(question), "action": "retry"})
    assert "1 workitem sent back" in done.text
    assert 'href="/workitems?state=failed"' in done.text
    assert left(foreign, 2) == ["b", "c"]
    (row,) = desk.audit()
    assert (row.user, row.action, json.loads(row.filter)) == ("eve", "retry", {"ids": ["a", "g"]})


def test_all_that_match_are_counted_asked_for_and_purged(desk: Desk, eve: Browser, foreign: Foreign) -> None:
    wanted = {"action": "purge", "which": "all", "filter": "type=digest&error=ValueError", "id": "c"}
    question = eve.post("/actions", wanted, on="/workitems")
    assert "Purge 2 workitems?" in question.text
    done = eve.send("/actions", {**fields_of(question), "action": "purge"})
    assert "2 workitems removed for good" in done.text
    assert left(foreign, 1) == ["c"]
    (row,) = desk.audit()
    assert json.loads(row.filter) == {"type": ["digest"], "error": "ValueError"}


def test_a_question_about_nothing_has_no_button(eve: Browser) -> None:
    question = eve.post("/actions", {"action": "cancel", "id": "g"}, on="/workitems")
    assert "All of them are over" in question.text
    assert 'name="confirmed"' not in question.text


def test_a_button_is_no_right(desk: Desk, eve: Browser, foreign: Foreign) -> None:
    bob = Browser(eve.web)
    bob.log_in("bob", PASSWORD)
    answer = bob.post("/actions", {"action": "retry", "id": "a", "confirmed": "yes"}, on="/")
    assert answer.status == 403
    assert left(foreign, 3) == ["a", "b", "c"]
    assert desk.audit() == []


# --- another body ---


@pytest.fixture
def dora(desk: Desk, daemon: Callable[[list[str]], Daemon]) -> Browser:
    """An operator who may see bodies."""
    browser = Browser(Web(daemon, desk.directory))
    browser.log_in("dora", PASSWORD)
    return browser


def test_a_body_is_downloaded_as_the_broker_has_it(dora: Browser, foreign: Foreign) -> None:
    answer = dora.get("/workitems/a/body")
    assert (answer.status, answer.body) == (200, b"1")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert left(foreign, 3) == ["a", "b", "c"]


def test_headers_are_shown_as_the_broker_has_them(dora: Browser, eve: Browser, foreign: Foreign) -> None:
    foreign.collect("taskqueue_failed", 3)
    keep(foreign, "a", tenant="north", content_type="text/<b>", correlation_id="x" * 200)
    page = dora.get("/workitems/a/message")
    rows = re.findall(r'<th scope="row">([^<]+)</th><td class="text">([^<]*)</td>', page.text)
    shown = {name: html.unescape(value) for name, value in rows}  # no "<" is left in it as a tag
    expected = {
        "content_type": "text/<b>",
        "correlation_id": "x" * 200,
        "mine": "['kept', 1.5]",
        "x-taskqueue-tenant": "north",
    }
    assert shown | expected == shown
    assert "x-taskqueue-history" not in shown
    assert 'href="/workitems/a/message"' in dora.get("/workitems/a").text
    assert eve.get("/workitems/a/message").status == 403, "who sees no bodies sees no headers"
    assert dora.get("/workitems/g/message").status == 400, "it has succeeded"


def test_a_body_of_any_length_is_downloaded(dora: Browser, foreign: Foreign) -> None:
    body = "0123456789abcdef" * 200_000  # larger than any socket's buffer
    foreign.collect("taskqueue_failed", 3)
    keep(foreign, "c", body, type="mail", tenant="south")
    answer = dora.get("/workitems/c/body")
    assert (answer.status, len(answer.body)) == (200, len(body))
    assert answer.body == body.encode()
    assert "expected at most 65536 bytes, found 3200000" in dora.get("/workitems/c/edit").text


def test_a_workitem_is_retried_with_an_edited_body(desk: Desk, dora: Browser, foreign: Foreign) -> None:
    form = dora.get("/workitems/a/edit")
    assert (
        '<textarea id="body" name="body" rows="16" cols="80" spellcheck="false">\n1</textarea>' in form.text
    )
    body = '{"pages":\r\n "<&>"}'
    done = dora.send("/workitems/a/edit", {**fields_of(form), "body": body})
    assert "1 workitem sent back with another body" in done.text
    (message,) = foreign.collect("worker_digest", 1)
    assert message.body == '{"pages":\n "<&>"}'
    assert message.properties["message_id"] == "a"
    assert message.headers["x-taskqueue-tenant"] == "north"
    (row,) = desk.audit()
    digest = hashlib.sha256(message.body.encode()).hexdigest()
    assert (row.user, row.action, row.count) == ("dora", "retry with another body", 1)
    assert json.loads(row.filter) == {"ids": ["a"], "body": {"size": 17, "sha256": digest}}


def test_a_bad_body_is_told_and_nothing_is_sent(desk: Desk, dora: Browser) -> None:
    form = dora.get("/workitems/a/edit")
    for body, said in (("{", "expected JSON"), ("1" * 65_537, "expected at most 65536 bytes, found 65537")):
        answer = dora.send("/workitems/a/edit", {**fields_of(form), "body": body})
        assert answer.status == 400
        assert said in answer.text
    answer = dora.get("/workitems/g/edit")
    assert (answer.status, "there is no failed or rejected workitem" in answer.text) == (400, True)
    assert dora.get("/workitems/none/body").status == 404
    assert desk.audit() == []


def test_bodies_are_a_right_of_their_own(desk: Desk, eve: Browser) -> None:
    assert eve.get("/workitems/a/body").status == 403
    assert eve.get("/workitems/a/edit").status == 403
    assert eve.post("/workitems/a/edit", {"body": "2", "kind": ""}, on="/").status == 403
    request = {"user": "eve", "action": "read body", "id": "a", "tenant": None, "body": ""}
    assert desk.send(json.dumps(request).encode() + b"\n")["kind"] == "right", "the recorder checks it, too"
    for fault in ({"id": 1}, {"tenant": 1}, {"body": "!"}, {"body": None}, {"id": ""}):
        line = json.dumps({**request, "user": "dora", **fault}).encode() + b"\n"
        assert desk.send(line)["kind"] == "request", fault

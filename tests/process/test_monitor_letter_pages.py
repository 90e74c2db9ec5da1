"""The screens of dead letters and of what runs, without a script: groups, filters, actions, rights."""

import html
import re
import time

import pytest
from support.pages import add_users, logged_in
from support.recorded import CONSUMER, NOW, batch
from support.web import serving

from taskqueue.messages.events import Begun, Ended, Progress, Rejected
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web.grouping import words_of
from taskqueue.monitor.web.wording import NONE

HOSTILE = "<script>alert(1)</script>"


def failed(name, kind, error, tenant="", age=10):
    return Ended(name, kind, 1, "failed", "failed", NOW - age, NOW - age - 1, error=error, tenant=tenant)


EVENTS = [
    *(failed(f"v{n}", "mail", f"ValueError: no customer {n}", age=100 + n) for n in range(5)),
    failed("k1", "mail", "KeyError: 'total'", "north"),
    failed("k2", "bill", "KeyError: 'total'"),
    failed("h1", "bill", f"ValueError: {HOSTILE}"),
    failed("n1", "bill", "ValueError: no customer 1"),
    failed("e1", "bill", ""),
    Rejected("r1", "", NOW - 5, "no worker type"),
    Begun("w1", "mail", 2, NOW - 2 * 3600, "mail/1", tenant="north"),
    Begun("w2", "mail", 1, NOW - 30, HOSTILE),
    Progress("w1", NOW - 1, 0.25, HOSTILE, "north"),
]


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    record = tmp_path_factory.mktemp("monitor") / "record"
    with Store(record) as store:
        store.write([(1, batch(CONSUMER, 0, EVENTS))])
    add_users(record)
    with serving(record, tmp_path_factory.mktemp("web")) as web:
        yield web


def rows(answer):
    """Return the texts of the cells of each row of a page's table."""
    assert answer.status == 200, answer
    found = re.findall(r"<tr>(.*?)</tr>", answer.text, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in found[1:]]
    return [[" ".join(html.unescape(re.sub(r"<[^>]*>", " ", cell)).split()) for cell in row] for row in cells]


def times(answer):
    """Return the times of a page, as programs read them."""
    return re.findall(r'<time datetime="([^"]*)"', answer.text)


def machine(at):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def groups(answer):
    return {tuple(row[:2]): int(row[2]) for row in rows(answer)}


def test_errors_that_differ_in_words_with_digits_are_one_group(web):
    found = groups(logged_in(web).get("/dead-letters"))
    assert found == {
        ("mail failed", "ValueError : no customer 0"): 5,
        ("mail failed", "KeyError : 'total'"): 1,
        ("bill failed", "KeyError : 'total'"): 1,
        ("bill failed", f"ValueError : {HOSTILE}"): 1,
        ("bill failed", "ValueError : no customer 1"): 1,
        ("bill failed", "without an error"): 1,
        ("unknown rejected", "no worker type"): 1,
    }


def test_a_group_says_when_it_was_seen_and_leads_to_its_workitems(web):
    browser = logged_in(web)
    page = browser.get("/dead-letters")
    assert times(page)[:2] == [machine(NOW - 104), machine(NOW - 100)]
    (address,) = re.findall(r'href="(/workitems\?[^"]*)">5<', page.text)
    listed = browser.get(html.unescape(address))
    assert set(re.findall(r'name="id" value="(\w+)"', listed.text)) == {f"v{n}" for n in range(5)}


def test_an_action_on_a_group_has_its_filter_and_leads_back(web):
    page = logged_in(web).get("/dead-letters?error=ValueError&type=bill")
    filters = re.findall(r'name="filter" value="([^"]*)"', page.text)
    assert html.unescape(filters[0]) == "error=ValueError&type=bill&state=failed&state=rejected"
    assert "error=ValueError+no+customer&type=bill&state=failed" in map(html.unescape, filters)
    assert 'name="back" value="/dead-letters?error=ValueError&amp;type=bill"' in page.text


def test_a_group_without_words_has_no_action(web):
    """Its filter would select every workitem of the type."""
    page = logged_in(web).get("/dead-letters")
    (row,) = [row for row in re.findall(r"<tr>.*?</tr>", page.text, re.DOTALL) if "without an error" in row]
    assert "<form" not in row
    assert "href" not in row


def test_a_filter_narrows_the_groups(web):
    browser = logged_in(web)
    assert len(groups(browser.get("/dead-letters?type=bill"))) == 4
    assert groups(browser.get("/dead-letters?tenant=north&type=&error=")) == {
        ("mail failed", "KeyError : 'total'"): 1
    }
    assert "No dead letter matches." in browser.get("/dead-letters?type=none").text
    assert browser.get("/dead-letters?state=queued").status == 400


def test_a_viewer_sees_only_its_tenants_and_no_action(web):
    ann = logged_in(web, "ann")
    for path in ("/dead-letters", "/running"):
        page = ann.get(path)
        assert len(rows(page)) == 1
        assert 'name="action"' not in page.text
    assert groups(ann.get("/dead-letters")) == {("mail failed", "KeyError : 'total'"): 1}


def test_what_runs_is_shown_with_its_progress_the_longest_first(web):
    page = logged_in(web, "eve").get("/running")
    first, second = rows(page)
    assert first[1:3] == ["w1", "mail"]
    assert first[3].startswith("2 h")
    assert first[4:9] == ["none", f"25 % {HOSTILE}", NONE, "north", "2"]
    assert second[1] == "w2"
    assert second[5] == NONE
    assert HOSTILE not in page.text
    assert '<progress max="1" value="0.25"' in page.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("ValueError: no customer 17", "ValueError no customer"),
        ("OSError: [Errno 28] /tmp/x9/a_7b", "OSError Errno tmp a"),
        ("4711", "4711"),
        ("", ""),
        ("a " * 300, "a"),
        (" ".join(f"word{'x' * n}" for n in range(60)), " ".join(f"word{'x' * n}" for n in range(16))),
    ],
)
def test_the_words_of_a_group_are_a_filter(error, words):
    assert words_of(error) == words
    assert len(words) <= 200

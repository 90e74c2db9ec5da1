"""The overview and the worker types, without a script: figures, links, rights."""

import re
import time

import pytest
from support.pages import Tags, add_users, logged_in
from support.recorded import CONSUMER, DISPATCHER, batch
from support.web import serving

from taskqueue.messages.events import Begun, Ended, ProcessState, Routed
from taskqueue.monitor.report import Report, write_report
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web.pages.showing import NONE


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    record, now = tmp_path_factory.mktemp("monitor") / "record", time.time()
    with Store(record) as store:
        store.write([(1, batch(DISPATCHER, 0, routed(now))), (2, batch(CONSUMER, 0, runs(now)))])
    queues = {"worker_report": 3, "worker_mail": 0, "worker_digest": 0}
    consumers = {"worker_report": 0, "worker_mail": 1, "worker_digest": 0}  # the worker of digest is busy
    report = Report(
        now, "records", is_reading=True, depths=queues, consumers=consumers, depths_at=now, depths_until=now
    )
    write_report(record, report)
    add_users(record)
    with serving(record, tmp_path_factory.mktemp("web")) as web:
        yield web


def routed(now):
    waiting = [Routed(f"w{number}", "report", now - 300, 2) for number in range(3)]
    later = Routed("later", "digest", now - 200, 2, due=now + 3600)
    mail = [Routed(f"m{number}", "mail", now - 100, 2, tenant="north") for number in range(20)]
    old = Routed("old", "digest", now - 5 * 3600, 2)
    return [*waiting, later, *mail, old, ProcessState(now, "routes", slots=1000)]


def runs(now):
    ends = [
        Ended(
            f"m{number}",
            "mail",
            1,
            state,
            state,
            now - 60,
            now - 62,
            tenant="north",
        )
        for number, state in enumerate(["failed"] * 8 + ["succeeded"] * 12)
    ]
    crash = Ended("c1", "digest", 1, "crashed", "failed", now - 60, now - 61, error="killed by SIGSEGV")
    old = Ended("old", "digest", 1, "succeeded", "succeeded", now - 4 * 3600, now - 4.5 * 3600)
    return [*ends, crash, old, Begun("r1", "digest", 1, now - 40, "digest/1"),
            ProcessState(now, "takes work", slots=4, busy=1)]  # fmt: skip


def figures(answer):
    """Return the figures above the charts by their names."""
    found = re.findall(r"<dt>(\w+)</dt>\s*<dd><a[^>]*>([^<]*)</a>", answer.text)
    return {name: int(number) for name, number in found}


def test_the_overview_has_the_figures_of_its_time_range(web):
    root = logged_in(web)
    hour = root.get("/")
    now = {"Waiting": 4, "Running": 1, "Retrying": 0}
    assert figures(hour) == {**now, "Succeeded": 12, "Failed": 9, "Rejected": 0, "Cancelled": 0, "Lost": 0}
    rate = re.search(r'<dt>Failure rate</dt>\s*<dd><a href="([^"]*)">([^<]*)</a>', hour.text)
    assert rate
    assert rate.groups() == ("/dead-letters?since=1h", "42.9 %"), "9 of 21"
    assert figures(root.get("/?range=day"))["Succeeded"] == 13
    assert root.get("/?range=year").status == 400


def test_each_figure_leads_to_the_list_behind_it(web):
    root = logged_in(web)
    answer = root.get("/")
    leads = {each["href"] for each in Tags(answer).named("a")}
    assert {"/workitems?state=failed&since=1h", "/workitems?state=running"} <= leads
    for address in leads:
        assert root.get(address).status in (200, 404), address
    assert "m0" in root.get("/workitems?state=failed&since=1h").text


def test_the_overview_says_in_words_what_needs_attention(web):
    text = Tags(logged_in(web).get("/")).text
    assert "digest: a run ended with the worker: SIGSEGV" in text
    assert re.search(r"report: 3 wait, for up to 5 min[0-9 s]*, and no worker serves this type", text)
    assert "mail: 8 of 20 failed, 40 %" in text


def test_the_charts_have_their_numbers_in_words(web):
    text = logged_in(web).get("/").text
    assert re.search(r"<title>[0-9 :UTC-]+: succeeded 12, failed 9</title>", text)
    assert 'role="img" aria-label="Queued over time"' in text


def test_a_type_has_its_backlog_rates_times_and_workers(web):
    rows = re.findall(r"<tr>\s*(<th scope=\"row\">.*?)</tr>", logged_in(web).get("/types").text, re.DOTALL)
    cells = {
        re.sub("<[^>]+>", "", row).split()[0]: re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        for row in rows
    }
    shown = {name: [re.sub("<[^>]+>", "", cell) for cell in each] for name, each in cells.items()}
    assert shown["digest"] == [
        "1",
        NONE,
        "1",
        "1",
        "4",
        "0.0167",
        "0.0167",
        NONE,
        "0.65 s, 0.965 s, 0.993 s",
        "1",
        "host2",
    ]
    assert shown["mail"][5:7] == ["0.333", "0.333"]
    assert shown["mail"][-2:] == ["8", ""]
    assert "no worker serves it" in next(row for row in rows if "report" in row)
    assert sum("no worker serves it" in row for row in rows) == 1


def test_a_viewer_of_a_tenant_sees_only_its_figures(web):
    ann = logged_in(web, "ann")
    assert figures(ann.get("/")) == {"Waiting": 0, "Running": 0, "Retrying": 0, "Succeeded": 12, "Failed": 8,
                                     "Rejected": 0, "Cancelled": 0, "Lost": 0}  # fmt: skip
    for path in ("/", "/types"):
        text = ann.get(path).text
        assert "mail" in text
        assert "digest" not in text
        assert "report" not in text
        assert "host2" not in text

"""The screens of hosts, the broker and the audit, without a script: what they show, and to whom."""

import csv
import io
import json
import re
import time
from dataclasses import replace

import pytest
from support.recorded import CONSUMER, ENDED, NOW, batch, write_record
from support.web import Browser, serving

from taskqueue.messages.events import Ended, ProcessState
from taskqueue.monitor.record import Action
from taskqueue.monitor.report import Report, write_report
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, VIEWER, Rights
from taskqueue.monitor.web.users import UserFile

PASSWORD = "correct horse"
ACCOUNTS = (
    Rights("ann", VIEWER, frozenset(("north",))),
    Rights("vera", VIEWER),
    Rights("eve", OPERATOR),
    Rights("root", ADMIN, bodies=True),
)
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    directory = tmp_path_factory.mktemp("monitor") / "record"
    write_record(directory)
    crash = Ended("m1", "mail", 1, "crashed", "failed", NOW - 3, NOW - 4, error="killed by SIGSEGV")
    state = ProcessState(NOW, HOSTILE, slots=4, busy=3, rss=123_000_000, cpu=90.0, is_blocked=1)
    state = state._replace(user="tq", version=f"taskqueue 1.0, {HOSTILE} 2.1", prefetch=17, crashes=2)
    state = state._replace(crash="exit status 3", workers="1:4711:30000000 2:4712:0 odd 3:x:1")
    with Store(directory) as store:
        before = ProcessState(NOW - 600, "takes work", version="taskqueue 0.9, digest 2.0")
        store.write([(3, batch(CONSUMER._replace(pid=21, started=NOW - 700), 0, [before]))])
        store.write([(4, batch(CONSUMER, len(ENDED), [crash, state]))])
        store.add_action(Action(NOW - 9, "eve", "retry", json.dumps({"type": "mail"}), 4))
        store.add_action(Action(NOW - 8, "root", "purge: no such queue", json.dumps({"ids": [HOSTILE]}), 0))
    file = UserFile(directory / "users.json")
    for rights in ACCOUNTS:
        file.add(users.user(rights, PASSWORD))
    return directory


@pytest.fixture(scope="module")
def web(record, tmp_path_factory):
    with serving(record, tmp_path_factory.mktemp("web")) as web:
        yield web


def page(web, path, name="root"):
    browser = Browser(web)
    assert browser.log_in(name, PASSWORD).status == 303
    return browser.get(path)


def text_of(answer):
    """Return what a page shows, without its elements."""
    assert answer.status == 200, answer
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text.partition("<main")[2]))


def test_hosts_show_their_processes_and_the_causes_of_crashes(web):
    answer = page(web, "/hosts")
    shown = text_of(answer)
    assert "host2 3 of 4 workers are busy." in shown
    assert "consumer digest 22" in shown
    assert "waits for an alarm of the broker 3 of 4 17 123 MB 1 min 30 s" in shown
    assert f"taskqueue 1.0, {HOSTILE} 2.1".replace("<", "&lt;").replace(">", "&gt;") in shown
    assert "2 , the last exit status 3" in shown
    assert "Workers of host2 digest/1 4711 30 MB digest/2 4712" in shown
    assert "mail SIGSEGV 1" in shown
    assert HOSTILE not in answer.text
    assert "&lt;script&gt;" in answer.text


def test_the_broker_shows_queues_that_nobody_serves_first(web, record):
    write_report(
        record,
        Report(
            *(time.time(), "records", True, "", 12, NOW),
            depths={"taskqueue": 9, "worker_digest": 5, "worker_fax": 1, "worker_mail": 2},
            depths_at=time.time(),
            consumers={"taskqueue": 1, "worker_digest": 2, "worker_fax": 0, "worker_mail": 0},
            broker="RabbitMQ 3.10.8, cluster <b>",
        ),
    )
    answer = page(web, "/broker")
    shown = text_of(answer)
    assert "RabbitMQ 3.10.8, cluster &lt;b&gt;" in shown
    assert "1 of the processes cannot publish" in shown
    assert re.search(r"worker_fax no consumer 1 0 \S+ taskqueue 9 1 \S+ worker_digest 5 2 3 ", shown)
    assert re.search(r"worker_mail 2 0 2 ", shown)  # its worker is busy
    assert "it has recorded 12 events" in shown
    assert "Queue types, policies, nodes and connections are not known" in shown


def test_the_broker_shows_what_the_management_api_tells(web, record):
    node = {"name": "rabbit@a", "running": True, "mem_used": 100_000_000, "mem_limit": 2 * 10**9}
    told = {
        "nodes": [
            node | {"disk_free": 5 * 10**10},
            {"name": "rabbit@b", "running": False},
            node | {"mem_alarm": True},
        ],
        "queues": {"worker_mail": {"type": "quorum", "policies": ["short", HOSTILE]}},
        "connections": {
            "number": 7,
            "shown": [{"name": "taskqueue mail consumes", "user": "tq", "channels": 2}],
        },
    }
    report = Report(
        *(time.time(), "records", True), depths={"worker_mail": 1, "taskqueue": 0}, depths_at=time.time()
    )
    write_report(record, replace(report, management=told, is_management_asked=True))
    answer = page(web, "/broker")
    shown = text_of(answer)
    assert HOSTILE not in answer.text
    assert "quorum short, &lt;script&gt;" in shown
    assert "rabbit@a runs 100 MB of 2 GB 50 GB" in shown
    assert "rabbit@b does not run" in shown
    assert "alarm: memory" in shown
    assert "7 connections" in shown
    assert "taskqueue mail consumes tq" in shown
    trouble = "connections: the broker's user may not ask for them"
    write_report(record, replace(report, is_management_asked=True, management_trouble=trouble))
    assert "does not tell everything. connections: the broker&#x27;s user" in text_of(
        page(web, "/broker")
    ).replace("&#39;", "&#x27;")


def test_the_broker_says_so_if_nobody_counts(web, record):
    write_report(record, Report(time.time() - 300, "records", True, depths={"worker_mail": 1}))
    shown = text_of(page(web, "/broker"))
    assert "The monitor has no connection to the broker." in shown
    assert "The queues are not counted now" in shown


def test_the_audit_shows_who_did_what_by_filters(web):
    answer = page(web, "/audit")
    assert "2 of the newest 2 actions" in text_of(answer)
    assert HOSTILE not in answer.text
    assert "eve" not in text_of(page(web, "/audit?user=root")).partition("About")[2]
    assert "1 of the newest 2" in text_of(page(web, "/audit?user=&action=retry&about="))
    assert "1 of the newest 2" in text_of(page(web, "/audit?about=mail"))
    assert "No action matches." in text_of(page(web, "/audit?user=nobody"))
    assert page(web, "/audit?bad=1").status == 400


def test_the_audit_is_exported_as_csv(web):
    answer = page(web, "/audit.csv?user=root")
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["at", "user", "action", "filter", "workitems"]
    assert rows[1][1:] == ["root", "purge: no such queue", json.dumps({"ids": [HOSTILE]}), "0"]
    assert len(rows) == 2


def test_metrics_show_ends_and_times_of_a_type_and_of_another_beside_it(web):
    shown = text_of(page(web, "/charts?type=digest&range=day"))
    assert "1 succeeded 0 failed" in shown
    assert "0.0 % did not succeed" in shown
    assert "p50 6.5 s p95 9.6 s p99 9.9 s of 1" in shown, "between 3 s and 10 s, as the run of 4 s was"
    both = text_of(page(web, "/charts?type=digest&with=mail&earlier=day&range=hour"))
    assert both.count("Run time p50") == 3
    assert "0 succeeded 2 failed" in both
    assert "100.0 % did not succeed" in both


def test_metrics_mark_when_a_group_of_the_type_got_another_version(web):
    answer = page(web, "/charts?type=digest&range=day")
    assert answer.text.count('class="mark"') == 1, "the first version is no change"
    assert "taskqueue 1.0, &lt;script&gt;alert(1)&lt;/script&gt; 2.1 on host2, group digest" in text_of(
        answer
    )
    assert HOSTILE not in answer.text
    assert 'class="mark"' not in page(web, "/charts?type=mail&range=day").text, "another type"
    assert 'class="mark"' not in page(web, "/charts?type=digest&range=day", "ann").text, "a user with limits"


def test_metrics_of_a_type_that_a_user_does_not_see_are_empty(web):
    shown = text_of(page(web, "/charts?type=mail&range=day", "ann"))
    assert "0 succeeded 0 failed" in shown
    assert "mail" not in text_of(page(web, "/charts", "ann"))


def test_metrics_name_a_bad_parameter(web):
    for query in ("range=year", "type=%3Cb%3E", "other=1", "earlier=month"):
        assert page(web, f"/charts?{query}").status == 400, query


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/charts", {"ann", "vera", "eve", "root"}),
        ("/hosts", {"vera", "eve", "root"}),
        ("/broker", {"vera", "eve", "root"}),
        ("/audit", {"root"}),
        ("/audit.csv", {"root"}),
    ],
)
def test_each_screen_is_for_its_role_and_for_users_without_limits(web, path, allowed):
    for rights in ACCOUNTS:
        answer = page(web, path, rights.user)
        assert answer.status == (200 if rights.user in allowed else 403), rights.user
        listed = f'<a href="{path}"' in page(web, "/", rights.user).text
        assert listed == (rights.user in allowed and "." not in path), rights.user

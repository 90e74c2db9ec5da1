"""Live parts of the monitor's pages, as a browser receives them."""

import re
import time

import pytest
from support.pages import add_users, logged_in, stream
from support.recorded import CONSUMER, ENDED, batch, write_record
from support.waiting import wait_until
from support.web import Browser, Web

from taskqueue.messages.events import Begun, Ended, LogLine, ProcessState
from taskqueue.monitor.report import Report, write_report
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web.users import UserFile


@pytest.fixture
def record(tmp_path):
    write_record(tmp_path / "record")
    add_users(tmp_path / "record")
    return tmp_path / "record"


@pytest.fixture
def web(daemon, record):
    return Web(daemon, record)


def write(record, position, number, *events):
    with Store(record) as store:
        store.write([(position, batch(CONSUMER, number, list(events)))])


def test_figures_change_while_workitems_run(web, record):
    with stream(logged_in(web), "/live/overview?range=hour") as following:
        assert ">1</a></dd></div>\n<div><dt>Rejected" in following(), "one has failed"
        write(record, 3, len(ENDED), Ended("s2", "mail", 1, "failed", "failed", time.time(), time.time() - 1))
        while ">2</a></dd></div>\n<div><dt>Rejected" not in following():
            pass


def test_output_is_shown_while_the_workitem_runs_and_its_end_is_told(web, record):
    with stream(logged_in(web), "/live/workitems/south-2") as following:
        assert "page 1" not in following()
        name = {"tenant": "south"}
        write(record, 3, len(ENDED), LogLine("south-2", time.time(), "mail/1", "stdout", "page <1>", **name))
        while "page &lt;1&gt;" not in (html := following()):
            pass
        assert 'class="over"' not in html
        now = time.time()
        write(
            record,
            4,
            len(ENDED) + 1,
            Ended("south-2", "mail", 1, "succeeded", "succeeded", now, now - 5, **name),
        )
        while 'class="over"' not in following():
            pass


def test_nobody_follows_without_a_login_or_what_he_may_not_see(web):
    assert Browser(web).get("/live/overview").status == 303
    ann = logged_in(web, "ann")
    assert ann.get("/live/workitems/south-1").status == 404
    with stream(ann, "/live/overview") as following:
        assert "mail" not in following()


def test_a_stream_ends_with_its_user(web, record):
    with stream(logged_in(web, "eve"), "/live/overview") as following:
        assert following()
        UserFile(record / "users.json").remove("eve", is_token=False)
        wait_until(lambda: following() is None, 60)


def test_the_process_ends_while_browsers_follow(web):
    with stream(logged_in(web), "/live/overview") as following:
        assert following()
        assert web.daemon.stop() == 0
        assert "bug" not in web.daemon.output()
        assert "Traceback" not in web.daemon.output()


def test_what_runs_changes_with_its_memory_timeout_and_user(web, record):
    with stream(logged_in(web), "/live/running") as following:
        assert "south-2" in (html := following())
        assert "30 MB" not in html
        begun = Begun("r1", "digest", 1, time.time() - 50, "digest/3", user="north")._replace(timeout=100.0)
        state = ProcessState(time.time(), "takes work", workers="3:77:30000000")
        write(record, 3, len(ENDED), begun, state)
        while "r1" not in (html := following()):
            pass
        assert re.search(r">5\d % of 1 min 40 s<", html)
        assert ">30 MB<" in html
        assert ">north<" in html


@pytest.mark.parametrize("path", ["/live/notices", "/live/running", "/live/workitems/south-2"])
def test_every_page_hears_that_the_broker_goes_away_and_comes_back(web, record, path):
    write_report(record, Report(time.time(), "records", is_reading=True))
    with stream(logged_in(web), path, "notices") as following:
        while "broker" in following():
            pass
        write_report(record, Report(time.time(), "waits for the broker", is_reading=False))
        while "The broker is away" not in following():
            pass
        write_report(record, Report(time.time(), "cannot record", is_reading=True, trouble="<disk full>"))
        while "Events are not recorded: &lt;disk full&gt;" not in following():
            pass
        write_report(record, Report(time.time(), "records", is_reading=True))
        while "not recorded" in following():
            pass

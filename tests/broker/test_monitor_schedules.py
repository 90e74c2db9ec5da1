"""Schedules in the monitor's API and pages, with a real scheduler: what each role sees and does."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk
from support.foreign import Foreign
from support.forked import Forked
from support.pages import FilledForm
from support.processes import Daemon
from support.web import Answer, Browser, Web, basic

from taskqueue.broker.standby import SIGNALS
from taskqueue.config import AmqpSettings, LoggingSettings
from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import ADMIN, Rights
from taskqueue.monitor.web.users import UserFile
from taskqueue.process import logs
from taskqueue.process.daemon import Signals
from taskqueue.scheduler.client import ask, ask_all
from taskqueue.scheduler.scheduler import Scheduler
from taskqueue.schedules.definition import Definition

PASSWORD = "correct horse"
DAY = 86400.0
#: Those of the configuration: two tenants, and one of nobody.
DEFINED = (
    Definition("backup", "digest", every=DAY, tenant="north", body='{"secret": 1}', tags=("nightly",)),
    Definition("nightly", "digest", cron="30 3 * * *", timezone="Europe/Berlin", tenant="south"),
    Definition("rare", "mail", every=7 * DAY, overlap=False),
)


def schedule(url: str, definitions: tuple[Definition, ...]) -> int:
    logs.set_up(LoggingSettings(), "scheduler")
    with Signals(SIGNALS) as signals:
        amqp = AmqpSettings.from_url(url)
        return Scheduler(amqp, definitions, signals, lambda state: print(state, flush=True), host="one").run()


@pytest.fixture
def desk(tmp_path: Path, forked: Callable[..., Forked], amqp_url: str, foreign: Foreign) -> Desk:
    foreign.declare("taskqueue")
    forked(lambda: schedule(amqp_url, DEFINED)).wait_for("leads 3 schedules", timeout=30)
    desk = Desk(tmp_path / "record", forked, amqp_url)
    file = UserFile(desk.directory / "users.json")
    file.add(users.user(Rights("root", ADMIN, bodies=True), PASSWORD))
    file.add(users.user(Rights("amy", ADMIN, frozenset(("north",))), PASSWORD))
    return desk


@pytest.fixture
def web(desk: Desk, daemon: Callable[[list[str]], Daemon]) -> Web:
    return Web(daemon, desk.directory)


def get(web: Web, path: str, user: str = "bob") -> Answer:
    return web.get(f"/api/v1/schedules{path}", login=basic(user, PASSWORD))


def post(web: Web, path: str, user: str, content: Any = None) -> Answer:
    return web.post(f"/api/v1/schedules{path}", content or {}, login=basic(user, PASSWORD))


def delete(web: Web, path: str, user: str) -> Answer:
    return web.request("DELETE", f"/api/v1/schedules{path}", login=basic(user, PASSWORD))


def names(answer: Answer) -> list[str]:
    return [each["name"] for each in answer.json["schedules"]]


# --- the API ---


def test_a_viewer_sees_schedules_page_by_page_without_bodies(web: Web) -> None:
    first = get(web, "?limit=2")
    assert (names(first), first.json["next"]) == (["backup", "nightly"], "nightly")
    last = get(web, f"?limit=2&after={first.json['next']}")
    assert (names(last), last.json["next"]) == (["rare"], None)
    assert names(get(web, "?name=R")) == ["rare"]
    assert names(get(web, "?name=k&after=a")) == ["backup"]
    shown = get(web, "/nightly").json["schedule"]
    assert (shown["cron"], shown["timezone"], shown["state"]) == ("30 3 * * *", "Europe/Berlin", "active")
    assert (shown["sources"], shown["fired"], shown["fired_at"]) == (["host one"], 0, None)
    times = get(web, "/nightly/next?number=5").json["next"]
    assert len(times) == 5
    assert shown["next"] == times[:3]
    assert {time.gmtime(at).tm_min for at in times} == {30}
    assert [get(web, "/backup", user).json["schedule"]["body"] for user in ("bob", "root")] == [
        *("", '{"secret": 1}'),
    ]


def test_a_user_of_a_tenant_sees_only_its_schedules(web: Web) -> None:
    assert names(get(web, "", "ann")) == names(get(web, "?limit=1", "ann")) == ["backup"]
    for answer in (get(web, "/nightly", "ann"), post(web, "/nightly/pause", "ann"), get(web, "/none", "ann")):
        assert answer.status == 404
        assert "there is no schedule" in answer.error
    strange = {"name": "more", "worker_type": "digest", "every": 60, "tenant": "south"}
    assert post(web, "", "amy", strange).status == 403
    assert post(web, "", "amy", strange | {"tenant": "north"}).status == 200


def test_an_operator_pauses_resumes_and_runs_and_the_audit_has_it(
    web: Web, desk: Desk, foreign: Foreign
) -> None:
    assert post(web, "/rare/pause", "eve").json["schedule"]["state"] == "paused"
    assert get(web, "/rare/next").json == {"next": []}
    assert post(web, "/rare/resume", "eve").json["schedule"]["state"] == "active"
    workitem = post(web, "/rare/run-now", "eve").json["workitem"]
    assert foreign.get("taskqueue").properties["message_id"] == workitem
    assert get(web, "/rare").json["schedule"]["running"] == workitem
    again = post(web, "/rare/run-now", "eve")
    assert (again.status, workitem in again.error) == (400, True)
    done = [(row.user, row.action.partition(":")[0], json.loads(row.filter)) for row in desk.audit()[::-1]]
    verbs = ("pause", "resume", "run-now", "run-now")
    assert done == [("eve", f"schedule {verb}", {"schedule": "rare"}) for verb in verbs]


def test_an_admin_adds_and_removes(web: Web, desk: Desk) -> None:
    fields = {"name": "new", "worker_type": "mail", "every": 3600, "body": "[]", "tags": ["x"]}
    added = post(web, "", "root", fields)
    assert (added.status, added.json["schedule"]["tags"]) == (200, ["x"])
    assert "already" in post(web, "", "root", fields).error
    assert delete(web, "/new", "root").status == 200
    assert get(web, "/new").status == 404
    kept = delete(web, "/rare", "root")
    assert (kept.status, "host one" in kept.error) == (400, True)
    assert delete(web, "/rare?force=true", "root").status == 200
    told = [(row.action.partition(":")[0], json.loads(row.filter)) for row in desk.audit()[::-1]]
    definition = {name: value for name, value in fields.items() if name != "body"}
    assert told == [
        *[("schedule add", {"schedule": "new", "definition": definition})] * 2,
        *[("schedule remove", {"schedule": name}) for name in ("new", "rare", "rare")],
    ]


@pytest.mark.parametrize("user", ["bob", "eve"])
def test_a_role_does_no_more_than_it_may(web: Web, desk: Desk, amqp_url: str, user: str) -> None:
    refused = [post(web, "", user, {"name": "n", "worker_type": "t", "every": 1}), delete(web, "/rare", user)]
    if user == "bob":
        refused += [post(web, f"/rare/{verb}", user) for verb in ("pause", "resume", "run-now")]
    assert [answer.status for answer in refused] == [403] * len(refused)
    line = json.dumps({"user": user, "action": "schedule remove", "name": "rare", "force": True})
    assert desk.send(line.encode() + b"\n")["kind"] == "right", "the recorder asks again"
    assert ask(AmqpSettings.from_url(amqp_url), "show", name="rare")["schedule"]["paused"] is False
    assert desk.audit() == [] or {row.user for row in desk.audit()} == {user}


BAD: tuple[tuple[Any, str], ...] = (
    ({"name": "n"}, "needs a worker_type"),
    ({"name": "n", "worker_type": "t", "cron": "0 0 30 2 *"}, "never"),
    ({"name": "n", "worker_type": "t", "cron": "@daily", "timezone": "Mars/Base"}, "Mars/Base"),
    ({"name": "n", "worker_type": "t", "every": 0.1}, "a second or more"),
    ([], "JSON object"),
)


def test_a_bad_schedule_is_refused_in_one_line(web: Web) -> None:
    for fields, expected in BAD:
        answer = web.post("/api/v1/schedules", fields, login=basic("root", PASSWORD))
        assert (answer.status, expected in answer.error, "\n" in answer.error) == (400, True, False), fields


def test_unknown_parameters_and_paths_are_refused(web: Web) -> None:
    assert (
        get(web, "?limit=0").status
        == get(web, "?first=1").status
        == get(web, "/rare/next?number=x").status
        == 400
    )
    assert post(web, "/rare/explode", "eve").status == 404
    assert get(web, "/rare/pause").status == 405


def test_ten_thousand_schedules_are_listed_in_answers_of_a_bounded_size(
    forked: Callable[..., Forked], amqp_url: str, foreign: Foreign
) -> None:
    foreign.declare("taskqueue")
    body = json.dumps("x" * 300)
    many = tuple(Definition(f"s{number:05}", "digest", every=DAY, body=body) for number in range(10_000))
    forked(lambda: schedule(amqp_url, many)).wait_for("leads 10000 schedules", timeout=60)
    amqp = AmqpSettings.from_url(amqp_url)
    assert [each["definition"]["name"] for each in ask_all(amqp)] == [each.name for each in many]
    page = ask(amqp, "list", after="s00009")
    assert page["schedules"][0]["definition"]["name"] == "s00010"
    assert 100 < len(page["schedules"]) <= 500
    assert len(json.dumps(page)) < 600_000


# --- the pages ---


def test_the_field_of_the_layout_suggests_schedules_and_leads_to_them(web: Web) -> None:
    def suggested(word: str, user: Browser) -> list[str]:
        told = user.get(f"/suggest?q={word}").json["suggestions"]
        found = [each for each in told if each["kind"] == "schedule"]
        assert [each["address"] for each in found] == [f"/schedules/{each['text']}" for each in found]
        return [each["text"] for each in found]

    bob, ann = browser(web, "bob"), browser(web, "ann")
    assert [suggested(word, bob) for word in ("ACK", "r", "none")] == [["backup"], ["rare"], []]
    assert [suggested(word, ann) for word in ("ack", "nightly")] == [["backup"], []], "the other is of south"
    places = [bob.get(f"/find?q={word}").headers["location"] for word in ("nightly", "night", "e", "mail")]
    assert places == ["/schedules/nightly", "/workitems?id=night", "/workitems/e", "/workitems?type=mail"]
    assert ann.get("/find?q=nightly").headers["location"] == "/workitems?id=nightly"
    page = bob.get("/schedules?name=GHT")
    assert re.findall(r'<a href="/schedules/(\w+)">', page.text) == ["nightly"]
    assert "No schedule has this in its name." in bob.get("/schedules?name=x").text


def browser(web: Web, user: str) -> Browser:
    browser = Browser(web)
    assert browser.log_in(user, PASSWORD).status == 303
    return browser


def test_the_page_lists_schedules_with_links_to_their_workitems(web: Web) -> None:
    page = browser(web, "bob").get("/schedules")
    assert page.status == 200
    assert re.findall(r'<a href="/schedules/(\w+)">', page.text) == ["backup", "nightly", "rare"]
    assert 'href="/workitems?label=schedule%3Abackup"' in page.text
    assert "30 3 * * * (Europe/Berlin)" in page.text
    assert "Add a schedule" not in page.text
    assert 'href="/schedules/backup"' in browser(web, "bob").get("/workitems/e").text
    one = browser(web, "bob").get("/schedules/nightly")
    assert one.text.count("<li><time ") == 10
    assert "Run now" not in one.text


def test_buttons_of_a_schedule_act_without_a_script(web: Web, foreign: Foreign) -> None:
    eve = browser(web, "eve")
    page = eve.get("/schedules/backup")
    assert "backup is paused" in eve.post("/schedules/backup", {"verb": "pause"}, on=page).text
    assert "None, until it is resumed." in eve.get("/schedules/backup").text
    assert "backup is active" in eve.post("/schedules/backup", {"verb": "resume"}, on=page).text
    done = eve.post("/schedules/backup", {"verb": "run-now"}, on=page).text
    assert f'href="/workitems/{foreign.get("taskqueue").properties["message_id"]}?tenant=north"' in done
    assert eve.post("/schedules/backup", {"verb": "remove", "force": "yes"}, on=page).status == 403
    assert eve.post("/schedules/backup", {"verb": "explode"}, on=page).status == 400
    assert eve.get("/schedules/none").status == 404


def test_an_admin_adds_and_removes_a_schedule_by_forms(web: Web) -> None:
    root = browser(web, "root")
    fields = {
        "name": "new",
        "worker_type": "mail",
        "every": "3600",
        "body": "<b>",
        "content_type": "text/plain",
    }
    page = root.get("/schedules")
    assert "new is added" in root.post("/schedules", fields, on=page).text
    one = root.get("/schedules/new")
    assert "&lt;b&gt;" in one.text
    assert "<dt>Overlap</dt><dd>no</dd>" in one.text, "the box for overlap was not checked"
    assert "new is removed" in root.post("/schedules/new", {"verb": "remove"}, on=one).text
    assert root.get("/schedules/new").status == 404


def test_a_form_with_a_fault_keeps_its_input_and_shows_the_fault_beside_its_field(web: Web) -> None:
    root = browser(web, "root")
    fields = {
        "name": "new",
        "worker_type": "mail",
        "cron": "61 * * * *",
        "timezone": "Europe/Berlin",
        "body": "<b>",
        "content_type": "text/plain",
        "tags": "a b",
        "jitter": "3",
        "missed": "once",
    }
    answer = root.post("/schedules", fields, on=root.get("/schedules"))
    assert answer.status == 400
    form = FilledForm(answer)
    assert form.values.pop("_xsrf")
    assert form.values == fields | {"every": "", "tenant": ""}, "overlap is not checked"
    assert (form.wrong, form.fault) == ("cron", "minute: expected 0 to 59, found '61'")
    for changed, wrong, fault in (
        ({"every": "often"}, "every", "every: expected a number of seconds"),
        ({"cron": "", "every": "0.5"}, "every", "every: expected a second or more"),
        ({"cron": "@daily", "every": "60"}, "every", "expected either cron or every"),
        ({"cron": "@daily", "timezone": "Mars/Base"}, "timezone", "no time zone 'Mars/Base'"),
        ({"cron": "@daily", "name": "a b"}, "name", "expected a name of"),
        ({"cron": "@daily", "name": ""}, "name", "name: expected a text"),
        ({"cron": "@daily", "name": "rare"}, "", "there is a schedule 'rare' already"),
    ):
        form = FilledForm(root.post("/schedules", fields | changed, on=answer))
        assert (form.wrong, form.fault[: len(fault)]) == (wrong, fault)
    assert "new is added" in root.post("/schedules", fields | {"cron": "@daily"}, on=answer).text


def test_the_page_says_so_if_no_scheduler_has_run(
    tmp_path: Path, forked: Callable[..., Forked], amqp_url: str, daemon: Callable[[list[str]], Daemon]
) -> None:
    web = Web(daemon, Desk(tmp_path / "record", forked, amqp_url).directory)
    page = browser(web, "bob").get("/schedules")
    assert page.status == 200
    assert "The schedules are not known now: no scheduler has run on this broker yet" in page.text
    answer = get(web, "")
    assert (answer.status, "start a dispatcher" in answer.error) == (502, True)

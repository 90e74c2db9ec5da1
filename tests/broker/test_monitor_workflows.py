"""Workflows in the monitor's API and pages, with a real flow process: what each role sees and does."""

import json
import re
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from support.desk import Desk
from support.foreign import Foreign
from support.forked import Forked
from support.pages import stream
from support.processes import Daemon
from support.waiting import wait_until
from support.web import Answer, Browser, Web, basic

from taskqueue.broker.standby import SIGNALS
from taskqueue.broker.topology import flow_queue, shard_of
from taskqueue.cli.screens.screen import Want
from taskqueue.cli.screens.workflows import Workflows
from taskqueue.config import AmqpSettings, LoggingSettings
from taskqueue.flow import client
from taskqueue.flow.flow import Flow
from taskqueue.flow.store import SqliteStore
from taskqueue.monitor import flows
from taskqueue.monitor.client import HttpReader, NoMonitor
from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import ADMIN, VIEWER, Rights
from taskqueue.monitor.web.users import UserFile
from taskqueue.monitor.web.workflows import WorkflowRequest
from taskqueue.process import logs
from taskqueue.process.daemon import Signals
from taskqueue.workflows.wire import LIST, Error, Receipt

PASSWORD = "correct horse"
SVG = "{http://www.w3.org/2000/svg}"


def keep(url: str, path: Path) -> int:
    logs.set_up(LoggingSettings(), "flow")
    with Signals(SIGNALS) as signals:
        amqp = AmqpSettings.from_url(url)
        told: Callable[[str], None] = lambda state: print(state, flush=True)  # noqa: E731
        store = partial(SqliteStore, path)
        return Flow(amqp, store, signals, told, keep=3600.0, records={}, lanes={}).run()


class Works:
    """Starts workflows, and does their steps."""

    def __init__(self, url: str, foreign: Foreign) -> None:
        self.amqp, self.foreign = AmqpSettings.from_url(url), foreign
        self.done = 0

    def start(self, name: str, *steps: dict[str, Any], **others: Any) -> str:
        """Start a workflow; return its id."""
        id_ = secrets.token_hex(16)
        client.start(self.amqp, {"workflow": name, "id": id_, "steps": list(steps), **others})
        return id_

    def do(self, result: Any = None, *, fails: str = "") -> str:
        """Do the next step that was published; return the id of its workitem."""
        message = self.foreign.get("taskqueue")
        headers = message.properties["application_headers"]
        receipt = Receipt(
            headers["x-taskqueue-workflow"],
            headers["x-taskqueue-step"],
            headers["x-taskqueue-run"],
            headers["x-taskqueue-proof"],
            "failed" if fails else "succeeded",
            time.time(),
            result=None if fails else json.dumps(result),
            error=Error("ValueError", fails) if fails else None,
        )
        queue = flow_queue(shard_of(receipt.workflow)).name
        self.foreign.publish(receipt.encode(), queue, content_type="application/json")
        self.done += 1
        return str(message.properties["message_id"])


def step(name: str, *after: str, **others: Any) -> dict[str, Any]:
    return {"step": name, "type": "digest", "after": list(after)} | others


@pytest.fixture
def works(tmp_path: Path, forked: Callable[..., Forked], amqp_url: str, foreign: Foreign) -> Works:
    foreign.declare("taskqueue")
    forked(lambda: keep(amqp_url, tmp_path / "flow.db")).wait_for("4 shards of 4", timeout=30)
    return Works(amqp_url, foreign)


@pytest.fixture
def desk(tmp_path: Path, forked: Callable[..., Forked], amqp_url: str) -> Desk:
    desk = Desk(tmp_path / "record", forked, amqp_url)
    file = UserFile(desk.directory / "users.json")
    file.add(users.user(Rights("root", ADMIN, bodies=True), PASSWORD))
    file.add(users.user(Rights("tom", VIEWER, types=("digest",)), PASSWORD))
    return desk


@pytest.fixture
def web(desk: Desk, daemon: Callable[[list[str]], Daemon]) -> Web:
    return Web(daemon, desk.directory)


def get(web: Web, path: str = "", user: str = "bob") -> Answer:
    return web.get(f"/api/v1/workflows{path}", login=basic(user, PASSWORD))


def post(web: Web, path: str, user: str) -> Answer:
    return web.post(f"/api/v1/workflows{path}", {}, login=basic(user, PASSWORD))


def names(answer: Answer) -> list[str]:
    return [each["name"] for each in answer.json["workflows"]]


def wait_for(web: Web, id_: str, state: str) -> Any:
    """Wait until a workflow has a state; return it."""

    def told() -> Any:
        answer = get(web, f"/{id_}").json
        return answer if answer["workflow"]["state"] == state else None

    return wait_until(told, 20, f"workflow {id_} to be {state}")


# --- the API ---


def test_workflows_are_listed_page_by_page_the_newest_first(works: Works, web: Web) -> None:
    assert get(web).json == {"workflows": [], "next": None}
    for number in range(7):
        works.start(f"w{number}", step("a"))
    found, path = [], "?limit=3"
    while path:
        answer = get(web, path)
        found.append(names(answer))
        following = answer.json["next"]
        path = following and f"?limit=3&before={following}"
    assert found == [["w6", "w5", "w4"], ["w3", "w2", "w1"], ["w0"]]
    works.do()
    wait_until(lambda: len(names(get(web, "?open=true"))) == 6)
    assert len(names(get(web, "?open=false"))) == 7


def test_a_workflow_is_shown_with_its_steps_and_the_edges_that_it_had(works: Works, web: Web) -> None:
    id_ = works.start(
        "import",
        step("list"),
        {"step": "each", "type": "double", "map": {"$result": "list"}},
        step("sum", "each", "list"),
        step("tell", on="failed"),
        tenant="north",
    )
    works.do([1, 2, 3])
    for _ in range(3):
        works.do()
    assert works.do(fails="no <paper>") == f"{id_}.sum"
    assert works.do() == f"{id_}.tell"
    shown = wait_for(web, id_, "failed")
    workflow = shown["workflow"]
    assert (workflow["id"], workflow["name"], workflow["tenant"]) == (id_, "import", "north")
    assert (workflow["steps"]["failed"], sum(workflow["steps"].values())) == (1, 7)
    steps = {each["step"]: each for each in shown["steps"]}
    after = {name: sorted(each["after"]) for name, each in steps.items()}
    assert after == {"list": [], "each": ["list"], "sum": ["each", "list"], "tell": []}
    assert (steps["each"]["is_map"], steps["each"]["elements"]) == (True, {"succeeded": 3})
    assert steps["sum"]["error"] == "ValueError: no <paper>"
    assert steps["sum"]["queued"] <= steps["sum"]["ended"]
    assert [steps[name]["workitem"] for name in ("sum", "each")] == [f"{id_}.sum", ""]
    assert "proof" not in json.dumps(shown)


def test_a_user_of_a_tenant_sees_only_its_workflows_and_one_of_some_types_none(
    works: Works, web: Web
) -> None:
    ids = {tenant: works.start(tenant, step("a"), tenant=tenant) for tenant in ("north", "south")}
    assert names(get(web, "", "ann")) == ["north"]
    assert get(web, f"/{ids['north']}", "ann").status == 200
    for answer in (get(web, f"/{ids['south']}", "ann"), post(web, f"/{ids['south']}/cancel", "ann")):
        assert (answer.status, "there is no workflow" in answer.error) == (404, True)
    assert names(get(web, "", "bob")) == ["south", "north"]
    for answer in (get(web, "", "tom"), get(web, f"/{ids['north']}", "tom")):
        assert (answer.status, "limited to some worker types" in answer.error) == (403, True)
    assert get(web, f"/{ids['south']}").json["workflow"]["state"] == "running", "it is not cancelled"


def test_an_operator_cancels_and_runs_again_and_the_audit_has_it(works: Works, web: Web, desk: Desk) -> None:
    failing = works.start("failing", step("a"), step("b", "a"))
    works.do(fails="no")
    wait_for(web, failing, "failed")
    assert post(web, f"/{failing}/retry", "bob").status == 403
    answer = post(web, f"/{failing}/retry", "eve").json
    assert (answer["again"], answer["workflow"]["state"]) == (1, "running")
    assert works.do() == f"{failing}.a.2"
    assert works.do() == f"{failing}.b"
    wait_for(web, failing, "succeeded")
    refused = post(web, f"/{failing}/cancel", "eve")
    assert (refused.status, "has ended" in refused.error) == (400, True)
    running = works.start("running", step("a"))
    assert post(web, f"/{running}/cancel", "eve").json["workflow"]["state"] == "cancelled"
    told = [(row.user, row.action.partition(":")[0], json.loads(row.filter)) for row in desk.audit()[::-1]]
    assert told == [
        ("eve", "workflow retry", {"workflow": failing}),
        ("eve", "workflow cancel", {"workflow": failing}),
        ("eve", "workflow cancel", {"workflow": running}),
    ]


def test_the_recorder_checks_the_right_again(works: Works, desk: Desk) -> None:
    id_ = works.start("w", step("a"))
    for user, verb, kind in (
        ("bob", "cancel", "right"),
        ("tom", "show", "right"),
        ("ann", "show", "missing"),
    ):
        line = json.dumps({"user": user, "action": f"workflow {verb}", "id": id_})
        assert desk.send(line.encode() + b"\n")["kind"] == kind
    for wrong in ({"id": "x"}, {"id": 7}, {"id": id_, "limit": 0}, {"id": id_, "before": "a.b"}):
        line = json.dumps({"user": "eve", "action": "workflow cancel", **wrong})
        assert desk.send(line.encode() + b"\n")["kind"] == "request"


def test_unknown_parameters_paths_and_workflows_are_refused(works: Works, web: Web) -> None:
    assert [get(web, query).status for query in ("?limit=0", "?before=x", "?open=1", "?first=1", "/x")] == [
        *[400] * 5,
    ]
    assert get(web, f"/{'0' * 32}").status == 404
    assert post(web, f"/{'0' * 32}/explode", "eve").status == 404
    assert get(web, f"/{'0' * 32}/cancel").status == 405


# --- the pages ---


def browser(web: Web, user: str) -> Browser:
    browser = Browser(web)
    assert browser.log_in(user, PASSWORD).status == 303
    return browser


def picture(page: Answer) -> ET.Element:
    """Return the picture on a page; it is well-formed XML."""
    found = re.search(r"<svg class=\"graph\".*?</svg>", page.text)
    assert found
    return ET.fromstring(found[0].replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))


def test_the_page_lists_workflows_with_progress_and_state(works: Works, web: Web) -> None:
    id_ = works.start("one", step("a"), step("b", "a"))
    works.do()
    bob = browser(web, "bob")
    wait_until(lambda: "1 of 2, 1 queued" in bob.get("/workflows").text)
    page = bob.get("/workflows?open=true")
    assert f'<a href="/workflows/{id_}">one</a>' in page.text
    assert '<span class="state running">running</span>' in page.text
    works.do()
    wait_until(lambda: "Every workflow has ended." in bob.get("/workflows?open=true").text)
    assert "Workflows" not in browser(web, "tom").get("/").text


def test_the_graph_has_a_box_with_a_link_for_each_step_and_one_for_a_map(works: Works, web: Web) -> None:
    id_ = works.start(
        "import",
        step("list"),
        {"step": "each", "type": "double", "map": {"$result": "list"}},
        step("sum", "each"),
        step("tell", on="ended"),
    )
    works.do([1, 2, 3])
    works.do()
    bob = browser(web, "bob")
    wait_until(lambda: "1 of 3, waiting" in bob.get(f"/workflows/{id_}").text)
    page = bob.get(f"/workflows/{id_}")
    drawn = picture(page)
    links = [each.attrib["href"] for each in drawn.iter(f"{SVG}a")]
    assert links == [
        f"/workitems/{id_}.list",
        f"/workitems?id={id_}.each%5B",
        f"/workitems/{id_}.sum",
        f"/workitems/{id_}.tell",
    ]
    titles = [each.text for each in drawn.iter(f"{SVG}title")]
    assert titles[1:] == [
        "each, type double, 1 of 3, waiting",
        "sum, type digest, waiting",
        "tell, type digest, waiting, when the workflow has ended",
    ]
    assert len(list(drawn.iter(f"{SVG}line"))) == 2
    assert "style=" not in page.text, "the policy allows no style in a page"
    assert "Cancel" not in page.text, "a viewer may not"
    assert bob.get("/workflows/none").status == 400


def test_a_large_graph_says_what_is_not_drawn(works: Works, web: Web) -> None:
    id_ = works.start("large", *(step(f"s{number}") for number in range(600)))
    page = browser(web, "bob").get(f"/workflows/{id_}")
    assert "Not drawn: 100 steps." in page.text
    assert len(list(picture(page).iter(f"{SVG}a"))) == 500


def test_buttons_of_a_workflow_act_without_a_script(works: Works, web: Web) -> None:
    id_ = works.start("one", step("a"))
    eve = browser(web, "eve")
    page = eve.get(f"/workflows/{id_}")
    assert "Run again" not in page.text, "nothing has failed"
    works.do(fails="no")
    wait_for(web, id_, "failed")
    page = eve.get(f"/workflows/{id_}")
    assert 'value="cancel"' not in page.text, "it has ended"
    assert "1 step of one to run again" in eve.post(f"/workflows/{id_}", {"verb": "retry"}, on=page).text
    page = eve.get(f"/workflows/{id_}")
    assert "one is cancelled" in eve.post(f"/workflows/{id_}", {"verb": "cancel"}, on=page).text
    assert eve.post(f"/workflows/{id_}", {"verb": "explode"}, on=page).status == 400
    assert browser(web, "bob").post(f"/workflows/{id_}", {"verb": "retry"}, on="/workflows").status == 403


def test_the_page_of_a_workflow_follows_it_until_its_callbacks_have_ended(works: Works, web: Web) -> None:
    id_ = works.start("one", step("a"), step("b", "a"), step("tell", on="ended"), step("bad", on="failed"))
    eve = browser(web, "eve")
    page = eve.get(f"/workflows/{id_}")
    assert f'<div id="live" data-live="/live/workflows/{id_}">' in page.text
    with stream(eve, f"/live/workflows/{id_}") as following:
        assert "Steps over</dt><dd>0 of 4, 1 queued" in (following() or "")
        for done, left in (("1 of 4", True), ("2 of 4", True), ("3 of 4", False)):
            works.do()
            while f"<dd>{done}" not in (html := following() or ""):
                pass
            assert ('<p class="over" hidden>' not in html) == left, html
    assert 'data-live="/live/workflows' not in eve.get(f"/workflows/{id_}").text
    assert browser(web, "tom").get(f"/live/workflows/{id_}").status == 403
    assert eve.get(f"/live/workflows/{'0' * 32}").status == 404


def test_the_page_says_so_if_no_flow_process_has_run(web: Web) -> None:
    page = browser(web, "bob").get("/workflows")
    assert page.status == 200
    assert "The workflows are not known now: no flow process has run on this broker yet" in page.text
    answer = get(web)
    assert (answer.status, "start a dispatcher" in answer.error) == (502, True)


# --- taskqueue top ---


def test_top_has_a_line_for_each_workflow_that_has_not_ended(works: Works, web: Web) -> None:
    works.start("over", step("a"))
    works.do()
    id_ = works.start("one", step("a"), step("b", "a"))
    works.do()
    screen = Workflows(lambda limit: get(web, f"?open=true&limit={limit}").json["workflows"])
    nobody: Any = None

    def rows() -> Any:
        return screen.read(nobody, Want()).rows

    wait_until(lambda: [row.cells[2] for row in rows()] == ["1 of 2, 1 queued"])
    assert [(row.key, row.cells[0], row.cells[3]) for row in rows()] == [(id_, "one", "running")]
    details = screen.read(nobody, Want(opened=id_)).details(80)
    assert f"taskqueue workflow show {id_}" in "\n".join(line.plain for line in details)


def test_top_asks_the_monitor_with_a_token_and_else_the_flow_processes(
    works: Works, desk: Desk, web: Web
) -> None:
    token, secret = users.token(Rights("screens", VIEWER))
    UserFile(desk.directory / "users.json").add(token)
    id_ = works.start("one", step("a"))
    asked = WorkflowRequest(LIST, is_open=True, limit=5)
    found = HttpReader(web.url, secret).workflows(5)
    assert [each["id"] for each in found] == [id_]
    assert flows.newest(works.amqp, frozenset(), asked) == (found, "")
    assert flows.newest(works.amqp, frozenset(["south"]), asked) == ([], "")


def test_top_raises_what_its_line_says_if_nobody_answers() -> None:
    reader = HttpReader("http://127.0.0.1:9", "token")
    with pytest.raises(NoMonitor, match="cannot be reached"):
        Workflows(reader.workflows).read(reader, Want())

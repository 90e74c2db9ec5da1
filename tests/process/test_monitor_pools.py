"""Pools in the monitor's API and pages, with real pools on several hosts: what each role sees and does."""

import json
import os
import re
import subprocess

import pytest
from support.desk import Desk
from support.documentation import commands, example
from support.hosts import hosts
from support.pages import Tags
from support.site import AS_ROOT, workers
from support.waiting import wait_until
from support.web import Browser, Web, basic

from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, Rights
from taskqueue.monitor.web.users import UserFile

PASSWORD = "correct horse"
TOKEN = "secret"
POOLS = "/api/v1/pools"

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="only root can give processes another host's name")

__all__ = ["hosts"]


def desk_with(tmp_path, forked, hosts, control_key):
    desk = Desk(tmp_path / "record", forked, hosts.site.url, control_key)
    file = UserFile(desk.directory / "users.json")
    file.add(users.user(Rights("root", ADMIN), PASSWORD))
    file.add(users.user(Rights("ned", OPERATOR, types=("good",)), PASSWORD))
    return desk


@pytest.fixture
def desk(tmp_path, forked, hosts):
    return desk_with(tmp_path, forked, hosts, str(hosts.key))


@pytest.fixture
def web(desk, daemon):
    return Web(daemon, desk.directory)


def get(web, user="bob"):
    return web.get(POOLS, login=basic(user, PASSWORD))


def post(web, command, user="eve", **content):
    return web.post(f"{POOLS}/{command}", content, login=basic(user, PASSWORD))


def browser(web, user):
    found = Browser(web)
    assert found.log_in(user, PASSWORD).status == 303
    return found


def sizes(answer):
    return {each["host"]: {group["group"]: len(group["workers"]) for group in each["groups"]
                           if not group["ends"]} for each in answer.json["pools"]}  # fmt: skip


# --- the API ---


def test_a_viewer_sees_what_the_command_ps_shows(hosts, work, web):
    site = hosts.site
    pool = hosts.pool("web1", "[gated]\nworkers: 1")
    running = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(running)
    hosts.run("pause", "good")
    told = get(web).json
    shown = json.loads(hosts.run("ps", "--format", "json"))
    began = [each["pools"][0]["groups"][0]["workers"][0].pop("since") for each in (told, shown)]
    assert began[0] == pytest.approx(began[1], abs=1)  # by two clocks of the consumer
    assert {name: value for name, value in told.items() if name not in {"command", "complaints"}} == shown
    (worker,) = told["pools"][0]["groups"][0]["workers"]
    assert {worker["pid"]} == workers(pool)
    assert (worker["workitem"], list(told["paused"]), told["complaints"]) == (running, ["good"], [])
    schemas = web.get("/api/v1/openapi.json", login=basic("bob", PASSWORD)).json["components"]["schemas"]
    assert told.keys() == schemas["Pools"]["properties"].keys()
    assert told["pools"][0].keys() == schemas["Pools"]["properties"]["pools"]["items"]["properties"].keys()
    site.gate().touch()
    work.result()


def test_an_operator_commands_pools_and_the_audit_has_it(hosts, work, desk, web):
    hosts.pool("web1", "[good]\nworkers: 2")
    hosts.pool("web2")
    assert list(post(web, "pause", type="good", **{"for": "2h"}).json["paused"]) == ["good"]
    pause = get(web).json["paused"]["good"]
    assert pause["by"].startswith("eve (monitor on ")
    assert pause["until"] == pytest.approx(pause["since"] + 7200)
    assert hosts.states() == {"web1": ["is paused"], "web2": ["is paused"]}
    assert "good is paused until " in hosts.run("ps")
    assert post(web, "resume", type="good").json["paused"] == {}
    work.ask("good")

    scaled = post(web, "scale", group="good", workers=3, host="web1")
    assert sizes(scaled) == {"web1": {"good": 3}}
    drained = post(web, "drain", host="web2")
    assert (list(drained.json["drained"]), [each["host"] for each in drained.json["pools"]]) == (
        ["web2"],
    ) * 2
    assert hosts.states()["web2"] == ["is drained"]
    assert post(web, "undrain", host="web2").json["drained"] == {}

    begun = post(web, "roll", group="good", host="web2").json
    (rolled,) = begun["pools"]
    assert (rolled["roll"]["name"], rolled["roll"]["total"]) == (begun["command"], 2)
    wait_until(lambda: get(web).json["pools"][1]["roll"]["done"] == 2)

    done = [(row.user, row.action, json.loads(row.filter)) for row in desk.audit()[::-1]]
    assert done == [
        ("eve", "pools pause", {"type": "good", "for": 7200}),
        ("eve", "pools resume", {"type": "good"}),
        ("eve", "pools scale", {"group": "good", "workers": 3, "host": "web1"}),
        ("eve", "pools drain", {"host": "web2"}),
        ("eve", "pools undrain", {"host": "web2"}),
        ("eve", "pools roll", {"group": "good", "host": "web2"}),
    ]


def test_only_an_admin_keeps_a_number_and_who_has_limits_sees_no_pool(hosts, desk, web):
    hosts.pool("web1", "[good]\nworkers: 1")
    refused = [post(web, "scale", group="good", workers=2, keep=True)]
    refused += [post(web, "pause", user, type="good") for user in ("bob", "ann", "ned")]
    refused += [get(web, user) for user in ("ann", "ned")]
    assert [answer.status for answer in refused] == [403] * len(refused)
    for user, content in (("eve", {"group": "good", "workers": 2, "keep": True}), ("ned", {"group": "good"})):
        line = json.dumps({"user": user, "action": "pools scale", "workers": None, **content})
        assert desk.send(line.encode() + b"\n")["kind"] == "right", "the recorder asks again"
    assert hosts.run("ps").count("good/") == 1

    kept = post(web, "scale", "root", group="good", workers=2, keep=True)
    assert (sizes(kept), kept.json["sizes"]["good"]["workers"]) == ({"web1": {"good": 2}}, 2)
    ended = post(web, "scale", "root", group="good", workers=None, keep=True)
    assert (sizes(ended), ended.json["sizes"]) == ({"web1": {"good": 1}}, {})


def test_who_does_not_answer_is_named_in_the_answer_and_in_the_audit(hosts, desk, web):
    hosts.pool("web1", "[good]\nworkers: 1")
    too_many = post(web, "scale", group="good", workers=5000).json
    assert too_many["complaints"][0].startswith("web1: all groups would have 5000 workers")
    assert desk.audit()[0].action.startswith("pools scale: web1: all groups would have 5000 workers")
    hosts.pool("web2").kill()
    paused = post(web, "pause", type="good").json
    assert (paused["silent"], paused["complaints"]) == (["web2"], ["web2 does not answer."])
    assert [each["host"] for each in paused["pools"]] == ["web1"]
    assert desk.audit()[0].action == "pools pause: web2 does not answer."


BAD_COMMANDS = [
    ("pause", {}, "expected the member 'type'"),
    ("pause", {"type": ""}, "type: expected a worker type, found none"),
    ("pause", {"type": "a b"}, "type: expected a worker type or group, found 'a b'"),
    ("pause", {"type": "good", "for": "soon"}, "for: expected a time such as 90d"),
    ("pause", {"type": "good", "host": "web1"}, "expected type, for, found 'host'"),
    ("resume", {"type": "good"}, "worker type 'good' is not paused"),
    ("scale", {"group": "good", "workers": -1}, "workers: expected a number from 0 to 100000, or null"),
    ("scale", {"group": "good", "workers": True}, "workers: expected a number from 0 to 100000, or null"),
    ("scale", {"group": "none", "workers": 1}, "no pool has a group none"),
    ("scale", {"group": "good", "workers": 1, "keep": "yes"}, "keep: expected true or false"),
    ("roll", {"group": "none"}, "no pool has a group none"),
    ("drain", {"host": "web9"}, "no pool with a control key has run on host 'web9'; known are: web1"),
    ("drain", {"host": 1}, "host: expected a host's name, found 1"),
    ("roll", [], "expected a JSON object"),
]


def test_a_bad_command_is_refused_in_one_line(hosts_with_one_pool, web):
    for command, content, expected in BAD_COMMANDS:
        answer = web.post(f"{POOLS}/{command}", content, login=basic("root", PASSWORD))
        assert (answer.status, "\n" in answer.error) == (400, False), answer
        assert expected in answer.error


@pytest.fixture
def hosts_with_one_pool(hosts):
    hosts.pool("web1", "[good]\nworkers: 1")
    return hosts


def test_unknown_paths_and_methods_are_refused(web):
    assert post(web, "explode").status == 404
    assert web.get(f"{POOLS}/pause", login=basic("eve", PASSWORD)).status == 405
    assert web.get(f"{POOLS}?first=1", login=basic("eve", PASSWORD)).status == 400


@pytest.fixture
def keyless(tmp_path, forked, daemon, hosts):
    return Web(daemon, desk_with(tmp_path / "other", forked, hosts, None).directory)


def test_without_a_key_or_a_pool_one_line_says_so(hosts, web, keyless):
    assert (get(web).status, "no worker pool answers within 1 s" in get(web).error) == (502, True)
    hosts.key.chmod(0o404)
    assert "expected a file that other users cannot read, found mode 0404" in get(web).error
    said = "this monitor has no control key: set control_key in section [monitor]"
    assert [get(keyless).error, post(keyless, "drain", host="web1").error] == [said] * 2
    page = Tags(browser(keyless, "root").get("/pools"))
    assert f"What the pools do is not known now: {said}" in page.text
    assert "Pause" not in page.text, "nothing to press that cannot work"


def test_documented_requests_are_answered(hosts, desk, daemon):
    hosts.pool("web1", "[digest]\nworkers: 1")
    web = Web(daemon, desk.directory, TOKEN)
    requests = commands(
        example("docs/monitor.md", 'curl -s -H "Authorization: Bearer $TOKEN" "$MONITOR/api/v1/pools"')
    )
    env = {**os.environ, "MONITOR": web.url, "TOKEN": TOKEN}
    shown, paused, scaled = (json.loads(shell(each, env)) for each in requests)
    assert [each["host"] for each in shown["pools"]] == ["web1"]
    assert (list(paused["paused"]), paused["complaints"]) == (["digest"], [])
    assert sum(not each["ends"] and len(each["workers"]) for each in scaled["pools"][0]["groups"]) == 6


def shell(typed, env):
    return subprocess.run(["sh", "-euc", typed], env=env, check=True, capture_output=True).stdout


# --- the page ---


def test_buttons_act_without_a_script_and_the_page_shows_the_answers(hosts, work, desk, web):
    site = hosts.site
    hosts.pool("web1", "[gated]\nworkers: 1")
    running = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(running)
    eve = browser(web, "eve")
    page = eve.get("/pools")
    assert f'works on <a href="/workitems/{running}">' in page.text
    assert "There is none: no type is paused" in page.text

    def command(**fields):
        return Tags(eve.post("/pools", fields, on=page)).text

    assert "web1 obeys" in command(verb="pause", type="gated", **{"for": "2h"})
    assert "web1 obeys" in command(verb="drain", host="web1")
    shown = eve.get("/pools")
    assert "gated is paused" in shown.text
    assert "Drained: it takes nothing new." in shown.text
    assert '<button class="plain" name="verb" value="resume">Resume gated</button>' in shown.text
    assert "web1 obeys" in command(verb="undrain", host="web1")
    assert "gated is resumed" in command(verb="resume", type="gated")
    assert "web1: gated has 2 workers" in command(verb="scale", group="gated", workers="2", host="")
    assert "web1: gated has 1 worker" in command(verb="scale", group="gated", workers="")
    scaling = {"verb": "scale", "group": "gated", "workers": "2"}
    refused = [scaling | {"keep": "yes"}, scaling | {"workers": "x"}, {"verb": "explode"}]
    assert [eve.post("/pools", each, on=page).status for each in refused] == [403, 400, 400]
    site.gate().touch()
    work.result()
    assert re.search(r"web1: \d of \d workers? replaced", command(verb="roll", group="", host="web1"))


def test_a_form_of_another_site_commands_nothing(hosts_with_one_pool, desk, web):
    eve = browser(web, "eve")
    answer = eve.send("/pools", {"verb": "drain", "host": "web1", "_xsrf": "guessed"})
    assert answer.status == 403
    assert desk.audit() == []
    assert hosts_with_one_pool.states() == {"web1": ["takes work"]}


def test_a_viewer_finds_nothing_to_press_and_an_admin_may_keep_a_number(hosts_with_one_pool, web):
    bob, root, ned = (browser(web, user) for user in ("bob", "root", "ned"))
    assert "/pools" not in {each.get("action") for each in Tags(bob.get("/pools")).named("form")}
    assert bob.post("/pools", {"verb": "drain", "host": "web1"}, on=bob.get("/")).status == 403
    page = root.get("/pools")
    assert "Keep it over reloads" in page.text
    fields = {"verb": "scale", "group": "good", "workers": "2", "keep": "yes"}
    assert "web1: good has 2 workers" in root.post("/pools", fields, on=page).text
    shown = root.get("/pools")
    assert "good is kept at 2 workers" in shown.text
    assert "As configured: good" in shown.text
    assert ned.get("/pools").status == 403
    assert 'href="/pools"' not in ned.get("/").text

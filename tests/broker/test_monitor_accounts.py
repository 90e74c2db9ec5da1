"""Users and tokens that admins add and remove on the monitor's page; the recorder writes their file."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.desk import Desk
from support.forked import Forked
from support.processes import Daemon
from support.web import Browser, Web

from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, VIEWER, Rights
from taskqueue.monitor.web.users import UserFile

PASSWORD = "correct horse"
NEW = {"change": "add", "kind": "user", "name": "ned", "password": "battery staple", "role": "viewer"}


@pytest.fixture
def desk(tmp_path: Path, forked: Callable[..., Forked], amqp_url: str) -> Desk:
    desk = Desk(tmp_path / "record", forked, amqp_url)
    file = UserFile(desk.directory / "users.json")
    file.add(users.user(Rights("ada", ADMIN, bodies=True), PASSWORD))
    file.add(users.user(Rights("alf", ADMIN), PASSWORD))
    file.add(users.user(Rights("lim", ADMIN, frozenset(("north",)), bodies=True), PASSWORD))
    return desk


@pytest.fixture
def web(desk: Desk, daemon: Callable[[list[str]], Daemon]) -> Web:
    return Web(daemon, desk.directory)


def signed_in(web: Web, name: str, password: str = PASSWORD) -> Browser:
    browser = Browser(web)
    browser.log_in(name, password)
    return browser


def accounts(desk: Desk) -> dict[str, Rights]:
    return {
        each.name: each.rights for each in UserFile(desk.directory / "users.json").read().by_name.values()
    }


def test_an_admin_adds_a_user_who_can_log_in_then(desk: Desk, web: Web) -> None:
    ada = signed_in(web, "ada")
    wanted = NEW | {"tenants": "north\r\n south \r\n\r\n", "types": "image-*", "bodies": "yes"}
    answer = ada.post("/account", wanted, on="/account")
    assert answer.headers["location"] == "/account"
    assert accounts(desk)["ned"] == Rights("ned", VIEWER, frozenset(("north", "south")), ("image-*",), True)
    assert "north, south" in ada.follow(answer).text
    assert signed_in(web, "ned", "battery staple").get("/").status == 200
    (row,) = desk.audit()
    assert (row.user, row.action, json.loads(row.filter)["tenants"]) == (
        "ada",
        "add user ned",
        ["north", "south"],
    )
    assert "hash" not in row.filter


CHANGED = {"change": "password", "old": PASSWORD, "password": "battery staple", "again": "battery staple"}


def test_a_user_changes_its_own_password_and_other_sessions_end(desk: Desk, web: Web) -> None:
    here, elsewhere = signed_in(web, "lim"), signed_in(web, "lim")
    answer = here.post("/account", CHANGED, on="/account")
    assert (answer.status, "Your password is changed" in answer.text) == (200, True)
    assert here.get("/").status == 200, "this browser stays logged in"
    assert elsewhere.get("/").status == 303
    assert signed_in(web, "lim").get("/").status == 303, "the old password"
    assert signed_in(web, "lim", "battery staple").get("/").status == 200
    assert accounts(desk)["lim"].tenants == {"north"}, "the rights are as they were"
    (row,) = desk.audit()
    assert (row.user, row.action) == ("lim", "change password of lim")
    assert "correct horse" not in row.filter
    assert "battery" not in row.filter


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"old": "wrong horse"}, "name or password is wrong"),
        ({"again": "other"}, "the two new passwords differ"),
        ({"password": "short", "again": "short"}, "expected 8 to 1024 characters"),
    ],
)
def test_a_password_that_is_not_changed_says_why(
    desk: Desk, web: Web, change: dict[str, str], said: str
) -> None:
    answer = signed_in(web, "lim").post("/account", CHANGED | change, on="/account")
    assert (answer.status, said in answer.text) == (400, True)
    assert signed_in(web, "lim").get("/").status == 200


@pytest.mark.parametrize(("name", "old"), [("ada", PASSWORD), ("alf", "wrong horse")])
def test_the_recorder_changes_only_ones_own_password_and_asks_for_the_old_one(
    desk: Desk, name: str, old: str
) -> None:
    new = users.plain_of(users.user(Rights(name, VIEWER), "battery staple"))
    request = {"user": "alf", "action": "change password", "account": new, "old": old}
    assert "error" in desk.send(json.dumps(request).encode() + b"\n")
    assert UserFile(desk.directory / "users.json").read().with_password(name, PASSWORD) is not None


def test_a_new_password_grants_no_other_rights(desk: Desk) -> None:
    new = users.plain_of(users.user(Rights("lim", ADMIN), "battery staple"))
    request = {"user": "lim", "action": "change password", "account": new, "old": PASSWORD}
    assert desk.send(json.dumps(request).encode() + b"\n") == {"count": 0}
    assert accounts(desk)["lim"] == Rights("lim", ADMIN, frozenset(("north",)), bodies=True)


def test_the_secret_of_a_new_token_is_shown_once(desk: Desk, web: Web) -> None:
    ada = signed_in(web, "ada")
    answer = ada.post("/account", NEW | {"kind": "token", "name": "probe", "password": ""}, on="/account")
    found = re.search(r"tq_[\w-]{43}", html.unescape(answer.text))
    assert found
    assert web.get("/api/v1/status", login=f"Bearer {found[0]}").json["user"] == "probe"
    assert "tq_" not in ada.get("/account").text
    assert found[0] not in (desk.directory / "users.json").read_text()


def test_an_admin_removes_an_account_with_effect_at_once(desk: Desk, web: Web) -> None:
    bob, ada = signed_in(web, "bob"), signed_in(web, "ada")
    assert bob.get("/").status == 200
    ada.post("/account", {"change": "remove", "kind": "user", "name": "bob"}, on="/account")
    assert "bob" not in accounts(desk)
    assert bob.get("/").status == 303
    assert desk.audit()[0].action == "remove user bob"


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"name": "eve"}, 400, "a user &#x27;eve&#x27; exists already"),
        ({"name": "<b>"}, 400, "name: expected 1 to 64"),
        ({"password": "short"}, 400, "password: expected 8 to 1024 characters"),
        ({"role": "god"}, 400, "role: expected one of viewer, operator, admin"),
        ({"tenants": "x" * 300}, 400, "expected 1 to 255 characters"),
        ({"change": "remove", "name": "nobody"}, 400, "there is no user &#x27;nobody&#x27;"),
        ({"change": "remove", "name": "ada"}, 403, "you cannot remove yourself"),
    ],
)
def test_a_change_that_is_refused_says_why(
    desk: Desk, web: Web, fields: dict[str, str], status: int, said: str
) -> None:
    before = accounts(desk)
    answer = signed_in(web, "ada").post("/account", NEW | fields, on="/account")
    assert (answer.status, accounts(desk)) == (status, before)
    assert said.replace("&#x27;", "'") in html.unescape(answer.text)


@pytest.mark.parametrize("name", ["bob", "eve", "lim"])
def test_only_an_admin_without_limits_sees_and_changes_accounts(desk: Desk, web: Web, name: str) -> None:
    before = accounts(desk)
    browser = signed_in(web, name)
    page = browser.get("/account")
    assert "alf" not in page.text
    assert browser.post("/account", NEW, on=page).status == 403
    assert browser.post("/account", {"change": "remove", "name": "alf"}, on=page).status == 403
    assert accounts(desk) == before


def test_an_admin_grants_no_more_than_it_has(desk: Desk, web: Web) -> None:
    alf = signed_in(web, "alf")
    assert alf.post("/account", NEW | {"bodies": "yes"}, on="/account").status == 403
    assert alf.post("/account", NEW, on="/account").status == 303
    assert not accounts(desk)["ned"].bodies


def test_the_recorder_checks_the_right_itself(desk: Desk) -> None:
    plain = users.plain_of(users.token(Rights("mole", ADMIN))[0])
    for user, expected in (("eve", "right"), ("lim", "right"), ("nobody", "right")):
        request = {"user": user, "action": "add account", "account": plain}
        assert desk.send(json.dumps(request).encode() + b"\n")["kind"] == expected, user
    assert "mole" not in accounts(desk)


@pytest.mark.parametrize(
    "content",
    [
        {"action": "add account"},
        {"action": "add account", "account": []},
        {"action": "add account", "account": {"name": "mole"}},
        {"action": "remove account", "name": "eve"},
        {"action": "remove account", "is_token": False},
    ],
    ids=range(5),
)
def test_a_damaged_request_changes_nothing(desk: Desk, content: dict[str, object]) -> None:
    before = accounts(desk)
    answer = desk.send(json.dumps({"user": "ada", **content}).encode() + b"\n")
    assert answer["kind"] == "request"
    assert accounts(desk) == before


def test_a_role_that_does_not_exist_is_refused_by_the_recorder(desk: Desk) -> None:
    plain = users.plain_of(users.token(Rights("mole", OPERATOR))[0]) | {"role": "god"}
    request = {"user": "ada", "action": "add account", "account": plain}
    assert desk.send(json.dumps(request).encode() + b"\n")["kind"] == "request"

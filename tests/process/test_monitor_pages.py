"""The monitor's pages over a real record, without a script: login, other sites, hostile text, sizes."""

import re

import pytest
from support.pages import PASSWORD, Tags, add_users, logged_in
from support.recorded import write_record
from support.web import Browser, Web, basic, serving

from taskqueue.monitor.web import users
from taskqueue.monitor.web.pages import static
from taskqueue.monitor.web.rights import VIEWER, Rights
from taskqueue.monitor.web.throttle import FREE
from taskqueue.monitor.web.users import UserFile

TOKEN = users.new_secret()
PAGES = (
    "/",
    "/?range=week",
    "/types",
    "/types?name=nothing",
    "/hosts",
    "/broker",
    "/charts",
    "/audit",
    "/account",
    "/running",
    "/dead-letters",
    "/dead-letters?type=mail&error=disk",
    "/workitems",
    "/workitems?state=failed&state=running&since=2h&error=disk",
    "/workitems?type=nothing",
    "/workitems/north-1",
    "/workitems/south-2",
    "/workitems/odd%2F..%2Fid%3Fx%3D1%26y%20%3Cb%3E",
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    directory = tmp_path_factory.mktemp("monitor") / "record"
    write_record(directory)
    add_users(directory)
    return directory


@pytest.fixture(scope="module")
def web(record, tmp_path_factory):
    """A server that all tests share; a test that disturbs others starts its own."""
    with serving(record, tmp_path_factory.mktemp("web"), TOKEN) as web:
        yield web


# --- login ---


def test_a_page_asks_for_a_login_and_then_is_shown(web):
    browser = Browser(web)
    asked = browser.get("/?range=day")
    assert asked.headers["location"] == "/login?next=%2F%3Frange%3Dday"
    form = browser.follow(asked)
    assert form.status == 200
    assert 'value="/?range=day"' in form.text
    answer = browser.log_in("root", PASSWORD, "/?range=day")
    assert answer.headers["location"] == "/?range=day"
    page = browser.follow(answer)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=UTF-8")
    assert ">root<" in page.text


def test_a_token_logs_in_without_a_name(web):
    browser = Browser(web)
    assert browser.follow(browser.log_in("", TOKEN)).status == 200


def test_the_token_of_up_may_be_in_the_address_and_no_other(web, record):
    assert Browser(web).get("/login?token=tq_wrong").status == 200, "the form"
    account, secret = users.token(Rights("probe", VIEWER))
    UserFile(record / "users.json").add(account)
    assert Browser(web).get(f"/login?token={secret}").status == 200
    answer = Browser(web).get(f"/login?token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize(("name", "password"), [("root", "wrong"), ("nobody", PASSWORD), ("", "tq_wrong")])
def test_a_wrong_password_is_told_in_the_form(web, name, password):
    browser = Browser(web)
    answer = browser.log_in(name, password)
    assert answer.status == 401
    assert "is wrong" in answer.text
    assert "www-authenticate" not in answer.headers, "the browser has no form of its own"
    assert browser.get("/").status == 303


def test_failed_logins_slow_down(daemon, record):
    browser = Browser(Web(daemon, record))
    statuses = [browser.log_in("root", "wrong").status for _ in range(FREE + 1)]
    assert statuses == [401] * FREE + [429]
    assert "try again in" in browser.log_in("root", PASSWORD).text


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "https://evil.example/", "javascript:alert(1)", "/a\nb", ""]
)
def test_a_login_leads_to_no_other_site(web, path):
    answer = Browser(web).log_in("root", PASSWORD, path)
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_who_logs_out_is_out_everywhere(web):
    browser = logged_in(web)
    kept = dict(browser.cookies)
    assert browser.get("/logout").status == 303
    assert browser.get("/").status == 200, "an address alone logs nobody out"
    browser.post("/logout", {}, on="/")
    assert browser.get("/").status == 303
    browser.cookies = kept
    assert browser.get("/").status == 303, "the cookie is worth nothing any more"


def test_a_session_ends_with_its_user(daemon, tmp_path):
    write_record(tmp_path / "record")
    add_users(tmp_path / "record")
    web = Web(daemon, tmp_path / "record")
    browser, file = logged_in(web, "eve"), UserFile(tmp_path / "record/users.json")
    file.remove("eve", is_token=False)
    assert browser.get("/").status == 303
    file.add(users.user(Rights("eve", VIEWER), "another one"))
    assert browser.get("/").status == 303, "this is another user"


def test_a_user_of_a_header_needs_no_session(web):
    assert Browser(web, {"Authorization": basic("root", PASSWORD)}).get("/").status == 200
    assert Browser(web, {"Authorization": f"Bearer {TOKEN}"}).get("/").status == 200
    assert Browser(web, {"Authorization": "Bearer tq_wrong"}).get("/").status == 401


def test_programs_are_answered_in_json_and_know_no_session(web):
    browser = logged_in(web)
    assert browser.get("/api/v1/status").status == 401
    answer = web.get("/nothing", login="")
    assert (answer.status, answer.headers["content-type"]) == (401, "application/json")


# --- other sites ---


def test_cookies_are_for_this_site_and_no_script(web):
    answer = Browser(web).log_in("root", PASSWORD)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("taskqueue_session=")
    for attribute in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert attribute in cookie
    assert "Domain" not in cookie
    assert "HttpOnly" in Browser(web).get("/login").headers["set-cookie"]


@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_a_form_of_another_site_is_refused(web, path):
    browser = logged_in(web)
    for fields in ({}, {"_xsrf": "x"}, {"_xsrf": "2|aaaaaaaa|bbbb|1"}):
        answer = browser.send(path, {"name": "root", "password": PASSWORD, **fields})
        assert answer.status == 403, fields
        assert "out of date" in answer.text
    assert browser.get("/").status == 200


@pytest.mark.parametrize("path", [*PAGES, "/login", "/nothing"])
def test_a_page_allows_no_script_of_its_own_and_nothing_of_other_sites(web, path):
    answer = logged_in(web).get(path)
    policy = dict(each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert answer.headers["cache-control"] == "no-store"
    tags = Tags(answer)
    for tag, attributes in tags.found:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], (
            tag,
            attributes,
        )
        for name in ("href", "src", "action"):
            assert re.match(r"/(?!/)|#|\?|$", attributes.get(name) or "/"), (tag, attributes)
    assert not tags.named("style")
    assert all(each.get("src") for each in tags.named("script"))


# --- what is served ---


@pytest.mark.parametrize("path", [*PAGES, "/login"])
def test_a_page_is_html_for_every_screen_and_reader(web, path):
    answer = logged_in(web).get(path)
    assert len(answer.body) < 100_000
    tags = Tags(answer)
    assert tags.named("html") == [{"lang": "en"}]
    assert "width=device-width" in str(tags.named("meta"))
    assert len(tags.named("h1")) == len(tags.named("main")) == 1
    assert answer.text.count(" · taskqueue</title>") == 1
    labelled = {each["for"] for each in tags.named("label") if "for" in each}
    for field in tags.named("input") + tags.named("select") + tags.named("textarea"):
        assert field.get("type") == "hidden" or field.get("id") in labelled or "aria-label" in field, field
    assert all(each.get("scope") for each in tags.named("th"))


def test_static_files_are_small_kept_and_need_no_login(web):
    assert sum(len(each.content) for each in static.FILES.values()) < 40_000
    assert len(static.FILES["style.css"].content) < 20_000
    for name, file in static.FILES.items():
        answer = web.get(file.address, login="")
        assert (answer.status, answer.headers["content-type"]) == (200, file.content_type), name
        assert "immutable" in answer.headers["cache-control"]
        older = web.get(f"/static/{'0' * 16}/{name}", login="")
        assert (older.status, older.headers["cache-control"]) == (200, "no-store")
    assert web.get("/static/0000000000000000/page.py", login="").status == 401
    assert Browser(web).get("/static/../templates/login.html").status == 303


def test_a_path_without_a_page_is_told_in_one(web):
    answer = logged_in(web).get("/nothing/<script>")
    assert answer.status == 404
    assert "Not Found" in answer.text
    assert "<script>" not in answer.text


@pytest.mark.parametrize("accept", ["Text/HTML", "*/*"])
def test_an_unknown_path_is_told_in_a_page_to_each_browser_and_in_json_to_programs(web, accept):
    browser = Browser(web, {"Accept": accept})
    browser.cookies = logged_in(web).cookies
    answer = browser.get("/nothing")
    assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=UTF-8")
    answer = web.request("GET", "/nothing", headers={"Accept": "application/json"})
    assert (answer.status, answer.headers["content-type"]) == (404, "application/json")


def test_a_missing_record_is_told_in_a_page(daemon, tmp_path):
    (tmp_path / "empty").mkdir()
    browser = Browser(Web(daemon, tmp_path / "empty", TOKEN))
    answer = browser.follow(browser.log_in("", TOKEN))
    assert answer.status == 503
    assert 'class="error"' in answer.text


def test_a_record_that_nobody_writes_is_told_above_each_page(web):
    assert "No recorder runs" in logged_in(web).get("/").text

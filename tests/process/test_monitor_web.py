"""The web process of the monitor over a real record, with a foreign client: answers, rights, bad input."""

import base64
import contextlib
import http.client
import re
import socket
import time
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote

import pytest
from support.recorded import CONSUMER, ENDED, NOW, SECRET, batch, write_record
from support.waiting import wait_until
from support.web import Web, basic, serving

from taskqueue.messages.events import Emitter, Ended, ProcessState
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web import api, server, users
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, VIEWER, Rights
from taskqueue.monitor.web.service import WebSettings
from taskqueue.monitor.web.throttle import FREE
from taskqueue.monitor.web.users import UserFile

TOKEN = users.new_secret()
PASSWORD = "correct horse"
ACCOUNTS = {
    "ann": Rights("ann", VIEWER, frozenset(("north",))),
    "bob": Rights("bob", VIEWER, types=("ma*",)),
    "eve": Rights("eve", OPERATOR),
    "root": Rights("root", ADMIN, bodies=True),
}
ANN, BOB, EVE, ROOT = (basic(name, PASSWORD) for name in ACCOUNTS)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    directory = tmp_path_factory.mktemp("monitor") / "record"
    write_record(directory)
    file = UserFile(directory / "users.json")
    for rights in ACCOUNTS.values():
        file.add(users.user(rights, PASSWORD))
    return directory


@pytest.fixture(scope="module")
def web(record, tmp_path_factory):
    """A server that all tests share; a test that disturbs others starts its own."""
    with serving(record, tmp_path_factory.mktemp("web"), TOKEN) as web:
        yield web


@pytest.fixture
def own_web(daemon, record):
    """A server of this test alone."""
    return Web(daemon, record, TOKEN)


def ids(answer):
    assert answer.status == 200, answer
    return [each["id"] for each in answer.json["workitems"]]


# --- answers ---


def test_the_record_is_answered(web):
    everything = web.get("/api/v1/workitems").json
    states = {each["id"]: each["state"] for each in everything["workitems"]}
    assert states == {
        "north-1": "succeeded", "north-2": "queued", "south-1": "failed", "south-2": "running",
        "plain-1": "scheduled", "odd/../id?x=1&y <b>": "queued", "reject-1": "rejected",
    }  # fmt: skip
    assert everything["next"] is None
    found = web.get("/api/v1/workitems/north-1").json
    assert found["labels"] == ["nightly", "big"]
    assert found["head"] == SECRET
    assert [run["outcome"] for run in found["runs"]] == ["succeeded"]
    assert [each["what"] for each in found["time_line"]] == ["queued", "started", "succeeded"]
    assert base64.b64decode(found["result"]["base64"]) == b'{"sum": 3}'
    log = web.get("/api/v1/workitems/north-1/log").json
    assert [line["text"] for line in log["log"]] == ["first line", "second \x1b[31mline"]
    rest = web.get(f"/api/v1/workitems/north-1/log?after={log['next']}").json
    assert rest == {"log": [], "next": log["next"]}
    assert web.get("/api/v1/workitems/north-1/log?after=0").json["log"] == log["log"][1:]


def test_types_processes_minutes_gaps_and_audit_are_answered(web):
    types = {row["worker_type"]: row for row in web.get("/api/v1/types").json["types"]}
    assert (types["digest"]["waiting"], types["mail"]["running"]) == (2, 1)
    assert types["mail"]["ends"] == {"failed": 1}
    processes = {row["emitter"]["kind"]: row for row in web.get("/api/v1/processes").json["processes"]}
    assert (processes["consumer"]["busy"], processes["consumer"]["slots"]) == (1, 4)
    minutes = web.get(f"/api/v1/minutes?since={NOW - 200}&until={NOW + 60}&type=digest").json["minutes"]
    assert sum(row["count"] for row in minutes if row["state"] == "succeeded") == 1
    assert web.get("/api/v1/gaps").json == {"gaps": []}
    assert web.get("/api/v1/audit").json == {"audit": []}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=failed&state=rejected", {"south-1", "reject-1"}),
        ("type=digest&tenant=north", {"north-1", "north-2"}),
        ("label=nightly", {"north-1"}),
        ("host=host2&state=succeeded", {"north-1"}),
        ("id=south", {"south-1", "south-2"}),
        ("error=disk", {"south-1"}),
        ("body=invoice", {"north-1"}),
        (f"until={NOW - 93}&state=succeeded", {"north-1"}),
        (f"since={NOW - 93}&state=succeeded", set()),
    ],
    ids=range(9),  # the times differ between pytest-xdist's processes
)
def test_each_filter_selects_what_it_says(web, query, expected):
    answer = web.get(f"/api/v1/workitems?{query}")
    assert set(ids(answer)) == expected
    assert web.get(f"/api/v1/count?{query}").json == {"count": len(expected)}


def test_pages_have_every_workitem_once(web):
    seen, cursor = [], ""
    while True:
        page = web.get(f"/api/v1/workitems?limit=2{cursor}").json
        seen += [each["id"] for each in page["workitems"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={quote(page['next'], safe='')}"
    assert len(seen) == len(set(seen)) == 7


def test_an_id_may_have_any_characters(web):
    found = web.get(f"/api/v1/workitems/{quote('odd/../id?x=1&y <b>', safe='')}")
    assert (found.status, found.json["id"]) == (200, "odd/../id?x=1&y <b>")


def test_an_id_that_was_never_seen_is_told_with_the_begin_of_the_record(web):
    answer = web.get("/api/v1/workitems/none")
    assert answer.status == 404
    assert re.fullmatch(r"workitem 'none': never seen; the record begins at .* UTC", answer.error)
    assert web.get("/api/v1/workitems/none/log").status == 404


def test_the_metrics_are_prometheus_and_name_no_worker_or_id(daemon, tmp_path):
    write_record(tmp_path / "record")
    web = Web(daemon, tmp_path / "record", TOKEN)
    now = time.time()
    with Store(tmp_path / "record") as store:
        events = [Ended("m1", "digest", 1, "failed", "retrying", now, now - 2, again_at=now + 1),
                  Ended("m1", "digest", 2, "succeeded", "succeeded", now, now - 0.02),
                  Ended("m2", "mail", 1, "crashed", "failed", now, error="killed by SIGSEGV")]  # fmt: skip
        store.write([(3, batch(CONSUMER, len(ENDED), events))])
    answer = web.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    assert 'taskqueue_waiting{type="digest"} 2.0' in text
    assert 'taskqueue_workers{state="busy"} 1.0' in text
    assert "taskqueue_events_missed_total 0.0" in text
    assert 'taskqueue_ended_total{status="succeeded",type="digest"} 1.0' in text
    assert 'taskqueue_retries_total{type="digest"} 1.0' in text
    assert 'taskqueue_crashes_total{cause="SIGSEGV",type="mail"} 1.0' in text
    assert 'taskqueue_run_seconds_bucket{le="0.03",type="digest"} 1.0' in text
    assert 'taskqueue_run_seconds_bucket{le="+Inf",type="digest"} 2.0' in text
    assert 'taskqueue_run_seconds_count{type="digest"} 2.0' in text
    counted = [line for line in text.splitlines() if "_total" in line or "_count" in line]
    assert set(counted) < set(web.get("/metrics").body.decode().splitlines()), "nothing is counted twice"
    labels = " ".join(re.findall(r"\{(.*)\}", text))
    assert set(re.findall(r'(\w+)="', labels)) == {"type", "state", "status", "kind", "le", "cause"}


def test_counters_of_events_only_grow_also_if_the_record_forgets_who_counted(daemon, tmp_path):
    write_record(tmp_path / "record")
    web = Web(daemon, tmp_path / "record", TOKEN)

    def counted():
        return re.findall(r"taskqueue_events_\w+_total ([0-9.]+)", web.get("/metrics").body.decode())

    assert counted() == ["0.0", "0.0"]
    gone = Emitter("host3", "consumer", "digest", 33, NOW - 1000)
    with Store(tmp_path / "record") as store:
        state = ProcessState(NOW, "takes work", lost=5)
        store.write([(3, batch(gone, 10, [state])), (4, batch(gone, 14, [state]))])
        assert counted() == ["3.0", "5.0"]
        store.write([(5, batch(gone, 11, [state] * 3))])  # late
        store.prune(
            NOW + 3 * 86400, {"succeeded": 9e9, "failed": 9e9, "rejected": 9e9, "cancelled": 9e9}, 9e9, 10**12
        )
    assert web.get("/api/v1/processes").json == {"processes": []}
    assert counted() == ["3.0", "5.0"]


def test_the_health_needs_no_login_and_tells_nothing(web):
    assert web.get("/healthz", login="").json == {"status": "ok"}


def test_the_document_has_every_route_and_parameter(web):
    document = web.get("/api/v1/openapi.json").json
    paths = {path: list(methods) for path, methods in document["paths"].items()}
    assert paths == {
        **{api.PREFIX + route.path: ["get"] for route in api.ROUTES},
        "/api/v1/actions/{action}": ["post"],
        "/api/v1/schedules": ["get", "post"],
        "/api/v1/schedules/{name}": ["get", "delete"],
        "/api/v1/schedules/{name}/next": ["get"],
        "/api/v1/schedules/{name}/{operation}": ["post"],
        "/api/v1/pools": ["get"],
        "/api/v1/pools/{command}": ["post"],
        "/api/v1/workflows": ["get"],
        "/api/v1/workflows/{id}": ["get"],
        "/api/v1/workflows/{id}/{operation}": ["post"],
        "/api/v1/openapi.json": ["get"],
        "/metrics": ["get"],
        "/healthz": ["get"],
    }
    for path, methods in paths.items():
        operation = "cancel" if "workflows" in path else "pause"
        parts = {"id": "north-1", "action": "retry", "operation": operation, "command": "roll"}
        tried = path.format_map(defaultdict(lambda: "{name}", parts))
        answer = web.post(tried, {}) if methods == ["post"] else web.get(tried)
        daemons = "schedules", "pools", "workflows"  # the recorder asks them, and none runs
        is_asking = any(f"/{word}" in path for word in daemons)
        expected = 502 if is_asking else 400 if methods == ["post"] else 200
        assert answer.status == expected, path
    for route in api.ROUTES:
        said = document["paths"][api.PREFIX + route.path]["get"]["parameters"]
        assert {each["name"] for each in said if each["in"] == "query"} == {
            each.name for each in route.parameters
        }


def test_an_answer_has_what_its_schema_says(web):
    schemas = web.get("/api/v1/openapi.json").json["components"]["schemas"]
    answers = [("Details", "/workitems/north-1"), ("Workitems", "/workitems"), ("Types", "/types"),
               ("Processes", "/processes"), ("Overview", "/overview"),
               ("DeadLetters", "/dead-letters"), ("Status", "/status"), ("Minutes", "/minutes")]  # fmt: skip
    for name, path in answers:
        check(web.get(f"/api/v1{path}").json, schemas[name], schemas)


KINDS = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
         "boolean": bool, "null": type(None)}  # fmt: skip


def check(value, schema, schemas):
    """Compare a value with a schema, as far as ours go."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        kind = next(each for each in schema["anyOf"] if isinstance(value, KINDS[each.get("type", "object")]))
        check(value, kind, schemas)
        return
    assert isinstance(value, KINDS[schema["type"]]), (value, schema)
    if "properties" in schema:
        assert value.keys() == schema["properties"].keys()
        for name, inner in schema["properties"].items():
            check(value[name], inner, schemas)
    for each in value if isinstance(value, list) else ():
        check(each, schema["items"], schemas)


# --- closed by default ---


def test_without_a_login_nothing_is_served(web):
    for path in ("/api/v1/workitems", "/api/v1/openapi.json", "/metrics", "/nothing"):
        answer = web.get(path, login="")
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert web.post("/api/v1/actions/purge", {"filter": {}}, login="").status == 401
    assert (web.get("/", login="").status, web.get("/", login="").body) == (303, b"")


@pytest.mark.parametrize(
    "login",
    [
        basic("ann", "wrong"), basic("nobody", PASSWORD), basic("", PASSWORD), "Basic", "Basic !!!",
        "Basic " + base64.b64encode(b"\xff:x").decode(), "Basic " + base64.b64encode(b"no colon").decode(),
        "Bearer", "Bearer tq_wrong", f"Bearer {TOKEN}x", f"Token {TOKEN}", "x" * 9000,
    ],
    ids=range(12),  # the token differs between pytest-xdist's processes
)  # fmt: skip
def test_a_wrong_login_is_refused(own_web, login):
    assert own_web.get("/api/v1/workitems", login=login).status == 401


def test_without_users_and_token_nobody_gets_in(daemon, record, tmp_path):
    write_record(tmp_path / "other")
    web = Web(daemon, tmp_path / "other")
    assert web.get("/healthz").status == 200
    assert web.get("/api/v1/status", login=ROOT).status == 401
    assert web.get("/api/v1/status", login=f"Bearer {TOKEN}").status == 401


def test_a_user_who_is_added_or_removed_is_so_at_once(daemon, tmp_path):
    write_record(tmp_path / "record")
    web, file = Web(daemon, tmp_path / "record"), UserFile(tmp_path / "record/users.json")
    assert web.get("/api/v1/status", login=ANN).status == 401
    file.add(users.user(ACCOUNTS["ann"], PASSWORD))
    assert web.get("/api/v1/status", login=ANN).json["user"] == "ann"
    file.remove("ann", is_token=False)
    assert web.get("/api/v1/status", login=ANN).status == 401


def test_failed_logins_slow_down_and_are_logged_once(own_web):
    web = own_web
    assert web.get("/api/v1/status", login=EVE).status == 200
    statuses = [web.get("/api/v1/status", login=basic("root", "wrong")).status for _ in range(FREE + 3)]
    assert statuses == [401] * FREE + [429] * 3
    answer = web.get("/api/v1/status", login=ROOT)
    assert answer.status == 429, "even with the right password"
    assert int(answer.headers["retry-after"]) >= 0
    assert web.get("/api/v1/status", login=EVE).status == 200, "who has logged in is not slowed down"
    assert web.get("/api/v1/status", login=ANN).status == 200, "nor is another user"
    for _ in range(2 * FREE):
        assert web.get("/api/v1/status", login="Bearer tq_guess").status == 401
    assert web.get("/api/v1/status").status == 200, "nor is a right token"
    assert web.daemon.output().count("failed login as 'root'") == 1
    assert "wrong" not in web.daemon.output()


# --- rights ---


def test_a_viewer_of_a_tenant_sees_nothing_of_another(web):
    assert set(ids(web.get("/api/v1/workitems", login=ANN))) == {"north-1", "north-2"}
    for query in ("tenant=south", "id=south", "state=failed", "error=disk", "type=mail"):
        assert ids(web.get(f"/api/v1/workitems?{query}", login=ANN)) == [], query
        assert web.get(f"/api/v1/count?{query}", login=ANN).json == {"count": 0}, query
    for path in ("/workitems/south-1", "/workitems/south-1/log", "/workitems/reject-1"):
        answer = web.get(f"/api/v1{path}", login=ANN)
        assert answer.status == 404, path
        assert "never seen" in answer.error
    rows = {row["worker_type"]: row for row in web.get("/api/v1/types", login=ANN).json["types"]}
    assert rows["digest"]["waiting"] == 1, "and not the workitem without a tenant"
    assert not any(
        row["running"] or row["waiting"] or row["ends"] for name, row in rows.items() if name == "mail"
    )
    minutes = web.get("/api/v1/minutes", login=ANN).json["minutes"]
    assert {row["tenant"] for row in minutes} == {"north"}


def test_a_viewer_of_types_sees_no_others(web):
    assert set(ids(web.get("/api/v1/workitems", login=BOB))) == {"south-1", "south-2"}
    assert ids(web.get("/api/v1/workitems?type=digest", login=BOB)) == []
    assert [row["worker_type"] for row in web.get("/api/v1/types", login=BOB).json["types"]] == ["mail"]
    assert web.get("/api/v1/workitems/north-1", login=BOB).status == 404


@pytest.mark.parametrize("path", ["/api/v1/processes", "/api/v1/gaps", "/metrics"])
def test_what_is_about_all_is_not_for_limited_users(web, path):
    assert web.get(path, login=ANN).status == web.get(path, login=BOB).status == 403
    assert web.get(path, login=EVE).status == 200


def test_bodies_are_a_right_of_their_own(web):
    shown = web.get("/api/v1/workitems/north-1", login=ANN)
    assert (shown.status, shown.json["head"], shown.json["result"]) == (200, "", None)
    listed = web.get("/api/v1/workitems", login=EVE)
    assert all(each["head"] == "" for each in listed.json["workitems"])
    assert SECRET.encode() not in shown.body + listed.body
    assert web.get("/api/v1/workitems?body=invoice", login=EVE).status == 403
    assert web.get("/api/v1/count?body=invoice", login=EVE).status == 403
    assert web.post("/api/v1/actions/retry", {"filter": {"body": "invoice"}}, login=EVE).status == 403
    assert web.get("/api/v1/workitems/north-1", login=ROOT).json["head"] == SECRET


def test_a_role_is_needed(web):
    assert web.post("/api/v1/actions/retry", {"ids": ["south-1"]}, login=ANN).status == 403
    assert web.get("/api/v1/audit", login=EVE).status == 403
    assert web.get("/api/v1/audit", login=ROOT).status == 200


def test_an_action_without_a_recorder_fails_in_a_line(web):
    answer = web.post("/api/v1/actions/retry", {"ids": ["south-1"]})
    assert answer.status == 502
    assert answer.error == "the recorder cannot be asked: No such file or directory"


# --- bad input ---


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/v1/workitems?state=done", "parameter state: expected one of queued"),
        ("/api/v1/workitems?limit=1001", "parameter limit: expected a whole number from 1 to 1000"),
        ("/api/v1/workitems?limit=", "parameter limit: expected"),
        ("/api/v1/workitems?limit=1&limit=2", "parameter limit: expected at most 1 value, found 2"),
        ("/api/v1/workitems?cursor=%00%ff", "parameter: expected UTF-8"),
        ("/api/v1/workitems?cursor=nonsense", "parameter cursor: expected `next` of the page before"),
        ("/api/v1/workitems?colour=red", "parameter 'colour': unknown; expected one of state, type"),
        ("/api/v1/types?x=1", "parameter 'x': unknown; expected none"),
        ("/api/v1/workitems?label=" + "x" * 256, "parameter label: expected 1 to 255 printable characters"),
        ("/api/v1/minutes?since=0", "parameter since: expected a time before until"),
        ("/api/v1/workitems/%ff", "path: expected UTF-8"),
    ],
)
def test_bad_parameters_are_named(web, path, said):
    answer = web.get(path)
    assert answer.status == 400
    assert said in answer.error


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/api/v1/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/../users.json",
     "/users.json", "/api/v1/workitems/a/b/c", "/api/v1//types", "/api/v2/types", "//types"],
)  # fmt: skip
def test_no_path_leads_anywhere_else(web, path):
    answer = web.get(path)
    assert answer.status == 404
    assert "/api/v1/openapi.json lists the paths" in answer.error


@pytest.mark.parametrize(
    "id_", ["..%2f..%2fetc%2fpasswd", "%00", "'%20OR%201=1--", "%0d%0aSet-Cookie:%20x=1", "x" * 4000]
)
def test_a_hostile_id_was_never_seen(web, id_):
    answer = web.get(f"/api/v1/workitems/{id_}")
    assert answer.status == 404
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-type"] == "application/json"


def test_what_looks_like_sql_is_text(web):
    for name in ("label", "host", "id", "error", "body", "tenant"):
        for value in ('"', "'", "a' OR '1'='1", "%", "*", 'x" OR "y', "NEAR(a b)", "a AND", "("):
            answer = web.get(f"/api/v1/workitems?{name}={quote(value, safe='')}")
            assert ids(answer) == [], (name, value)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_not_allowed(web, method):
    answer = web.request(method, "/api/v1/workitems", b"")
    assert answer.status == 405


def test_an_action_is_no_form_and_no_get(web):
    body = {"filter": {}}
    assert web.post("/api/v1/actions/purge", body, kind="text/plain").status == 400
    assert (
        web.post("/api/v1/actions/purge", b"filter=", kind="application/x-www-form-urlencoded").status == 400
    )
    assert web.get("/api/v1/actions/purge").status == 405
    assert web.post("/api/v1/actions/drop", body).status == 400
    for content in (b"", b"{", b"[" * 100_000, b"\xff", b"null", b'{"ids": "x"}'):
        assert web.post("/api/v1/actions/purge", content).status == 400, content[:20]


def test_a_request_that_is_too_large_is_refused_and_others_are_served(web):
    start = f"Authorization: Bearer {TOKEN}\r\nHost: x\r\n"
    assert b" 200 " not in web.raw(
        f"GET /api/v1/workitems?id={'x' * 1_000_000} HTTP/1.1\r\n{start}\r\n".encode()
    )
    huge = f"POST /api/v1/actions/purge HTTP/1.1\r\n{start}Content-Length: 99999999\r\n\r\n"
    assert b" 200 " not in web.raw(huge.encode() + b"x" * 3_000_000)
    assert web.get("/api/v1/status").status == 200


@pytest.mark.parametrize(
    "data",
    [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
     b"GET /api/v1/types HTTP/1.1\r\nno colon\r\n\r\n",
     b"GET /healthz HTTP/1.1\r\nConnection: close\r\nContent-Length: x\r\n\r\n",
     b"GET /healthz HTTP/1.1\r\nConnection: close\r\nContent-Length: -1\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused_and_others_are_served(web, data):
    assert b" 200 " not in web.raw(data)
    assert web.get("/healthz").status == 200
    assert "bug" not in web.daemon.output()


def test_no_answer_may_be_framed_cached_or_sniffed(web):
    for path in ("/api/v1/types", "/nothing", "/healthz"):
        headers = web.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_a_slow_query_is_ended_and_does_not_block_others(daemon, record):
    web = Web(daemon, record, TOKEN, deadline=0)
    answer = web.get("/api/v1/workitems")
    assert answer.status == 503
    assert "narrow the filter" in answer.error


def connections(port, address, count, stack):
    """Open connections from an address of this host."""
    return [
        stack.enter_context(socket.create_connection(("127.0.0.1", port), 20, (address, 0)))
        for _ in range(count)
    ]


def test_more_connections_than_are_served_do_no_harm(own_web):
    with contextlib.ExitStack() as stack:
        many = [
            each for host in range(2, 8) for each in connections(own_web.port, f"127.0.0.{host}", 100, stack)
        ]
        wait_until(lambda: sum(_is_closed(each) for each in many) == 100)
    wait_until(lambda: _is_healthy(own_web))
    assert "Traceback" not in own_web.daemon.output()


def test_one_address_cannot_take_all_connections(own_web):
    with contextlib.ExitStack() as stack:
        many = connections(own_web.port, "127.0.0.2", 150, stack)
        wait_until(lambda: sum(_is_closed(each) for each in many) == 50)
        assert _is_healthy(own_web), "others are served"
        for each in many:
            each.close()
        (again,) = connections(own_web.port, "127.0.0.2", 1, stack)
        wait_until(lambda: not _is_closed(again))


def test_it_may_have_as_many_open_files_as_connections_and_threads_need(own_web):
    limits = Path(f"/proc/{own_web.daemon.pid}/limits").read_text()
    assert re.search(r"Max open files +4096 ", limits)


def test_a_client_that_reads_no_answers_is_hung_up_on(record, forked, monkeypatch):
    monkeypatch.setattr(server, "_SEND_TIMEOUT", 1.0)
    sockets = server.listen("127.0.0.1", 0)
    address = sockets[0].getsockname()
    settings = WebSettings(record)
    forked(lambda: server.serve(settings, sockets))
    for each in sockets:
        each.close()
    requests = b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
    with socket.create_connection(address) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        wait_until(lambda: _is_hung_up(deaf, requests), 50)


def _is_hung_up(sock, data):
    try:
        sock.send(data)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return False


def _is_closed(sock):
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return sock.recv(1, socket.MSG_PEEK) == b""
    return False


def _is_healthy(web):
    with contextlib.suppress(OSError, http.client.HTTPException):
        return web.get("/healthz").status == 200


# --- the process ---


def test_it_ends_on_sigterm_in_good_order(own_web):
    assert own_web.daemon.stop() == 0


def test_the_log_has_no_secret(web):
    web.get("/api/v1/types", login=ANN)
    web.get("/api/v1/types")
    web.get(f"/api/v1/nothing?token={TOKEN}")
    output = web.daemon.output()
    assert PASSWORD not in output
    assert TOKEN not in output


def test_a_missing_record_is_an_error_of_one_line(daemon, tmp_path):
    (tmp_path / "empty").mkdir()
    web = Web(daemon, tmp_path / "empty", TOKEN)
    answer = web.get("/healthz")
    assert answer.status == 503
    assert "\n" not in answer.error
    assert web.get("/api/v1/types").status == 503
    write_record(tmp_path / "empty")
    wait_until(lambda: web.get("/healthz").status == 200)

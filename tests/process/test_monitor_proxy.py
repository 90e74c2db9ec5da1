"""The web process behind a proxy that logs users in: who comes through its socket, and who does not."""

import http.client
import os
import socket
import stat

import pytest
from support.recorded import write_record
from support.web import Answer, Web, basic

from taskqueue.monitor.web import users
from taskqueue.monitor.web.listening import CannotListen, listen_for_proxy
from taskqueue.monitor.web.rights import OPERATOR, VIEWER, Rights
from taskqueue.monitor.web.throttle import FREE
from taskqueue.monitor.web.users import UserFile

PASSWORD = "correct horse"


class Proxy(http.client.HTTPConnection):
    """A connection through a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "proxy.socket"


@pytest.fixture
def web(daemon, tmp_path, path):
    record = tmp_path / "record"
    write_record(record)
    file = UserFile(record / "users.json")
    file.add(users.user(Rights("ann", VIEWER, frozenset(("north",))), None))
    file.add(users.user(Rights("eve", OPERATOR), PASSWORD))
    token, web_token = users.token(Rights("ci"))
    file.add(token)
    web = Web(daemon, record, proxy=path)
    web.ci = web_token
    return web


@pytest.fixture
def ask(web, path):
    """Ask through the proxy's socket, with some headers."""

    def ask(*headers, where="/api/v1/workitems"):
        connection = Proxy(path)
        connection.putrequest("GET", where)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, names, response.read())
        connection.close()
        return answer

    return ask


def test_the_proxy_names_the_user_whose_rights_hold(ask):
    answer = ask(("X-Remote-User", "ann"))
    assert answer.status == 200
    assert {each["id"] for each in answer.json["workitems"]} == {"north-1", "north-2"}
    assert ask(("x-remote-user", "eve"), where="/api/v1/status").json["user"] == "eve"
    assert ask(("X-Remote-User", "ann"), where="/metrics").status == 403


@pytest.mark.parametrize("name", ["nobody", "ci", "", "ann, eve", "ann,eve", "(up)"])
def test_who_is_no_user_has_no_rights(ask, name):
    answer = ask(("X-Remote-User", name))
    assert answer.status == 403
    assert answer.error.startswith(f"there is no user '{name}'")


def test_a_cookie_is_for_https_alone_if_the_proxy_says_that_the_browser_speaks_it(ask, web):
    def cookie(*headers):
        return ask(*headers, where="/login").headers["set-cookie"]

    assert "Secure" in cookie(("X-Forwarded-Proto", "https"))
    assert "Secure" not in cookie(("X-Forwarded-Proto", "http"))
    assert "Secure" not in cookie()
    over_tcp = web.request("GET", "/login", headers={"X-Forwarded-Proto": "https"}, login="")
    assert "Secure" not in over_tcp.headers["set-cookie"], "nobody may say so over TCP"


def test_two_names_are_none(ask):
    assert ask(("X-Remote-User", "ann"), ("X-Remote-User", "eve")).status == 403


def test_the_header_goes_before_other_logins_and_without_it_they_are_needed(ask, web):
    assert ask(("X-Remote-User", "nobody"), ("Authorization", basic("eve", PASSWORD))).status == 403
    assert ask().status == 401
    assert ask(("Authorization", f"Bearer {web.ci}")).status == 200


def test_the_header_is_ignored_over_tcp(web):
    for name in ("ann", "eve"):
        answer = web.request("GET", "/api/v1/status", headers={"X-Remote-User": name})
        assert answer.status == 401
    headers = {"X-Remote-User": "ann"}
    answer = web.request("GET", "/api/v1/status", headers=headers, login=basic("eve", PASSWORD))
    assert answer.json["user"] == "eve"


@pytest.mark.parametrize("password", ["", PASSWORD, "None"])
def test_a_user_without_a_password_cannot_log_in_with_one(web, password):
    assert web.get("/api/v1/status", basic("ann", password)).status == 401


def test_failed_logins_slow_down_the_address_that_the_proxy_adds(ask, web):
    def log_in(forwarded, password="wrong"):
        return ask(("X-Forwarded-For", forwarded), ("Authorization", basic("eve", password))).status

    tries = [log_in(f"198.51.100.{number}, 192.0.2.1") for number in range(FREE + 1)]
    assert tries == [401] * FREE + [429], "what the client has sent before it does not count"
    assert log_in("192.0.2.1, 192.0.2.2") == 401, "another address need not wait"
    assert log_in("192.0.2.2", PASSWORD) == 200
    assert "failed login as 'eve' from 192.0.2.1; " in web.daemon.output()


def test_clients_that_the_proxy_does_not_tell_apart_wait_together(ask):
    tries = [
        ask(*headers, ("Authorization", basic("eve", "wrong"))).status
        for headers in [(), (("X-Forwarded-For", "unknown"),), (("X-Forwarded-For", ""),)] * FREE
    ]
    assert tries[:FREE] == [401] * FREE
    assert 429 in tries[FREE:]


def test_a_forwarded_address_is_ignored_over_tcp(web):
    tries = [
        web.request(
            "GET",
            "/api/v1/status",
            headers={"X-Forwarded-For": f"192.0.2.{number}"},
            login=basic("eve", "wrong"),
        ).status
        for number in range(FREE + 1)
    ]
    assert tries == [401] * FREE + [429]


def test_only_owner_and_group_may_connect_and_root_takes_the_group_of_the_directory(web, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.stat().st_gid == path.parent.stat().st_gid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_the_socket_has_the_group_of_its_directory(tmp_path):
    os.chown(tmp_path, -1, 12345)
    with listen_for_proxy(str(tmp_path / "s")):
        assert (tmp_path / "s").stat().st_gid == 12345


def test_a_socket_in_use_or_another_file_is_left_and_an_old_one_replaced(tmp_path):
    path = tmp_path / "s"
    with listen_for_proxy(str(path)), pytest.raises(CannotListen, match="another process listens there"):
        listen_for_proxy(str(path))
    with listen_for_proxy(str(path)):
        pass
    (tmp_path / "file").write_text("kept")
    with pytest.raises(CannotListen, match="there is a file that is no socket"):
        listen_for_proxy(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(CannotListen, match="No such file or directory"):
        listen_for_proxy(str(tmp_path / "none" / "s"))

"""`taskqueue monitor user` and `token`: what is asked, printed and kept."""

import json
import os
import stat

import pytest

from taskqueue.monitor.web.rights import OPERATOR, Rights
from taskqueue.monitor.web.users import UserFile


@pytest.fixture
def users(tmp_path):
    return UserFile(tmp_path / "record/users.json")


@pytest.fixture
def call(call, write, tmp_path):
    """Call a command of `taskqueue monitor` with a configuration; return status, output and errors."""
    config = write(f"[monitor]\ndatabase: {tmp_path}/record\nuser: taskqueue-worker\n")
    return lambda *arguments, typed="": call("monitor", *arguments, "-c", config, typed=typed)


def test_a_user_is_added_with_the_password_from_stdin(call, users):
    words = ["--role", "operator", "--tenant", "north", "--tenant", "south", "--type", "image-*", "--bodies"]
    assert call("user", "add", "ann", *words, typed="correct horse\n") == (
        *(0, ""), f"user ann is added to {users.path}\n"
    )  # fmt: skip
    found = users.read().with_password("ann", "correct horse")
    assert found.rights == Rights("ann", OPERATOR, frozenset(("north", "south")), ("image-*",), bodies=True)


def test_a_user_of_a_proxy_has_no_password_and_none_is_read(call, users):
    assert call("user", "add", "ann", "--role", "operator", "--no-password", typed="correct horse\n") == (
        0,
        "",
        f"user ann is added to {users.path}\n",
    )
    assert users.read().by_name["ann"].rights == Rights("ann", OPERATOR)
    for password in ("correct horse", ""):
        assert users.read().with_password("ann", password) is None
    (listed,) = json.loads(call("user", "list", "--format", "json")[1])
    assert listed["password"] is False


def test_a_token_is_printed_and_fits(call, users):
    status, printed, errors = call("token", "add", "prometheus")
    assert (status, errors) == (0, f"token prometheus is added to {users.path}\n")
    assert users.read().with_token(printed.strip()).rights == Rights("prometheus")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_what_root_writes_is_the_recorders_and_the_web_process_may_read_it(call, users):
    call("token", "add", "first")
    call("token", "add", "second")
    for path, mode in ((users.path.parent, 0o2750), (users.path, 0o640)):
        assert (path.owner(), path.group()) == ("taskqueue", "taskqueue-worker")
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_password_is_no_argument(call, users):
    status, _, errors = call("user", "add", "ann", "correct horse")
    assert status == 2
    assert "unexpected extra argument" in errors
    assert users.read().by_name == {}


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        (("user", "add", "ann"), "short\n", "password: expected 8 to 1024 characters, found 5"),
        (("user", "add", "ann"), "", "password: expected 8 to 1024 characters, found 0"),
        (("user", "add", "a:b"), "correct horse", "name: expected 1 to 64 of letters"),
        (("user", "remove", "nobody"), "", "there is no user 'nobody'"),
        (("token", "remove", "nobody"), "", "there is no token 'nobody'"),
    ],
)
def test_what_is_not_accepted_is_said_in_a_line(call, arguments, typed, said):
    status, printed, errors = call(*arguments, typed=typed)
    assert (status, printed) == (1, "")
    assert errors.startswith(f"taskqueue: {said}")
    assert errors.count("\n") == 1


def test_users_and_tokens_are_listed_apart_and_without_hashes(call):
    call("user", "add", "ann", "--tenant", "north", typed="correct horse")
    call("token", "add", "ci", "--role", "operator")
    status, printed, _ = call("user", "list", "--format", "json")
    assert status == 0
    assert json.loads(printed) == [
        {"name": "ann", "kind": "user", "role": "viewer", "tenants": ["north"], "types": [], "bodies": False,
         "password": True}
    ]  # fmt: skip
    assert [line.split() for line in call("token", "list")[1].splitlines()[1:]] == [
        ["name", "role", "tenants", "types", "bodies"],
        ["ci", "operator", "all", "all", "no"],
    ]


def test_a_removed_user_is_no_longer_listed(call, users):
    call("user", "add", "ann", typed="correct horse")
    assert call("user", "remove", "ann") == (0, "", f"user ann is removed from {users.path}\n")
    assert call("user", "list") == (0, f"There is no user in {users.path}.\n", "")
    assert call("user", "list", "--format", "json") == (0, "[]\n", "")

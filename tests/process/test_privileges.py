import os
import pwd

import pytest

from taskqueue.errors import PrivilegeError
from taskqueue.process import privileges

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

#: A user of every Debian machine, with no rights to lose.
SOMEBODY = "nobody"


def refusal(name):
    """Try to become a user; print why not."""

    def run():
        try:
            privileges.become(name)
        except PrivilegeError as error:
            print(error)
            print("still", os.getresuid())

    return run


@as_root
def test_who_becomes_a_user_has_all_of_its_ids_and_none_of_roots_groups(forked):
    user = pwd.getpwnam(SOMEBODY)

    def run():
        os.setgroups([0, 4, 6])
        privileges.become(SOMEBODY)
        print(os.getresuid(), os.getresgid(), sorted(os.getgroups()))

    child = forked(run)
    assert child.wait() == 0
    groups = sorted(os.getgrouplist(SOMEBODY, user.pw_gid))
    assert child.output() == f"{(user.pw_uid,) * 3} {(user.pw_gid,) * 3} {groups}\n"
    assert 0 not in groups


@as_root
def test_who_became_a_user_cannot_become_root_again(forked):
    def run():
        privileges.become(SOMEBODY)
        for change in (os.setuid, os.seteuid, os.setgid, os.setegid):
            with pytest.raises(PermissionError):
                change(0)
        with pytest.raises(PermissionError):
            os.setgroups([0])

    assert forked(run).wait() == 0


@as_root
def test_nobody_becomes_root(forked):
    child = forked(refusal("root"))
    assert child.wait() == 0
    assert "user 'root' has root's user or group id; workers never run as root" in child.output()


@as_root
def test_a_user_in_roots_group_is_refused(forked):
    user = next((user for user in pwd.getpwall() if user.pw_uid and not user.pw_gid), None)
    if user is None:
        pytest.skip("no user of this machine is in root's group")
    child = forked(refusal(user.pw_name))
    assert child.wait() == 0
    assert "has root's user or group id" in child.output()


@pytest.mark.parametrize("name", ["no-such-user", "", "0"])
def test_an_unknown_user_is_refused(forked, name):
    child = forked(refusal(name))
    assert child.wait() == 0
    assert f"there is no Unix user {name!r}\nstill {os.getresuid()}" in child.output()


def test_who_is_not_root_can_become_nobody_else(forked):
    def run():
        if os.geteuid() == 0:
            os.setresuid(54321, 54321, 54321)
        refusal(SOMEBODY)()

    child = forked(run)
    assert child.wait() == 0
    assert child.output().startswith(f"cannot become user '{SOMEBODY}': Operation not permitted")


def test_a_process_that_stays_the_same_user_keeps_its_environment_but_the_brokers_address():
    inherited = {"A": "1", "HOME": "/h", "TASKQUEUE_AMQP": "amqp://a", "NOTIFY_SOCKET": "@x",
                 "JOURNAL_STREAM": "1:2", "WATCHDOG_PID": "1", "WATCHDOG_USEC": "1"}  # fmt: skip
    assert privileges.environment(None, inherited) == {"A": "1", "HOME": "/h"}


def test_another_users_process_gets_an_environment_of_its_own():
    inherited = {"A": "1", "HOME": "/root", "PATH": "/bin", "LC_ALL": "C", "LANG": "de",
                 "PYTHONPATH": "/root/lib", "LD_PRELOAD": "x", "TASKQUEUE_AMQP": "amqp://a"}  # fmt: skip
    assert privileges.environment(SOMEBODY, inherited) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "LANG": "de",
        "HOME": pwd.getpwnam(SOMEBODY).pw_dir,
        "USER": SOMEBODY,
        "LOGNAME": SOMEBODY,
        "SHELL": "/bin/sh",
    }


def test_there_is_no_environment_for_an_unknown_user():
    with pytest.raises(PrivilegeError, match="there is no Unix user 'no-such-user'"):
        privileges.environment("no-such-user", {})

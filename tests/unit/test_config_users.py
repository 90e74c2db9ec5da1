import os

import pytest
from support.configs import PLUGINS, SEED, People

from taskqueue.config import UnixUsers, load
from taskqueue.errors import ConfigError


def test_without_root_a_group_may_name_only_the_user_who_runs_it(read, faults_of):
    text = "[worker1]\nuser: bifh1\n"
    assert read(text, people=People(own_uid=2001)).groups[0].user == "bifh1"
    for name in ("bifh1", "nobody-knows"):
        (fault,) = faults_of(f"[worker1]\nuser: {name}\n")
        expected = "a pool started by root, or no other user than its own"
        assert fault == f"section [worker1], option user: expected {expected}, found '{name}'"


def test_the_seeds_file_without_root_is_a_fault_for_each_user_that_it_names():
    with pytest.raises(ConfigError) as caught:
        load(str(SEED), PLUGINS, as_root=False, unix_users=People())
    assert [fault.section for fault in caught.value.faults] == ["worker2_bifh1", "worker2_bifh2"]


@pytest.mark.parametrize("as_root", [True, False])
@pytest.mark.parametrize("name", ["root", "toor"])
def test_no_group_may_run_as_root_under_any_name(faults_of, name, as_root):
    assert faults_of(f"[worker1]\nuser: {name}\n", as_root=as_root, people=People(own_uid=0, toor=0)) == [
        f"section [worker1], option user: expected an unprivileged user, found '{name}'"
    ]


def test_a_group_must_not_run_as_the_consumers_user(faults_of):
    for name in ("taskqueue", "alias"):
        assert faults_of(f"[worker1]\nuser: {name}\n", as_root=True, people=People(alias=990)) == [
            (
                "section [worker1], option user: expected another user than the consumers', "
                f"who know the broker's password, found '{name}'"
            )
        ]


def test_an_unknown_user_is_a_fault_as_root(faults_of):
    assert faults_of("[worker1]\nuser: nobody-knows\n", as_root=True) == [
        "section [worker1], option user: expected a Unix user that exists, found 'nobody-knows'"
    ]


def test_the_user_of_a_group_without_workers_is_not_looked_at(read):
    assert read("[worker1]\nuser: nobody-knows\nworkers: 0\n").groups[0].workers == 0


def test_missing_users_of_the_pool_are_one_fault_with_the_command_that_makes_them(faults_of, read):
    nobody = People(**{"taskqueue": None, "taskqueue-worker": None})
    make = "adduser --system --group --no-create-home taskqueue"
    assert faults_of("", as_root=True, people=nobody) == [
        (
            f"section [workerpool], option user: expected Unix users that exist (to make what is missing: "
            f"{make} && {make}-worker), found no taskqueue and no taskqueue-worker"
        )
    ]
    assert read("[DEFAULT]\nworkers: 0\n", as_root=True, people=nobody).groups[0].workers == 0
    assert read("", people=nobody).groups[0].user is None


def test_the_pools_worker_user_is_needed_only_where_a_group_names_none(read, faults_of):
    people = People(**{"taskqueue-worker": None})
    assert read("[DEFAULT]\nuser: bifh1\n", as_root=True, people=people).groups[0].user == "bifh1"
    (fault,) = faults_of("[worker1]\nuser: bifh1\n", as_root=True, people=people)
    assert fault.startswith("section [workerpool], option worker_user: expected Unix users that exist")


@pytest.mark.parametrize("option", ["user", "worker_user"])
def test_the_pools_users_must_not_be_root(faults_of, option):
    assert faults_of(f"[workerpool]\n{option}: root\n", as_root=True) == [
        f"section [workerpool], option {option}: expected an unprivileged user, found 'root'"
    ]


def test_workers_must_not_share_the_consumers_user(faults_of):
    (fault,) = faults_of("[workerpool]\nuser: bifh1\nworker_user: bifh1\n", as_root=True)
    assert fault.startswith(
        "section [workerpool], option worker_user: expected another user than the consumers'"
    )


def test_without_root_no_group_with_workers_may_be_isolated(faults_of, read):
    sections = (
        "[DEFAULT]\nread_only: yes\n[worker1]\nprivate_tmp: yes\n[worker2]\nworkers: 0\nno_network: yes\n"
    )
    expected = "expected a pool started by root, or no isolation, found 'yes'"
    assert faults_of(sections) == [
        f"section [worker1], option private_tmp: {expected}",
        f"section [DEFAULT], option read_only: {expected}",
    ]
    group = read(sections, as_root=True).groups[0]
    assert (group.private_tmp, group.no_network, group.read_only) == (True, False, True)


def test_users_are_looked_up_on_this_machine():
    users = UnixUsers()
    assert users.uid("root") == 0
    assert users.uid("no such user") is None
    assert users.own_uid() == os.geteuid()


def test_the_users_of_this_machine_are_asked_unless_others_are_given(write):
    with pytest.raises(ConfigError, match="a Unix user that exists, found 'no-such-user'"):
        load(write("[worker1]\nuser: no-such-user\n"), PLUGINS, as_root=True)

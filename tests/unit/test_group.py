"""The supervisor, which may be root, checks messages of a consumer before it acts on them."""

import signal

import pytest
from support.waiting import wait_until

from taskqueue.address import Source
from taskqueue.config import GroupSettings, LoggingSettings, PoolSettings
from taskqueue.consumer import control
from taskqueue.plugins import Plugin
from taskqueue.process import children
from taskqueue.process.cgroups import Cgroups
from taskqueue.supervisor.group import Group
from taskqueue.supervisor.members import Blueprint, Grants, SharedResources


@pytest.fixture
def group():
    """A group whose consumer is a process that does nothing."""
    around = SharedResources(
        PoolSettings(), LoggingSettings(), Source(None), Grants(), Cgroups(), as_root=False, open_files=1024
    )
    group = Group(
        Blueprint(GroupSettings("good", "good"), Plugin("good", "zoo:Good", "zoo", "1.0"), None), around
    )
    group.consumer.fill(children.fork(wait_for_a_signal))
    group.control, group.theirs = control.pair()
    yield group
    for end in (group.theirs, *group.files()):
        end.close()
    children.kill_group(group.consumer.pid)
    children.reap()


def wait_for_a_signal():
    children.let_signals_in()
    signal.pause()
    return 0


@pytest.mark.parametrize(
    "said",
    [
        b"\xff",
        b'["state", {}]',
        b'["kill", {}]',
        b'["serves", {"pid": 1, "types": 7}]',
        b'["begun", {"pid',
        b'["state", ' + b"[" * 100_000,
        b'["hung_up", {"pid": 1e999}]',
        b'["demand", {"waiting": Infinity, "busy": 1, "ended": 1, "run_time": 1.0}]',
        b'["demand", {"waiting": 1, "busy": -1, "ended": 1, "run_time": 1.0}]',
        b'["demand", {"waiting": 1, "busy": 1, "ended": 1, "run_time": NaN}]',
        b'["demand", {"waiting": 1, "busy": 1, "ended": true, "run_time": "1"}]',
    ],
)
def test_a_consumer_that_says_what_it_cannot_mean_is_killed_and_nobody_else(group, said, caplog):
    group.theirs.send(said)
    group.receive()
    assert "killing the consumer, which sent an invalid message" in caplog.text
    [end] = wait_until(children.reap)
    assert (end.pid, end.cause) == (group.consumer.pid, "killed by SIGKILL")


def test_a_consumer_that_names_a_process_of_others_is_not_heeded(group):
    other = children.fork(wait_for_a_signal)
    try:
        for pid in (other, [other], None):
            control.send(group.theirs, "kill", pid=pid)
        group.receive()
        assert children.reap() == []
    finally:
        children.kill_group(other)
        wait_until(children.reap)

"""Workers of commands, each at the other end of a socket pair, without a broker or a pool."""

import shlex

import pytest
from support.line import lines

from taskqueue.config import GroupSettings
from taskqueue.worker.commands import plugin_of
from taskqueue.worker.frames import Kind
from taskqueue.worker.limits import Limits
from taskqueue.worker.process import WorkerSpec


@pytest.fixture
def commanded(forked):
    """Start a worker of a command, without waiting for it: commanded(command, mode=..., timeout=..., ...)."""
    with lines(forked) as open_line:

        def start(command, **options):
            group = GroupSettings("trial", "trial", command=tuple(shlex.split(command)), **options)
            line = open_line(WorkerSpec("trial/1", "trial", None, {}, Limits.of(group), own=plugin_of(group)))
            line.worker_type = "trial"
            return line

        yield start


@pytest.fixture
def ready(commanded):
    """Start a worker of a command and wait until it is ready."""

    def start(command, **options):
        line = commanded(command, **options)
        assert line.receive() == (Kind.READY, b""), line.child.output()
        return line

    return start

"""A broker whose data is that of an hour ago: it forgets what came since, and repeats what was done since."""

import os
import shutil
import signal
from collections.abc import Iterator

import pytest
from support.node import Node
from support.waiting import wait_until


@pytest.fixture
def broker(rabbitmq, node_directory) -> Iterator[Node]:
    """A broker of the test's own, whose data can be put back."""
    with Node(node_directory / "restored") as node:
        yield node


def stop_in_order(broker):
    os.kill(broker.pid, signal.SIGTERM)
    wait_until(lambda: not broker.alive, 30, "the broker's end")


def test_all_that_a_backup_holds_is_done_although_the_daemons_never_stopped(site, work, broker):
    work.foreign.declare("worker_good")
    work.submit_numbers(range(100))
    stop_in_order(broker)
    data, backup = broker.state_dir / "data", broker.state_dir.with_name("backup")
    shutil.copytree(data, backup)
    broker.start()

    dispatcher = site.dispatcher("[good]\nworkers: 2\n[raising]\nworkers: 1\nretries: 1\nretry_delay: 0.2")
    pool = site.pool()
    work.assert_all_numbers(range(100))
    work.dispatch("raising", {"error": "ValueError"})  # makes queues that the backup does not have
    assert work.result().status == "failed"
    wait_until(lambda: work.foreign.depth("taskqueue_failed") == 1)
    work.wait_until_empty("taskqueue", "worker_good", "worker_raising")

    stop_in_order(broker)
    shutil.rmtree(data)
    shutil.move(backup, data)
    broker.start()

    work.assert_all_numbers(range(100))  # once more, as the backup has them in `taskqueue`
    failing = work.dispatch("raising", {"error": "ValueError"})
    assert work.result(40).workitem == failing
    wait_until(lambda: work.foreign.depth("taskqueue_failed") == 1)
    work.wait_until_empty("taskqueue", "worker_good", "worker_raising")
    assert (pool.stop(), dispatcher.stop()) == (0, 0)
    assert "Traceback" not in pool.output() + dispatcher.output()

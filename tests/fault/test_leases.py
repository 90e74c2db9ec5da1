"""Workitems that take longer than the broker waits for an acknowledgement.

The broker of these tests waits for 3 seconds where others wait for 30 minutes, and looks twice a second.
"""

import json
import os
import re
import signal
import time

import pytest
from support.node import Node
from support.processes import kill
from support.site import workers
from support.waiting import wait_until

PATIENCE = 3.0  # seconds
ACKNOWLEDGEMENT = b"\0\0\0\x0d\0\x3c\0\x50"  # a frame of 13 bytes: class 60, method 80
GATED = "[gated]\nworkers: 1\nlease_after: 1\nlease_timeout: 3"
DOUBLED = "x-taskqueue-possibly-doubled"


@pytest.fixture(scope="module")
def session_broker(rabbitmq, node_directory):
    patience = {"consumer_timeout": f"{PATIENCE * 1000:.0f}", "channel_tick_interval": "500"}
    node = Node(node_directory / "impatient", **patience)
    node.start()
    yield node
    node.stop()


class Leases:
    """The leases of workitems for the plugin `gated`, as the broker sees them."""

    def __init__(self, broker, vhost, site, work):
        self.broker, self.vhost, self.site, self.work = broker, vhost, site, work

    def held(self):
        """Return the queues of leases that have a copy in them now."""
        names = self.broker.evaluate(
            "lists:flatten([[binary_to_list(element(4, amqqueue:get_name(Queue))), $ ]"
            f' || Queue <- rabbit_amqqueue:list(<<"{self.vhost}">>)])'
        )
        return [
            name for name in re.findall("taskqueue_lease_[a-z0-9_]+", names) if self.work.foreign.depth(name)
        ]

    def submit(self):
        """Submit a workitem; return its id when it has a lease and its delivery is acknowledged."""
        workitem = self.work.submit("gated", {"gate": str(self.site.gate())})
        self.site.wait_for_run(workitem)
        wait_until(self.held, what="a lease")
        wait_until(lambda: self.broker.unacknowledged(self.vhost, "worker_gated") == 0)
        return workitem

    def assert_nothing_left(self):
        wait_until(lambda: not self.held(), what=lambda: f"the end of {self.held()}")
        self.work.wait_until_empty("worker_gated")


@pytest.fixture
def leases(broker, vhost, site, work):
    return Leases(broker, vhost, site, work)


def wait(seconds):
    """Let time pass, of which these tests are about."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, seconds + 5)


def runs(site, workitem):
    return sum(note.word == "begin" for note in site.notes(workitem))


def test_a_workitem_outlives_the_brokers_patience_several_times_and_runs_once(site, work, leases):
    pool = site.pool(GATED)
    workitem = leases.submit()
    waiting = work.submit("gated", {"gate": str(site.gate())})
    wait(4 * PATIENCE)
    assert work.foreign.depth("worker_gated") == 1, "what nobody can begin is held back from other hosts"
    assert runs(site, waiting) == 0
    site.gate().touch()
    results = work.results(2)
    assert DOUBLED not in results[workitem].headers
    assert (runs(site, workitem), runs(site, waiting)) == (1, 1)
    leases.assert_nothing_left()
    assert "closed the channel" not in pool.output()


def test_a_leased_workitem_runs_again_when_its_host_dies(site, work, leases):
    first = site.pool(GATED)
    workitem = leases.submit()
    for process in first.processes():
        kill(process)
    site.pool()
    site.wait_for_run(workitem, times=2)
    site.gate().touch()
    result = work.result()
    assert (result.workitem, result.status) == (workitem, "succeeded")
    assert DOUBLED not in result.headers
    work.wait_until_empty("worker_gated")


def test_a_lease_found_gone_marks_the_result(site, work, leases):
    pool = site.pool(GATED)
    workitem = leases.submit()
    work.foreign.purge(leases.held()[0])
    pool.wait_for("lease lost")
    site.gate().touch()
    result = work.result()
    assert (result.workitem, result.headers[DOUBLED]) == (workitem, True)
    leases.assert_nothing_left()


def test_a_lease_that_is_lost_a_moment_before_the_end_marks_the_result(site, work, leases):
    site.pool("[gated]\nworkers: 1\nlease_after: 1\nlease_timeout: 60")  # it is looked after every 20 s
    workitem = leases.submit()
    work.foreign.purge(leases.held()[0])
    site.gate().touch()
    result = work.result()
    assert (result.workitem, result.headers.get(DOUBLED)) == (workitem, True)
    leases.assert_nothing_left()


@pytest.mark.parametrize("absence", [1.0, 4.5])
def test_a_leased_workitem_outlives_a_lost_line_for_less_and_for_more_than_its_lease(
    site, work, leases, proxy, absence
):
    pool = site.pool(GATED, url=proxy.url)
    workitem = leases.submit()
    proxy.refuse()
    proxy.cut()
    wait(absence)
    proxy.accept()
    pool.wait_for("takes work", times=2)
    wait(PATIENCE)
    site.gate().touch()
    result = work.result()
    assert (result.workitem, DOUBLED in result.headers) == (workitem, False)
    assert runs(site, workitem) == 1
    leases.assert_nothing_left()


class HoldingBack:
    """Stalls a proxy once a client acknowledges something."""

    def __init__(self, proxy):
        self.proxy = proxy

    def __call__(self, is_from_client, data):
        self.proxy.stalled |= is_from_client and ACKNOWLEDGEMENT in data
        return data[-len(ACKNOWLEDGEMENT) :]

    def close(self):
        """Keep the proxy stalled."""


def test_a_leased_workitem_runs_once_although_its_acknowledgement_is_lost(site, work, leases, proxy):
    proxy.tap = lambda: HoldingBack(proxy)
    pool = site.pool(GATED, url=proxy.url)
    workitem = work.submit("gated", {"gate": str(site.gate())})
    wait_until(lambda: proxy.stalled, what="an acknowledgement")
    assert leases.held()
    proxy.tap = None
    proxy.cut()
    proxy.resume()
    pool.wait_for("takes work", times=2)
    site.gate().touch()
    assert work.result().workitem == workitem
    leases.assert_nothing_left()
    assert runs(site, workitem) == 1


def test_a_leased_workitem_outlives_the_broker(site, work, leases, broker):
    site.pool(GATED)
    workitem = leases.submit()
    # Killed harder, RabbitMQ may forget that the original was acknowledged.
    os.kill(broker.pid, signal.SIGTERM)
    wait_until(lambda: not broker.alive, 30, "the broker's end")
    broker.start()
    wait(PATIENCE)
    site.gate().touch()
    assert work.result().workitem == workitem
    assert runs(site, workitem) == 1
    leases.assert_nothing_left()


def test_a_delivery_that_times_out_with_rabbitmq_4_3_goes_on_where_it_runs(site, work, leases, broker):
    """RabbitMQ 4.3 times out on quorum queues alone; it cancels the consumer and leaves the channel open."""
    if broker.version < (4, 3):
        pytest.skip("an earlier RabbitMQ closes the channel")
    work.foreign.declare("worker_gated", arguments={"x-queue-type": "quorum"})
    pool = site.pool("[gated]\nworkers: 1")
    work.foreign.publish(json.dumps({"gate": str(site.gate())}), "worker_gated", message_id="long")
    pool.wait_for("redelivered while it runs; the run continues", 40, times=2)
    site.gate().touch()
    assert work.result().workitem == "long"
    assert runs(site, "long") == 1
    assert pool.stop() == 0
    wait_until(lambda: work.foreign.depth("worker_gated") == 0)


def test_a_broker_less_patient_than_thought_is_met_earlier_from_then_on(site, work, leases, broker):
    if broker.version >= (4, 3):
        pytest.skip("RabbitMQ 4.3 does not say how long it waits")
    pool = site.pool("[gated]\nworkers: 1\nlease_timeout: 3")
    workitem = work.submit("gated", {"gate": str(site.gate())})
    pool.wait_for("closed the channel")
    wait_until(leases.held, what="a lease")
    wait(PATIENCE + 1)
    site.gate().touch()
    assert work.result().workitem == workitem
    assert runs(site, workitem) == 1
    assert pool.output().count("closed the channel") == 1
    leases.assert_nothing_left()


def test_a_crash_under_a_lease_is_charged_and_the_workitem_runs_again(site, work, leases):
    pool = site.pool(GATED)
    workitem = leases.submit()
    (worker,) = workers(pool)
    kill(worker)
    site.wait_for_run(workitem, times=2)
    site.gate().touch()
    result = work.result()
    assert (result.workitem, result.value["attempt"]) == (workitem, 2)
    leases.assert_nothing_left()


def test_a_stopping_pool_finishes_a_leased_workitem_and_leaves_no_lease(site, work, leases):
    pool = site.pool(GATED)
    workitem = leases.submit()
    pool.signal(signal.SIGTERM)
    pool.wait_for("stopping:")
    site.gate().touch()
    assert pool.wait() == 0
    assert work.result().workitem == workitem
    assert not leases.held()
    assert runs(site, workitem) == 1

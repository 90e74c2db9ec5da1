"""RabbitMQ short of memory or disk, as its administrator's commands have it, while work is under way."""

import json
import os
import signal
import time

import pytest
from support.foreign import Foreign
from support.processes import children
from support.waiting import wait_until
from support.work import Work

HEARTBEAT = 2  # seconds; one side hangs up after two of them without a sign of life
ALARM = "the broker has an alarm and accepts no messages"
NUMBERS = range(3000)

#: The calls behind `rabbitmqctl set_vm_memory_high_watermark` and `set_disk_free_limit`, and their undoing.
COMMANDS = {
    "memory": (
        "vm_memory_monitor:set_vm_memory_high_watermark(1.0e-6)",
        "vm_memory_monitor:set_vm_memory_high_watermark(0.4)",
    ),
    "disk": (
        "rabbit_disk_monitor:set_disk_free_limit({mem_relative, 1.0e6})",
        "rabbit_disk_monitor:set_disk_free_limit(50000000)",
    ),
}


@pytest.fixture
def watch(site, broker, vhost):
    """A receiver of results: an alarm stops the connection of who has published."""
    with Foreign(site.url) as foreign:
        yield Work(foreign, lambda queue: broker.messages(vhost, queue))


@pytest.fixture(params=COMMANDS)
def alarm(request, broker):
    """Functions that raise an alarm and end it."""
    begin, end = COMMANDS[request.param]
    yield lambda: broker.evaluate(begin), lambda: broker.evaluate(end)
    broker.evaluate(end)


def test_under_an_alarm_daemons_reload_and_stop_in_time_and_all_results_follow_it(
    request, site, work, watch, alarm
):
    begin, end = alarm
    dispatcher = site.dispatcher("[good]\nworkers: 2", heartbeat=HEARTBEAT, stop_timeout=4)
    pool = site.pool()
    # As long as this takes, there is something to publish when the alarm begins.
    bodies = (json.dumps({"number": number, "seconds": 0.02}) for number in NUMBERS[:1000])
    work.foreign.publish_many(bodies, "worker_good", type="good")
    wait_until(lambda: (watch.foreign.depth("results") or 0) > 20)
    work.submit_numbers(NUMBERS[1000:2900])
    # So that it has something to send under the alarm, too; not for long, or the broker would hang up.
    for process in children(dispatcher.pid):
        os.kill(process, signal.SIGSTOP)
    work.submit_numbers(NUMBERS[2900:])
    begin()
    begun = time.monotonic()
    for process in children(dispatcher.pid):
        os.kill(process, signal.SIGCONT)
    for daemon in (dispatcher, pool):
        daemon.wait_for(ALARM)
    lasts = request.config.getoption("--alarm")
    wait_until(lambda: time.monotonic() > begun + lasts, lasts + 10)  # and nobody hangs up
    for daemon in (dispatcher, pool):
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reloaded")
    assert pool.stop(20) == 0
    again = site.pool(ready="")
    assert dispatcher.stop(20) == 0
    dispatcher_again = site.dispatcher(ready="")
    end()
    watch.assert_all_numbers(NUMBERS)
    watch.wait_until_empty("taskqueue", "worker_good")
    for daemon, processes in (
        (dispatcher, 6),
        (pool, 1),
    ):  # a reload replaces dispatcher, scheduler and keeper
        assert daemon.output().count(ALARM) <= processes, daemon.output()
        assert "lost the connection" not in daemon.output()
        assert "Traceback" not in daemon.output()
    for daemon in (again, dispatcher_again):
        assert daemon.stop(20) == 0


@pytest.mark.parametrize("alarm", ["memory"], indirect=True)  # a client is told the same of both
def test_under_an_alarm_a_line_that_stalls_is_given_up_after_missed_heartbeats(
    site, work, watch, alarm, proxy
):
    begin, end = alarm
    pool = site.pool("[gated]\nworkers: 1", url=proxy.url, heartbeat=1)
    workitem = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(workitem)
    begin()
    site.gate().touch()
    pool.wait_for(ALARM)
    proxy.stall()
    pool.wait_for("lost the connection to the broker: No activity or too many missed heartbeats", times=2)
    proxy.cut()
    proxy.resume()
    end()
    assert watch.result(40).workitem == workitem


@pytest.mark.parametrize("alarm", ["memory"], indirect=True)
def test_under_an_alarm_an_idle_pool_does_not_wait_for_events_to_stop(site, work, alarm):
    """Every five seconds it tells its state, which nobody takes before the alarm ends."""
    begin, end = alarm
    work.foreign.declare("taskqueue_events")
    work.foreign.bind("taskqueue_events")
    site.dispatcher("[good]\nworkers: 1", stop_timeout=60)
    pool = site.pool()
    work.submit_numbers(range(1))
    wait_until(lambda: work.foreign.depth("taskqueue_events") > 1)  # it has published on its connection
    wait_until(lambda: work.foreign.depth("results") == 1)
    begin()
    begun = time.monotonic()
    pool.wait_for(ALARM)
    wait_until(lambda: time.monotonic() > begun + 7, 10)
    assert pool.stop(30) == 0
    end()

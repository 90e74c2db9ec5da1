"""Starting against a broker that refuses, that is not there yet, or of which nobody has heard."""

import re
from datetime import datetime
from itertools import pairwise

import pytest

DAEMONS = ("dispatcher", "workerpool")


def wrong(url, password="not the password"):
    scheme, _, rest = url.partition("://")
    user = rest.partition(":")[0]
    return f"{scheme}://{user}:{password.replace(' ', '%20')}@{rest.rpartition('@')[2]}"


@pytest.mark.parametrize("name", DAEMONS)
def test_a_wrong_password_is_one_clear_line_and_no_storm(site, proxy, name):
    site.configure("[good]\nworkers: 3", url=wrong(proxy.url))
    daemon = site.start(name, "-f", "-c", str(site.config))
    assert daemon.wait() == 77
    assert daemon.output().count("wrong name or password") == 1
    assert "the broker at 127.0.0.1:" in daemon.output()
    assert "Traceback" not in daemon.output()
    assert "not the password" not in daemon.output()
    daemon.assert_nothing_left()
    assert proxy.accepted == 1  # a broker may lock out who guesses


@pytest.mark.parametrize("name", DAEMONS)
def test_a_virtual_host_that_does_not_exist_is_one_clear_line(site, name):
    site.configure("[good]\nworkers: 1", url=site.url.rpartition("/")[0] + "/nowhere")
    daemon = site.start(name, "-f", "-c", str(site.config))
    assert daemon.wait() == 77
    assert daemon.output().count("the virtual host 'nowhere'") == 1


def test_up_with_a_wrong_password_ends_with_the_same_status(site):
    site.configure("[good]\nworkers: 1", url=wrong(site.url))
    everything = site.start("up", "-c", str(site.config))
    assert everything.wait() == 77
    everything.assert_nothing_left()


@pytest.mark.parametrize("name", DAEMONS)
def test_a_broker_that_is_absent_is_waited_for(site, work, proxy, name):
    proxy.refuse()
    site.configure("[good]\nworkers: 1", url=proxy.url)
    daemon = site.start(name, "-f", "-c", str(site.config))
    daemon.wait_for("cannot be reached: Connection refused; trying again")
    daemon.wait_for("waits for the broker")
    daemon.wait_for("ready: ")  # it does what it can; systemd need not wait for the broker
    proxy.accept()
    daemon.wait_for("takes work", 30)
    assert daemon.stop() == 0


def test_a_pool_that_waits_for_the_broker_can_be_stopped(site, proxy):
    proxy.refuse()
    site.configure("[good]\nworkers: 1", url=proxy.url)
    pool = site.start("workerpool", "-f", "-c", str(site.config))
    pool.wait_for("waits for the broker")
    assert pool.stop() == 0
    pool.assert_nothing_left()


def test_attempts_to_connect_come_ever_later(site, proxy):
    proxy.refuse()
    site.configure("[good]\nworkers: 1", url=proxy.url)
    pool = site.start("workerpool", "-f", "-c", str(site.config))
    pool.wait_for("trying again", times=4)
    written = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) .*trying again", pool.output())
    instants = [datetime.fromisoformat(each) for each in written]
    pauses = [(later - earlier).total_seconds() for earlier, later in pairwise(instants)]
    assert 0.4 < pauses[0] < 1.2
    assert pauses[2] > 1.9


@pytest.mark.parametrize("name", DAEMONS)
def test_without_any_address_the_ways_to_give_one_are_listed(site, name):
    site.configure("[good]\nworkers: 1", url="")
    done = site.run(name, "-f", "-c", str(site.config))
    assert done.returncode == 78
    assert done.stderr.startswith("taskqueue: no broker: expected --amqp, TASKQUEUE_AMQP, ")

"""Commands to pools while a cluster is split."""

import pytest
from support.cluster import amqp_url, cluster, vhost
from support.hosts import hosts
from support.site import AS_ROOT
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="only root can give processes another host's name")

__all__ = ["amqp_url", "cluster", "hosts", "vhost"]

SECTIONS = "[good]\nworkers: 1"


@pytest.mark.timeout(300)
def test_the_larger_part_of_a_split_cluster_is_commanded_and_the_other_obeys_once_it_is_back(
    cluster, vhost, hosts
):
    first, _, third = cluster.members
    lonely = hosts.pool("web2", SECTIONS, url=third.url_of(vhost))
    hosts.pool("web1", SECTIONS, url=first.url_of(vhost))  # the commands below have this address, too
    cluster.await_whole(first)
    cluster.split(third)
    told = hosts.run("pause", "good", status=75)
    assert "web1: good is paused.\n" in told
    assert "web2 does not answer." in told
    assert hosts.run("scale", "good", "2", "--keep", status=75).startswith("web1: good has 2 workers.\n")
    assert "paused worker types: good" not in lonely.output()

    cluster.heal(third)
    lonely.wait_for("paused worker types: good", 60)
    lonely.wait_for("group good was changed", 60)
    wait_until(lambda: hosts.states() == {"web1": ["is paused"], "web2": ["is paused"]}, 60)
    assert hosts.run("resume", "good") == "web1: good is resumed.\nweb2: good is resumed.\n"

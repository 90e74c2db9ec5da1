"""RabbitMQ is upgraded while its queues are full."""

import os
import shutil

import pytest
from support import rabbitmq
from support.foreign import Foreign
from support.node import Node
from support.site import AS_ROOT

from taskqueue.errors import BrokerUnavailable
from taskqueue.private_broker import PrivateBroker

WORKITEMS = 1000


@pytest.mark.skipif(not AS_ROOT, reason="another release's RabbitMQ takes root")
@pytest.mark.timeout(600)  # seconds; the first run of a week fetches it
def test_a_private_broker_that_cannot_read_its_data_says_so_and_leaves_it_to_the_older_one(
    rabbitmq_version, node_directory
):
    if rabbitmq_version >= 4:
        pytest.skip("the RabbitMQ under test is no older one")
    if shutil.which("debootstrap", path="/usr/sbin:/usr/bin") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("debootstrap is not installed")
    directory = node_directory / "upgraded"
    with PrivateBroker(directory, server=Node.start_script) as old, Foreign(old.url) as client:
        client.declare("worker_good")
        client.publish_many(map(str, range(WORKITEMS)), "worker_good")
    with pytest.raises(BrokerUnavailable) as caught:
        PrivateBroker(directory, server=rabbitmq.server("4.0")).start()
    assert str(caught.value).endswith(
        "the data is of an older RabbitMQ, which this one cannot read: finish what is queued with the older "
        "one, or move the directory away"
    )
    with PrivateBroker(directory, server=Node.start_script) as old, Foreign(old.url) as client:
        assert client.depth("worker_good") == WORKITEMS

"""The nodes of a cluster are killed one after another: every result arrives."""

import json

from support.cluster import amqp_url, cluster, vhost
from support.foreign import Foreign
from support.waiting import wait_until
from support.work import Result

from taskqueue.broker.errands import QueueSize
from taskqueue.doctor import broker, queues, rabbitmqctl
from taskqueue.doctor.broker import BrokerFacts
from taskqueue.doctor.queues import QueueFacts, QueuesFacts

SECTIONS = """
[good]
workers: 2
[stubborn]
workers: 2
retries: 1
retry_delay: 1
retry_jitter: 0
[raising]
workers: 1
"""
WORKITEMS_A_STEP = 15  # of each worker type that succeeds
QUEUES = {
    *("taskqueue", "worker_good", "worker_stubborn", "worker_raising", "results"),
    *("taskqueue_failed", "taskqueue_delay_1", "taskqueue_schedules", "taskqueue_claims"),
}


__all__ = ["amqp_url", "cluster", "vhost"]


class Account:
    """Submits workitems, and knows what is to become of them."""

    def __init__(self, foreign):
        self.foreign = foreign
        self.expected = {}
        self.found = {}

    def submit(self):
        """Submit some of each worker type; one fails."""
        for _ in range(WORKITEMS_A_STEP):
            self._submit("good", {"seconds": 0.003}, "succeeded")
            self._submit("stubborn", {"error": "ValueError", "times": 1}, "succeeded")
        self._submit("raising", {"error": "ValueError"}, "failed")

    def _submit(self, worker_type, body, status):
        workitem = f"{worker_type}-{len(self.expected)}"
        self.foreign.publish(json.dumps(body), type=worker_type, message_id=workitem)
        self.expected[workitem] = status

    def settle(self):
        """Wait for the result of all that was submitted; some may come twice."""
        wait_until(self._take, 60, lambda: f"the results of {self.expected.keys() - self.found.keys()}")
        assert self.found == self.expected

    def _take(self):
        message = self.foreign.poll("results")
        if message is not None:
            result = Result(message)
            self.found[result.workitem] = result.status
        return self.found.keys() == self.expected.keys()


def doctors_findings(member, vhost, foreign):
    """Return what `taskqueue doctor` says of a cluster as one of its nodes tells it: texts by name."""
    inside = rabbitmqctl.inside(rabbitmqctl.read(member.evaluate(rabbitmqctl.expression(vhost))))
    sizes = {name: QueueFacts(QueueSize(0, 2), settings) for name, settings in inside.queues.items()}
    found = [
        *broker.judge(BrokerFacts("", version=foreign.server_version(), inside=inside)),
        *queues.judge(QueuesFacts(sizes, is_cluster=inside.is_cluster), 0.0),
    ]
    return {each.name: each.text for each in found}


def test_a_node_that_is_down_and_a_classic_queue_are_told_by_the_doctor(cluster, foreign, vhost):
    first, _, third = cluster.members
    foreign.declare("worker_good")
    foreign.declare("worker_other", arguments={"x-queue-type": "quorum"})
    cluster.await_whole(first)
    assert doctors_findings(first, vhost, foreign).keys() == {"classic-queue"}
    first.evaluate("application:set_env(rabbit, cluster_partition_handling, ignore)")
    cluster.kill(third)
    wait_until(lambda: "node-down" in doctors_findings(first, vhost, foreign), 20)
    found = doctors_findings(first, vhost, foreign)
    first.evaluate("application:set_env(rabbit, cluster_partition_handling, pause_minority)")
    assert found.keys() == {"classic-queue", "node-down", "partition-handling"}
    assert found["node-down"] == f"node {third.name} of the broker's cluster is down"
    assert "worker_good is a classic queue" in found["classic-queue"]


def test_every_result_arrives_while_one_node_after_another_is_killed(cluster, site, foreign, vhost):
    first, second, third = cluster.members
    dispatcher = site.dispatcher(SECTIONS, amqp="queue_type: quorum\nshared_queue_type: quorum")
    pool = site.pool()
    account = Account(foreign)
    account.submit()
    wait_until(lambda: foreign.depth("results") is not None, 20, "the first result's queue")
    account.settle()  # so every queue is older than the first death
    # Whom everybody speaks with; then only whom the queues are led by; then with whom they speak now.
    for victim, refuge in ((first, second), (third, second), (second, third)):
        cluster.lead(victim)
        account.submit()
        cluster.kill(victim)
        account.submit()
        for daemon in (dispatcher, pool):
            daemon.wait_for(f"connected to the broker at 127.0.0.1:{refuge.port} as taskqueue", 40)
        account.submit()
        victim.start()
    account.settle()
    listed = site.run("failed", "list", "--format", "json", "-c", str(site.config))
    failed = {workitem for workitem, status in account.expected.items() if status == "failed"}
    assert {kept["id"] for kept in json.loads(listed.stdout)} == failed
    assert pool.stop() == dispatcher.stop() == 0
    assert "Traceback" not in pool.output() + dispatcher.output()
    kinds = {name: queue["type"] for name, queue in first.queues(vhost).items()}
    assert kinds.pop("taskqueue_delay_0.25", "quorum") == "quorum"  # of a retry that came back early
    assert kinds == dict.fromkeys(QUEUES, "quorum")


def test_what_is_for_a_queue_on_a_dead_node_waits_until_the_node_is_back(cluster, site, foreign, vhost):
    third = cluster.members[2]
    with Foreign(third.url_of(vhost)) as elsewhere:
        elsewhere.declare("worker_good")  # a classic queue lives on one node
    dispatcher = site.dispatcher("[good]\nworkers: 1")
    cluster.kill(third)
    for worker_type in ("good", "other"):
        foreign.publish("1", type=worker_type)
    refusal = "refused a message" if third.version >= (4,) else "cannot be declared: NOT_FOUND"
    dispatcher.wait_for(f"queue worker_good {refusal}")
    wait_until(lambda: foreign.depth("worker_other"))
    third.start()
    site.pool()
    assert Result(foreign.get("results", 20)).status == "succeeded"
    assert foreign.depth("taskqueue_rejected") is None


def test_what_a_queue_refuses_while_it_has_no_leader_gets_there_later(cluster, site, foreign, vhost):
    third = cluster.members[2]
    with Foreign(third.url_of(vhost)) as elsewhere:
        elsewhere.declare("worker_good", arguments={"x-queue-type": "quorum"})  # its leader is there, too
    dispatcher = site.dispatcher("")
    cluster.kill(third)
    foreign.publish("1", type="good")
    if third.version < (4,):  # RabbitMQ 4 waits for the next leader itself
        dispatcher.wait_for("queue worker_good refused a message")
    wait_until(lambda: foreign.depth("worker_good"), 20)

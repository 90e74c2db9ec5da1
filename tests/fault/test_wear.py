"""Messages of quorum queues with RabbitMQ 4's delivery limit, that come back more often than it allows.

RabbitMQ 3 has no such limit: there the tests show that what is done against it harms nothing. A queue has it
if somebody else has made it, or an earlier RabbitMQ: taskqueue's own have none.
"""

import json

from support.processes import kill, tree
from support.site import workers
from support.waiting import wait_until

LIMIT = 20  # returns that RabbitMQ 4 allows; it drops a message at the next
QUORUM = {"x-queue-type": "quorum"}
FULL = {"x-max-length": 1, "x-overflow": "reject-publish"}


def submit(work, body):
    """Publish a workitem of the type "gated" to its queue, which is there; return its id."""
    work.foreign.publish(json.dumps(body), "worker_gated", message_id="worn")
    return "worn"


def test_rabbitmq_4_drops_what_was_returned_too_often(broker, foreign):
    foreign.declare("limited", arguments=QUORUM)
    foreign.publish("1", "limited")
    foreign.wear("limited", LIMIT + 1)
    foreign.publish("2", "limited")  # goes into the queue after the last return has been dealt with
    assert foreign.get("limited").body == ("2" if broker.version >= (4,) else "1")


def test_a_workitem_that_no_dispatcher_could_pass_on_outlives_them(site, work, broker, vhost):
    work.foreign.delete("taskqueue")
    work.foreign.declare("taskqueue", arguments=QUORUM)
    work.foreign.declare("worker_good", arguments=FULL)
    work.foreign.publish("before", "worker_good")
    workitem = work.dispatch("good")
    work.foreign.wear("taskqueue", LIMIT - 2)
    for _ in range(4):
        dispatcher = site.dispatcher("")
        wait_until(lambda: broker.unacknowledged(vhost, "taskqueue") == 1)
        dispatcher.wait_for("worker_good refused a message")
        for process in tree(dispatcher.pid):
            kill(process)
        wait_until(lambda: work.foreign.depth("taskqueue") == 1)
    work.foreign.get("worker_good")
    site.dispatcher("")
    assert work.foreign.get("worker_good", 30).properties["message_id"] == workitem


def test_a_worn_workitem_outlives_a_cut_line_and_its_worker(site, work, proxy):
    work.foreign.declare("worker_gated", arguments=QUORUM)
    workitem = submit(work, {"gate": str(site.gate())})
    work.foreign.wear("worker_gated", LIMIT)
    pool = site.pool("[gated]\nworkers: 1", url=proxy.url)
    site.wait_for_run(workitem)
    proxy.cut()
    pool.wait_for("redelivered while it runs; the run continues", 40)
    kill(workers(pool).pop())
    site.wait_for_run(workitem, times=2)
    site.gate().touch()
    assert (work.result().workitem, work.foreign.depth("results")) == (workitem, 0)
    work.wait_until_empty("worker_gated")
    assert pool.stop() == 0


def test_a_running_workitem_near_the_delivery_limit_is_leased(site, work, broker, vhost, proxy):
    work.foreign.declare("worker_gated", arguments=QUORUM)
    pool = site.pool("[gated]\nworkers: 1", url=proxy.url)
    workitem = submit(work, {"gate": str(site.gate())})
    site.wait_for_run(workitem)
    proxy.refuse()
    proxy.cut()
    work.foreign.wear("worker_gated", LIMIT - 1)  # and the line was one
    proxy.accept()
    pool.wait_for("redelivered while it runs; the run continues", 40)
    pool.wait_for("lease taken for the running workitem")
    [lease] = wait_until(
        lambda: [name for name in broker.queues(vhost) if name.startswith("taskqueue_lease_")]
    )
    wait_until(lambda: broker.messages(vhost, lease) == 1)
    proxy.cut()
    kill(workers(pool).pop())
    site.wait_for_run(workitem, times=2, timeout=40)
    site.gate().touch()
    assert (work.result(40).workitem, work.foreign.depth("results")) == (workitem, 0)
    assert pool.stop() == 0

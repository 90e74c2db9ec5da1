"""`taskqueue doctor` on a real broker: each fact is collected where the fault is made."""

import contextlib
import json
import os
import subprocess
import time

import pytest
from support import samples
from support.configs import SECRET
from support.distribution import install
from support.foreign import Foreign
from support.ground import ground_on, open_directory
from support.node import Node
from support.waiting import wait_until

from taskqueue.broker.errands import QueueSize
from taskqueue.broker.probe import CONFIGURE, READ, WRITE, Probe, Right
from taskqueue.config import AmqpSettings
from taskqueue.doctor import api, rabbitmqctl
from taskqueue.doctor.inside import NotTold
from taskqueue.errors import BrokerRefused, BrokerUnavailable
from taskqueue.messages import events
from taskqueue.messages.events import Emitter, ProcessState

GROUPS = "[DEFAULT]\nworkers: 0\n[echo]\nworkers: 1\n[evaluate]\nworkers: 1\n[tell]\nworkers: 1\n"
QUEUES = ["taskqueue", "taskqueue_rejected", "taskqueue_failed", "results", "worker_echo", "worker_tell"]


@pytest.fixture(scope="module")
def node(rabbitmq, node_directory):
    with Node(
        node_directory / "doctor", consumer_timeout="900000", collect_statistics_interval="500"
    ) as node:
        node.management = node.serve_management()
        yield node


@pytest.fixture
def ground(node, readable, python, tmp_path):
    site = open_directory(readable / f"doctor-{tmp_path.name}")
    samples.install(site)
    with ground_on(node, site, python, {"PYTHONPATH": str(site)}) as ground:
        ground.site = site
        yield ground


def examine(ground, config=GROUPS, url=None):
    """Run the command; return it, its findings by name with their texts, and what it could not see."""
    path = ground.write(config)
    done = subprocess.run(
        ground.command("doctor", "--format", "json", "-c", path),
        env=os.environ | ground.environment | ({} if url is None else {"TASKQUEUE_AMQP": url}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert done.returncode == told["status"]
    found: dict[str, str] = {}
    for each in told["findings"]:
        if each["area"] != "host":  # this machine may be short of something
            found[each["name"]] = "; ".join(filter(None, [found.get(each["name"]), each["text"]]))
    return done, found, {each["what"]: each["why"] for each in told["not_looked_at"]}


def managed(node):
    return f"[monitor]\nmanagement: {node.management}\n"


def await_api(node, amqp, cluster):
    """Return what the API tells once it knows of a policy of worker_echo: it asks the queues now and then."""
    return wait_until(
        lambda: (
            (found := api.look(node.management, amqp, cluster)).queues["worker_echo"].policy
            and found.nodes[0].version
            and found
        ),
        30,
        "the API to know of the policy",
    )


def vhost_of(ground):
    return ground.url.rpartition("/")[2]


def set_policy(node, ground, name, pattern, definition):
    policy = f'<<"{name}">>, <<"{pattern}">>, [{definition}], 0, <<"queues">>'
    node.evaluate(f'rabbit_policy:set(<<"{vhost_of(ground)}">>, {policy}, <<"tests">>)')
    queues = f'rabbit_amqqueue:list(<<"{vhost_of(ground)}">>)'
    names = f"[rabbit_policy:name(Q) || Q <- {queues}]"
    wait_until(lambda: node.evaluate(f'lists:member(<<"{name}">>, {names})') == "true", what="the policy")


def add_user(node, ground, name, *rights):
    """Make a user with patterns for configure, write and read; return the URL."""
    url = node.add_user(name, vhost_of(ground))
    shown = ", ".join(f'<<"{right}">>' for right in rights)
    permissions = f'<<"{name}">>, <<"{vhost_of(ground)}">>, {shown}, <<"tests">>'
    node.evaluate(f"rabbit_auth_backend_internal:set_permissions({permissions})")
    return url


# --- the probe ---


def test_rights_sizes_and_arguments_are_seen_and_nothing_is_changed(node, ground):
    ground.foreign.declare("worker_echo")
    ground.foreign.declare("worker_short", arguments={"x-message-ttl": 5000})
    ground.foreign.declare("taskqueue_failed", arguments={"x-queue-type": "quorum"})
    ground.foreign.publish(b"1", "worker_echo")
    before = node.queues(vhost_of(ground))
    names = [
        "worker_echo",
        "taskqueue_failed",
        "missing",
        "amq.default",
        "amq.fanout",
        "amq.gen-x",
        "amq.gen-",
    ]
    every = {Right(kind, name) for kind in (CONFIGURE, WRITE, READ) for name in names}
    some = "^(worker_.*|amq[.]gen-.*)$"
    with Probe(AmqpSettings.from_url(ground.url), "all") as probe:
        assert probe.sizes(names[:3]) == {
            "worker_echo": QueueSize(1, 0), "taskqueue_failed": QueueSize(0, 0), "missing": None
        }  # fmt: skip
        assert probe.differences(before) == {
            "worker_short": ("x-message-ttl", "5000"), "taskqueue_failed": ("x-queue-type", "quorum")
        }  # fmt: skip
        lacking = probe.lacking(every)
        assert not {right for right in lacking if right.kind != CONFIGURE}
        assert not probe.has_alarm()
    for number, patterns in enumerate([(some, "^$", "^$"), ("^$", some, "^$"), ("^$", "^$", some)]):
        with Probe(
            AmqpSettings.from_url(add_user(node, ground, f"some{number}", *patterns)), "some"
        ) as probe:
            kind = (CONFIGURE, WRITE, READ)[number]
            allowed = {right for right in every - probe.lacking(every) if right.name != "amq.gen-x"}
            assert allowed == {Right(kind, "worker_echo"), Right(kind, "amq.gen-")}
    assert node.queues(vhost_of(ground)) == before
    assert ground.foreign.depth("worker_echo") == 1


def test_a_broker_that_is_away_or_refuses_is_an_error(ground):
    with (
        pytest.raises(BrokerRefused, match="wrong name or password"),
        Probe(AmqpSettings.from_url(ground.url.replace("taskqueue:", "nobody:")), "test"),
    ):
        pass
    with (
        pytest.raises(BrokerUnavailable, match="Connection refused"),
        Probe(AmqpSettings.from_url("amqp://127.0.0.1:1/"), "test"),
    ):
        pass


# --- the inside ---


def ctl(node):
    """Return the words that call rabbitmqctl for a node of the tests, and their environment."""
    flags = f"-start_epmd false -erl_epmd_port {node.control[1]} -dist_listen false"
    script = node.start_script
    words = [str(script.with_name("rabbitmqctl"))]
    if script.name != "rabbitmq-server":  # another release's, which sees a /usr of its own
        mount = f'mount --bind "{script.parents[5]}" /usr && exec /usr/lib/rabbitmq/bin/rabbitmqctl "$@"'
        words = ["unshare", "--mount", "sh", "-c", mount, "rabbitmqctl"]
    variables = {"PATH": os.environ["PATH"], "HOME": str(node.state_dir), "LANG": "C.UTF-8"}
    return [*words, "-n", "taskqueue@localhost"], variables | {"RABBITMQ_CTL_ERL_ARGS": flags}


def test_rabbitmqctl_and_the_management_api_tell_the_same(node, ground):
    ground.foreign.declare("worker_echo", arguments={"x-message-ttl": 5000})
    ground.foreign.declare("taskqueue_failed", arguments={"x-queue-type": "quorum"})
    set_policy(node, ground, "short", "^worker_", '{<<"max-length">>, 9}, {<<"overflow">>, <<"drop-head">>}')
    amqp, cluster = AmqpSettings.from_url(ground.url), cluster_of(ground)
    node.set_alarm(on=True)
    try:
        told = rabbitmqctl.look(amqp, cluster, *ctl(node))
    finally:
        node.set_alarm(on=False)
    assert told.alarms == ("memory of taskqueue@localhost",)
    assert (told.consumer_timeout, told.partition_handling, told.has_partitions) == (900.0, "ignore", False)
    found = await_api(node, amqp, cluster)
    for inside in (told, found):
        assert [(each.name, each.is_running) for each in inside.nodes] == [("taskqueue@localhost", True)]
        assert inside.nodes[0].version == ".".join(map(str, node.version))
        assert inside.queues.keys() == {"worker_echo", "taskqueue_failed"}
        short, failed = inside.queues["worker_echo"], inside.queues["taskqueue_failed"]
        assert (short.kind, failed.kind, failed.policy) == ("classic", "quorum", {})
        assert [short.value(key) for key in ("message-ttl", "max-length", "overflow", "durable")] == [
            5000, 9, "drop-head", True
        ]  # fmt: skip
        assert short.policy_name == "short"
    assert (found.users, "taskqueue" in told.users, "nobody" in told.users) == (None, True, False)
    backends = "application:set_env(rabbit, auth_backends, [{}])"
    node.evaluate(backends.format("rabbit_auth_backend_internal, rabbit_auth_backend_internal"))
    try:
        assert rabbitmqctl.look(amqp, cluster, *ctl(node)).users is None  # perhaps another backend knows more
    finally:
        node.evaluate(backends.format("rabbit_auth_backend_internal"))
    with pytest.raises(NotTold, match="rabbitmqctl reaches the cluster taskqueue@"):
        rabbitmqctl.look(amqp, "another", *ctl(node))
    with pytest.raises(NotTold, match="and AMQP reaches the cluster another"):
        api.look(node.management, amqp, "another")
    with pytest.raises(NotTold, match=r"^rabbitmqctl fails: Error: "):
        rabbitmqctl.look(amqp, cluster, [*ctl(node)[0][:-1], "nobody@localhost"], ctl(node)[1])


def cluster_of(ground):
    with Probe(AmqpSettings.from_url(ground.url), "test") as probe:
        return probe.properties["cluster_name"]


# --- the command ---


def test_what_is_wrong_with_queues_and_plugins_is_told(node, ground):
    install(ground.site, "mails", {"mail": "nowhere:Mail", "twice": "json:dumps"})
    install(ground.site, "posts", {"twice": "json:dumps"})
    for queue in QUEUES:
        ground.foreign.declare(queue)
    ground.foreign.declare("worker_evaluate", arguments={"x-message-ttl": 600_000})
    set_policy(node, ground, "short", "^worker_echo$", '{<<"max-length">>, 9}')
    ground.foreign.publish_many([b"{}"] * 100, "results")
    ground.foreign.publish_many([b"{}"] * 3, "worker_tell")
    ground.foreign.publish(b"{}", "taskqueue_failed")
    await_api(node, AmqpSettings.from_url(ground.url), cluster_of(ground))
    config = f"{GROUPS}{managed(node)}[amqp]\nhost: elsewhere\npassword: {SECRET}\n"

    done, found, unseen = examine(ground, config)
    assert done.returncode == 2
    assert SECRET not in done.stdout
    assert "no dispatcher runs" in found.pop("no-dispatcher")
    assert found.pop("no-consumer") == "3 workitems wait in worker_tell, and no pool takes them"
    assert found.pop("dead-letters") == "taskqueue_failed has 1 message"
    assert found.pop("unread-results") == "100 results wait in results, and nobody takes them"
    assert "drops messages that are older than 600 s (by its argument" in found.pop("message-ttl")
    assert "beyond 9 messages (by policy short)" in found.pop("max-length")
    assert (
        "plugin mail of mails cannot be imported: ModuleNotFoundError: No module named 'nowhere'"
        in found.pop("plugin-import")
    )
    assert "mails 1.0, posts 1.0" in found.pop("plugin-collision")
    assert found == {}
    assert any(what.startswith("the settings cluster_partition_handling") for what in unseen)

    # AMQP alone tells the arguments, and says what it does not tell.
    _, found, unseen = examine(ground)
    assert {"message-ttl", "no-consumer", "unread-results"} < found.keys()
    assert "max-length" not in found
    (why,) = [why for what, why in unseen.items() if what.startswith("types and policies of queues")]
    assert why.endswith("and section [monitor] has no management")


def test_a_user_with_few_rights_and_an_alarm_are_told(node, ground):
    for queue in QUEUES:
        ground.foreign.declare(queue)
    url = add_user(node, ground, "few", "^$", "^amq[.]default$", "^(taskqueue|worker_echo)$")
    _, found, unseen = examine(ground, url=url)
    assert found.keys() == {"no-dispatcher", "right-missing", "queue-missing"}
    assert "read worker_tell, which the workerpool needs: group tell gets no work" in found["right-missing"]
    assert "read taskqueue_schedules, which the dispatcher needs" in found["right-missing"]
    assert "write taskqueue_events" in found["right-missing"]
    assert "worker_echo" not in found["right-missing"]
    assert found["queue-missing"].startswith("queue worker_evaluate does not exist, and user 'few' lacks")

    node.set_alarm(on=True)
    try:
        _, found, unseen = examine(ground, url=url)
    finally:
        node.set_alarm(on=False)
    assert found["alarm"] == "the broker has an alarm and takes no messages"
    assert unseen["rights to write"] == "the broker has an alarm"
    assert "write taskqueue_events" not in found["right-missing"]


def test_daemons_whose_user_is_not_trusted_here_are_told(node, ground):
    for queue in [*QUEUES, "worker_evaluate", "taskqueue_events"]:
        ground.foreign.declare(queue)
    url = add_user(node, ground, "stranger", ".*", ".*", ".*")
    ground.start("dispatcher", url=url).wait_for("takes work")
    ground.foreign.bind("taskqueue_events")
    _, found, _ = examine(ground)
    assert "ignore what broker user 'stranger' reports" in found["untrusted-daemon"]
    assert "dispatcher on " in found["untrusted-daemon"]
    assert "keeper on " in found["untrusted-daemon"]
    trusting = f"{GROUPS}[amqp]\nurl = {ground.url}\ntrusted_users = stranger\n"
    _, found, unseen = examine(ground, trusting, url="")
    assert "untrusted-daemon" not in found
    assert not any("broker users of other hosts" in what for what in unseen)


@pytest.fixture
def holders(ground):
    with Foreign(ground.url) as one, Foreign(ground.url) as other:
        yield one, other


def told(host, version, ahead, number):
    """Return a batch of events: the state of a process on a host whose clock is ahead."""
    emitter = Emitter(host, "dispatcher", "", 7, 1000.0)
    state = ProcessState(time.time() + ahead, "takes work", version=version)
    return events.encode(emitter, number, [events.line(state)])


def test_other_hosts_are_listened_to_and_a_healthy_broker_has_nothing(node, ground, holders):
    for queue in [*QUEUES, "worker_evaluate", "taskqueue_events"]:
        ground.foreign.declare(queue)
    ground.foreign.bind("taskqueue_events")
    for holder in holders:
        for queue in ("taskqueue", "worker_echo", "worker_tell", "worker_evaluate", "results"):
            holder.hold(queue)
    running = subprocess.Popen(
        ground.command("doctor", "-c", ground.write(GROUPS + managed(node))),
        env=os.environ | ground.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    number = 0
    while running.poll() is None:
        number += 1
        ground.foreign.publish_to("taskqueue_events", "", told("far", "taskqueue 0.0.1, mail 3", 90, number))
        ground.foreign.publish_to("taskqueue_events", "", told("near", "taskqueue 0.0.1", -0.5, number))
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(0.1)
    text = running.communicate()[0]
    assert "the clock of host far is 90 s ahead of this one's\n" in text
    assert "host near is" not in text
    assert "taskqueue 0.0.1 on far, near; taskqueue " in text
    lines = [line for line in text.splitlines() if line.startswith(("error: ", "warning: "))]
    for word in (
        "clock of host far",
        "different versions",
        "MiB",
        "/etc",
        "file",
        "service",
        "secret",
        "daemons",
    ):
        lines = [line for line in lines if word not in line]  # the last ones are about this machine
    assert lines == []

"""Three hosts, two joined to that of the broker by a cable each."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.documentation import commands, example
from support.packages import DAEMONS
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # seconds: machines are made

AMQP = """
[amqp]
host: broker
user: taskqueue
password: k1ngf1sher
heartbeat: 5
"""
KEY = "etc/taskqueue/control.key"
CONFIG = f"""{AMQP}
[digest]
workers: one, two
[digest_one]
workers: 2
user: first
[digest_two]
workers: 2
user: second
"""


def ip(host, *words):
    subprocess.run(["nsenter", f"--target={host.pid}", "--net", "ip", *words], check=True)


def join(broker, host, number):
    """Lay a cable between two hosts; its ends are called after the host, and eth0."""
    peer = ["peer", "name", "eth0", "netns", str(host.pid)]
    subprocess.run(
        ["ip", "link", "add", host.name, "netns", str(broker.pid), "type", "veth", *peer], check=True
    )
    for end, device, address in ((broker, host.name, 1), (host, "eth0", 2)):
        ip(end, "address", "add", f"10.77.{number}.{address}/24", "dev", device)
        ip(end, "link", "set", device, "up")
    host.knows({"broker": f"10.77.{number}.1"})


def connect(*hosts):
    """Start hosts and lay their cables; on the first of them, start the broker."""
    broker, *others = hosts
    broker.knows({"broker": "127.0.0.1"})
    for host in hosts:
        host.start()
    for number, host in enumerate(others, 1):
        join(broker, host, number)
    broker.broker("start")
    broker.shell(
        "rabbitmqctl add_user taskqueue k1ngf1sher; rabbitmqctl set_permissions taskqueue '.*' '.*' '.*'"
    )


def start(host, *names):
    host.shell("for user in first second; do adduser --system --quiet --group $user; done")
    host.configure(CONFIG)
    for name in names:
        host.daemon(name, "start")


def share_key(maker, *others):
    """Make a control key on one host as docs/operations.md says, copy it to others, and reload all pools."""
    maker.shell(example("docs/operations.md", "taskqueue control key"))
    for host in others:
        shutil.copyfile(maker.tree / KEY, host.tree / KEY)
        host.shell(example("docs/operations.md", "chown taskqueue:root /etc/taskqueue/control.key"))
    for host in (maker, *others):
        host.daemon("workerpool", "reload")


def obeyed(host, text):
    """Run an example on a host; return the lines that each of its commands said."""
    return [host.shell(command).splitlines() for command in commands(text)]


def workers_of(host):
    """Return the number of workers of each host, as `taskqueue ps` has it."""
    told = json.loads(host.shell("taskqueue ps --format json || true"))
    return {pool["host"]: sum(len(group["workers"]) for group in pool["groups"]) for pool in told["pools"]}


def users_of_workers(host):
    """Return the names of the workers and of the Unix users they run as."""
    found = {}
    for pid, words in host.processes("tq:digest_").items():
        if "/" in words.split()[0]:
            uid = Path(f"/proc/{pid}/status").read_text().partition("Uid:")[2].split()[0]
            found[words.split()[0]] = host.shell(f"getent passwd {uid}").partition(":")[0]
    return found


@pytest.mark.parametrize(
    "releases",
    [
        pytest.param(["bookworm", "bookworm", "bookworm"], id="bookworm"),
        pytest.param(["trixie", "bookworm", "trixie"], id="mixed"),
    ],
)
def test_hosts_share_the_work_and_all_arrives_though_one_is_cut_off_and_comes_back(
    namespaces, releases, installed_on, host_of
):
    names = ("broker", "left", "right")
    broker, left, right = (host_of(installed_on(r)[0], name) for r, name in zip(releases, names, strict=True))
    connect(broker, left, right)
    start(broker, "workerpool")
    start(left, *DAEMONS)
    start(right, "dispatcher")
    assert (
        users_of_workers(left)
        == users_of_workers(broker)
        == {
            "tq:digest_one/1": "first",
            "tq:digest_one/2": "first",
            "tq:digest_two/1": "second",
            "tq:digest_two/2": "second",
        }
    )
    consumers = broker.shell("rabbitmqctl -q list_consumers queue_name").split()
    # Of the dispatchers one each; of the pools one for each worker.
    assert (consumers.count("taskqueue"), consumers.count("worker_digest")) == (2, 8)
    load = broker.load(rate=40)
    load.wait_for(100)
    assert_shared(load.next_from(200))
    ip(left, "link", "set", "eth0", "down")
    wait_until(lambda: not is_from("left", load.next_from(50)), 60, load.output)
    ip(left, "link", "set", "eth0", "up")
    wait_until(lambda: is_from("left", load.next_from(50)), 120, load.output)
    assert_shared(load.next_from(200))
    load.finish(150)


def is_from(host, shares):
    return any(name.startswith(f"{host} ") for name in shares)


def assert_shared(shares):
    """Fail unless each of the four groups had half of its fair share at least: the broker goes round."""
    names = {f"{host} digest_{group}" for host in ("broker", "left") for group in ("one", "two")}
    assert shares.keys() == names
    assert min(shares.values()) >= shares.total() / 8, shares


def test_the_documented_commands_to_pools_act_on_three_hosts(namespaces, installed_on, host_of):
    tree, _ = installed_on("bookworm")
    web1, web2, web3 = three = [host_of(tree, name) for name in ("web1", "web2", "web3")]
    connect(*three)
    web1.daemon("dispatcher", "start")
    for host in three:
        host.configure(f"{AMQP}[digest]\nworkers: 2\n")
        host.daemon("workerpool", "start")
    share_key(web1, web2, web3)
    wait_until(lambda: workers_of(web2) == {"web1": 2, "web2": 2, "web3": 2}, 60)

    table, _ = obeyed(web3, example("docs/operations.md", "taskqueue ps"))
    assert [line.split()[0] for line in table if " consumer " in line] == ["web1", "web2", "web3"]

    paused, resumed = obeyed(web2, example("docs/operations.md", "taskqueue pause digest --for 2h"))
    assert [line.partition(" until ")[0] for line in paused] == [
        f"web{number}: digest is paused" for number in (1, 2, 3)
    ]
    assert resumed == [f"web{number}: digest is resumed." for number in (1, 2, 3)]

    one, kept, back = obeyed(web3, example("docs/operations.md", "taskqueue scale digest 6 --host web1"))
    assert one == ["web1: digest has 6 workers."]
    assert kept == [f"web{number}: digest has 4 workers." for number in (1, 2, 3)]
    assert back == [f"web{number}: digest has 2 workers." for number in (1, 2, 3)]
    wait_until(lambda: workers_of(web1) == {"web1": 2, "web2": 2, "web3": 2}, 60)

    everywhere, here = obeyed(web2, example("docs/operations.md", "taskqueue roll"))
    assert {f"web{number}: 2 of 2 workers replaced" for number in (1, 2, 3)} <= set(everywhere)
    assert here[-1] == "web1: 2 of 2 workers replaced"

    drained, undrained = obeyed(web3, example("docs/operations.md", "taskqueue drain web1"))
    assert (drained, undrained) == (["web1 is drained."], ["web1 takes workitems."])
    assert "35149" in web2.submit()

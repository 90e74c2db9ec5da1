"""Three hosts, two joined to that of the broker by a cable each; one is cut off and comes back under load."""

import subprocess
from pathlib import Path

import pytest
from support.packages import DAEMONS
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # seconds: machines are made

CONFIG = """
[amqp]
host: broker
user: taskqueue
password: k1ngf1sher
heartbeat: 5
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


def start(host, *names):
    host.shell("for user in first second; do adduser --system --quiet --group $user; done")
    host.configure(CONFIG)
    for name in names:
        host.daemon(name, "start")


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
    broker.knows({"broker": "127.0.0.1"})
    for host in (broker, left, right):
        host.start()
    for number, host in enumerate((left, right), 1):
        join(broker, host, number)
    broker.broker("start")
    broker.shell(
        "rabbitmqctl add_user taskqueue k1ngf1sher; rabbitmqctl set_permissions taskqueue '.*' '.*' '.*'"
    )
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

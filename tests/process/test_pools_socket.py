"""Commands of root to the pool of a host without a control key, over its Unix socket."""

import json
import signal
import socket
import stat
import subprocess

import pytest
from support.site import AS_ROOT, workers
from support.waiting import wait_until

from taskqueue.config.settings import PoolSettings
from taskqueue.consumer import control
from taskqueue.control import key

NOTE = "No control key: this is about the pool of this host alone; pauses and drains end with it.\n"
HOST = socket.gethostname()
#: Asks a pool what it does, and prints what comes.
ASKING = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
    peer.settimeout(10)
    peer.connect(sys.argv[1])
    try:
        peer.send(b'["describe", {"number": 1}]')
        print(peer.recv(9999))
    except ConnectionError:
        print(b"")
"""


class Alone:
    """A pool of a host without a key."""

    def __init__(self, site):
        self.site = site
        self.path = site.directory / "pool.socket"

    def configure(self, sections):
        self.site.configure(sections)
        text = self.site.config.read_text()
        self.site.config.write_text(
            text.replace("[workerpool]\n", f"[workerpool]\ncontrol_socket: {self.path}\n")
        )

    def start(self, sections):
        self.configure(sections)
        pool = self.site.start("workerpool", "-f", "-c", str(self.site.config))
        pool.wait_for("ready:")
        return pool

    def run(self, *words, status=0, prefix=()):
        done = self.site.run(*words, "-c", str(self.site.config), prefix=prefix)
        assert done.returncode == status, done
        assert NOTE in done.stderr
        return done.stdout + done.stderr.replace(NOTE, "")

    def shown(self):
        (pool,) = json.loads(self.run("ps", "--format", "json"))["pools"]
        return pool


@pytest.fixture
def alone(site):
    return Alone(site)


def test_without_a_key_every_verb_is_for_this_host_until_its_pool_ends(alone, work):
    site = alone.site
    pool = alone.start("[gated]\nworkers: 1\n[good]\nworkers: 1")
    before = workers(pool)
    assert stat.S_IMODE(alone.path.stat().st_mode) == 0o600
    running = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(running)
    assert f"works on {running} of gated" in alone.run("ps")

    assert alone.run("pause", "good", "--for", "1h").startswith(f"{HOST}: good is paused until ")
    assert "good is paused until " in alone.run("ps")
    assert {each["group"]: each["state"] for each in alone.shown()["groups"]} == {
        "gated": "takes work",
        "good": "is paused",
    }
    assert alone.run("drain", HOST) == f"{HOST} is drained.\n"
    assert {each["state"] for each in alone.shown()["groups"]} == {"is drained"}
    assert alone.run("undrain", HOST) == f"{HOST} takes workitems.\n"
    assert alone.run("resume", "good") == f"{HOST}: good is resumed.\n"
    work.ask("good")
    assert alone.run("scale", "good", "3") == f"{HOST}: good has 3 workers.\n"
    site.gate().touch()
    assert work.result().workitem == running
    assert alone.run("roll", "--host", HOST).endswith(f"{HOST}: 4 of 4 workers replaced\n")
    assert not workers(pool) & before

    refused = alone.run("scale", "good", "2", "--keep", status=1)
    assert refused == "taskqueue: without a control key no number of workers is kept: leave --keep out\n"
    assert "for this host alone" in alone.run("scale", "good", "2", "--host", "web9", status=1)
    assert "no pool with a control key has run on host 'web9'" in alone.run("drain", "web9", status=1)
    alone.run("pause", "good")
    assert pool.stop() == 0
    assert not alone.path.exists()
    assert "No such file or directory" in alone.run("ps", status=78)
    alone.start("[good]\nworkers: 1")
    work.ask("good")


def test_a_pause_ends_by_itself(alone, work):
    pool = alone.start("[good]\nworkers: 1")
    alone.run("pause", "good", "--for", "1s")
    waiting = work.submit("good")
    pool.wait_for("paused worker types: none")
    assert work.result().workitem == waiting


def test_with_a_key_the_socket_is_gone_and_what_it_paused_is_not(alone, work):
    pool = alone.start("[good]\nworkers: 1")
    alone.run("pause", "good")
    key.make(alone.site.directory / "control.key", "taskqueue")
    pool.signal(signal.SIGHUP)
    pool.wait_for("paused worker types: none")
    assert not alone.path.exists()
    work.ask("good")
    wait_until(lambda: alone.site.run("ps", "-c", str(alone.site.config)).returncode == 0)
    (alone.site.directory / "control.key").unlink()
    pool.signal(signal.SIGHUP)
    wait_until(alone.path.exists)
    assert [each["state"] for each in alone.shown()["groups"]] == ["takes work"]


def test_a_second_pool_leaves_the_socket_to_the_first_and_one_of_a_killed_pool_is_replaced(alone, work):
    first = alone.start("[good]\nworkers: 1")
    second = alone.start("[good]\nworkers: 1")
    second.wait_for(f"no commands are taken on socket {alone.path}: Address already in use")
    assert second.stop() == 0
    (group,) = alone.shown()["groups"]
    assert {each["pid"] for each in group["workers"]} == workers(first)
    first.kill()
    third = alone.start("[good]\nworkers: 1")
    (group,) = alone.shown()["groups"]
    assert {each["pid"] for each in group["workers"]} == workers(third)


@pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else")
def test_nobody_else_commands_the_pool(alone, work):
    pool = alone.start("[good]\nworkers: 1")
    alone.path.chmod(0o666)  # as if the mode were all that protects it
    words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(alone.site.python))
    tried = subprocess.run(
        [*words, "-c", ASKING, str(alone.path)], capture_output=True, text=True, timeout=30, check=True
    )
    assert tried.stdout == "b''\n"
    alone.path.chmod(0o600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(str(alone.path))
        control.send(peer, "scale", number=1, name="good", size=[-1, True])
        pool.wait_for("received an invalid message")
    assert [len(each["workers"]) for each in alone.shown()["groups"]] == [1]


def test_the_systems_configuration_has_a_socket_without_an_option_and_others_have_none():
    pool = PoolSettings()
    assert str(key.socket_of("/etc/taskqueue/config.ini", pool)) == "/run/taskqueue/workerpool.socket"
    assert key.socket_of("/home/ann/config.ini", pool) is None
    assert key.socket_of(None, pool) is None

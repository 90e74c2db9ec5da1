"""Commands to pools that are forged, replayed or stale, and a register that is damaged, lost or missing."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.hosts import hosts
from support.processes import children, name
from support.site import AS_ROOT
from support.waiting import wait_until

from taskqueue.config import AmqpSettings
from taskqueue.control import key, seal
from taskqueue.control.client import Command
from taskqueue.control.directives import Directive, Directives

REGISTER = "taskqueue_control_register"
TAKES, PAUSED = {"web1": ["takes work"]}, {"web1": ["is paused"]}

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="only root can give processes another host's name")

__all__ = ["hosts"]


def documents(foreign, number):
    """Return the register's first messages that are no marks."""

    def kept(bodies):
        return [body for body in bodies if not body.startswith("mark ")]

    return kept(foreign.read_stream(REGISTER, lambda bodies: len(kept(bodies)) >= number))


def command(hosts):
    return Command(AmqpSettings.from_url(hosts.site.url), key.read(hosts.key), timeout=1)


def pausing(sequence, signer):
    """Return a document that pauses `good`, signed by a key."""
    found = Directives(sequence, f"id{sequence}", {}, {"good": Directive("mallory", time.time())})
    return seal.seal(signer, "document", found.as_json())


def test_commands_that_are_forged_or_come_again_are_refused_and_counted(hosts, work, monkeypatch):
    foreign = work.foreign
    pool = hosts.pool("web1", "[good]\nworkers: 1")
    foreign.declare("spy")
    foreign._do(lambda channel: channel.queue_bind("spy", "taskqueue_control"))
    hosts.ask()
    seen = foreign.get("spy")
    foreign.publish_to("taskqueue_control", "", seen.body, reply_to=seen.properties["reply_to"])
    pool.wait_for("refused 1 commands, the last one because it was here before")
    for body in ("", "{}", "x" * 65, seal.seal(b"o" * 43, "command", {})):
        foreign.publish_to("taskqueue_control", "", body, reply_to=seen.properties["reply_to"])
    foreign.publish(pausing(9, b"o" * 43), REGISTER)
    pool.wait_for("refused 1 documents in the register, the last one because it is not signed by this host's")
    assert hosts.states() == TAKES
    work.ask("good")

    real = time.time
    monkeypatch.setattr(seal.time, "time", lambda: real() - 100)
    refused = hosts.ask().errors["web1"]
    assert "it is 10" in refused
    assert "do the clocks of the hosts agree?" in refused
    assert pool.stop() == 0


def test_a_host_of_another_release_says_so_and_the_others_obey(hosts):
    pool = hosts.pool("web1", "[good]\nworkers: 1")
    older = hosts.other_release("0.9", seal.VERSION - 1)
    hosts.pool("web2", env=older, answers=False)
    command(hosts).change(lambda found: found.with_host("web2"))  # as if it had been of this release before
    why = "web2 refuses the command: it runs taskqueue 0.9, which does not know this command; update it\n"
    wait_until(lambda: hosts.ask().errors)
    shown = hosts.run("ps", status=1)
    assert shown.endswith(why)
    assert "web1  good" in shown
    paused = hosts.run("pause", "good", status=1)
    assert paused.startswith("web1: good is paused.\n")
    assert paused.endswith(why)
    assert hosts.run("scale", "good", "2", "--host", "web2", status=1) == why
    assert hosts.run("roll", "good", "--host", "web2", status=1) == why

    (consumer,) = [pid for pid in children(pool.pid) if name(pid) == "tq:good"]
    os.kill(consumer, signal.SIGSTOP)  # web1 waits half a second for it, and web2 answers at once
    answers = hosts.ask()
    os.kill(consumer, signal.SIGCONT)
    assert ([pool["host"] for pool in answers.pools], list(answers.errors)) == (["web1"], ["web2"])

    *_, release = hosts.site.run("--version").stdout.split()
    words = ("ps", "-c", str(hosts.site.config))
    told = wait_until(lambda: (done := hosts.site.run(*words, **older)).returncode == 1 and done)
    assert "web2  good" in told.stdout
    assert told.stderr == (
        f"web1 refuses the command: it runs taskqueue {release}, which does not know this command; "
        "update the host that gave it\n"
    )


def test_what_another_version_commands_is_answered_once_and_only_if_the_key_has_signed_it(hosts, work):
    pool = hosts.pool("web1", "[good]\nworkers: 1")
    secret = key.read(hosts.key)

    def newer(signer, name, **changed):
        return seal.seal(signer, "command", {"version": seal.VERSION + 1, "id": name, **changed})

    first, last = newer(secret, "first"), newer(secret, "last")
    forged = newer(b"o" * 43, "forged"), first.replace(b'"first"', b'"other"'), first.partition(b"\n")[2]
    old = newer(secret, "old", time=time.time() - 100)
    sent = [first, first, *forged, newer(secret, "document", kind="document"), old, last]
    replies = work.foreign.ask("taskqueue_control", sent, lambda reply: '"last"' in reply)
    answers = [seal.unseal(secret, "answer", reply.encode()) for reply in replies]
    assert [answer["to"] for answer in answers] == ["first", "old", "last"]
    assert "which does not know this command; update it" in answers[0]["error"]
    assert "do the clocks of the hosts agree?" in answers[1]["error"]
    pool.wait_for("it has version 2, and this host knows 1")


def test_documents_of_another_version_are_refused(hosts, work):
    pool = hosts.pool("web1", "[good]\nworkers: 1")
    secret, newer = key.read(hosts.key), {"version": seal.VERSION + 1}
    hosts.run("pause", "good")
    document = Directives(9, "newer").as_json() | newer
    work.foreign.publish(seal.seal(secret, "document", document), REGISTER)
    pool.wait_for("refused 1 documents in the register, the last one because it has version 2")
    assert hosts.states() == PAUSED
    hosts.run("resume", "good")
    work.ask("good")


def test_the_newest_document_counts_though_old_ones_come_again_or_the_stream_is_lost(hosts, work):
    foreign = work.foreign
    first = hosts.pool("web1", "[good]\nworkers: 1")
    hosts.run("pause", "good")
    *_, paused = documents(foreign, 2)
    hosts.run("resume", "good")
    foreign.publish(paused, REGISTER)  # anybody who may publish can do that
    assert hosts.states() == TAKES
    assert first.stop() == 0
    second = hosts.pool("web1")
    assert hosts.states() == TAKES

    hosts.run("pause", "good")
    foreign.delete(REGISTER)
    second.wait_for(f"stream {REGISTER} was deleted")
    wait_until(lambda: second.output().count(f"declared queue {REGISTER}") == 1)
    assert len(documents(foreign, 1)) == 1
    for _ in range(25):
        foreign.publish(b"x" * 100_000, REGISTER)  # they would push it out
    assert len([each for each in documents(foreign, 27) if '"pauses": {"good"' in each]) >= 2
    second.kill()
    hosts.pool("web1", ready="is paused")
    waiting = work.submit("good")
    assert hosts.states() == PAUSED
    hosts.run("resume", "good")
    assert work.result().workitem == waiting


def test_of_changes_at_once_none_is_lost(hosts):
    names = [f"type{number}" for number in range(8)]

    def pause(name):
        command(hosts).change(lambda found: found.with_pause(name, Directive("root@web1", 1.0)))

    with ThreadPoolExecutor(len(names)) as together:
        list(together.map(pause, names))
    seen = []
    command(hosts).change(lambda found: seen.append(found) or found)
    assert sorted(seen[0].pauses) == names
    assert seen[0].sequence == len(names)


def test_a_workitem_that_waits_in_the_consumer_returns_to_its_queue_when_its_type_is_paused(
    hosts, work, broker, vhost
):
    hosts.pool("web1", "[limit one]\nconcurrency: 1\n[good]\nworkers: 1\nlimits: one")
    waiting = work.submit("good")  # for a permit: no gate runs
    wait_until(lambda: broker.unacknowledged(vhost, "worker_good") == 1)
    hosts.run("pause", "good")
    wait_until(lambda: work.foreign.depth("worker_good") == 1)
    assert work.foreign.get("worker_good").properties["message_id"] == waiting


def test_without_a_stream_nothing_can_be_paused_and_the_rest_works(hosts, work):
    work.foreign.declare(REGISTER)
    pool = hosts.pool("web1", "[good]\nworkers: 1", ready="there are no pauses and no drained hosts")
    work.ask("good")
    assert hosts.states() == TAKES
    reason = f"taskqueue: there are no standing commands on this broker: queue {REGISTER} is no stream\n"
    assert hosts.run("pause", "good", status=69).endswith(reason)
    assert (work.foreign.depth(REGISTER), work.foreign.consumers(REGISTER)) == (0, 0)
    assert pool.stop() == 0

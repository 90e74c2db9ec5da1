"""The findings of `taskqueue doctor`: what is judged of facts, each fault alone."""

import ast
import math
import os
import pwd
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

import taskqueue.doctor
from taskqueue.broker.errands import QueueSize
from taskqueue.broker.probe import CONFIGURE, READ, WRITE, Right
from taskqueue.config import AmqpSettings, GroupSettings, MonitorSettings, Settings
from taskqueue.doctor import (
    api,
    broker,
    files,
    host,
    plugins,
    queues,
    rabbitmqctl,
    rights,
    services,
    times,
    trust,
)
from taskqueue.doctor.broker import BrokerFacts
from taskqueue.doctor.files import FileFacts
from taskqueue.doctor.finding import AREAS, Finding, Level, Report, Unseen
from taskqueue.doctor.host import Disk, HostFacts, Process
from taskqueue.doctor.inside import BrokerNode, Inside, QueueSettings
from taskqueue.doctor.plugins import PluginFacts
from taskqueue.doctor.queues import QueueFacts, QueuesFacts
from taskqueue.doctor.services import Service
from taskqueue.doctor.times import Heard
from taskqueue.errors import BrokerRefused, BrokerUnavailable
from taskqueue.plugins import FORMATS, TASKS, WORKERS, Plugin

ADVICE, WARNING, ERROR = Level
MEBIBYTE, GIBIBYTE = 2**20, 2**30
DAY, NOW = 86400.0, 1_735_732_800.0
URL = "amqp://taskqueue:***@rabbit:5672/%2F"
NODE = BrokerNode("rabbit@one", is_running=True, version="3.10.8")
CLUSTER = Inside("test", tuple(replace(NODE, name=f"rabbit@{name}") for name in ("one", "two", "three")))
GROUP = GroupSettings("mail", "mail", workers=2)
DEFINED = {"durable": True}


# --- facts with one fault each ---


def of_broker(**facts):
    return broker.judge(BrokerFacts(URL, **{"version": "3.10.8"} | facts))


def of_inside(*nodes, has_alarm=False, **facts):
    inside = replace(CLUSTER, **{"nodes": nodes or CLUSTER.nodes} | facts)
    return of_broker(has_alarm=has_alarm, inside=inside)


def of_queues(sizes=None, settings=None, **facts):
    """Judge queues: those of a healthy broker, but for these sizes and settings by name."""
    healthy = {"taskqueue": QueueSize(0, 2), "worker_mail": QueueSize(7, 1), "results": QueueSize(5, 1)}
    sizes = healthy | (sizes or {})
    found = {name: QueueFacts(size, (settings or {}).get(name)) for name, size in sizes.items()}
    facts = {"results": frozenset(["results"]), "broker_major": 3} | facts
    return queues.judge(QueuesFacts(found, **facts), NOW)


def with_settings(*, kind="classic", name="worker_mail", arguments=None, policy=None, **facts):
    made = QueueSettings(kind, DEFINED | (arguments or {}), policy or {}, "short" if policy else "")
    return of_queues({name: QueueSize(0, 2)}, {name: made}, **facts)


def of_rights(*lacking, missing=(), **settings):
    configured = Settings(groups=(GROUP,), **settings)
    needed = rights.needs(configured, ("dispatcher", "workerpool"))
    return rights.judge("joe", needed, set(lacking), missing)


def of_deliveries(limit=None, *, policy=None, **group):
    queue = {"worker_mail": QueueSettings("classic", {}, policy or {}, "short")}
    inside = Inside("test", consumer_timeout=limit, queues=queue)
    return times.judge_deliveries([replace(GROUP, **group)], inside)


def of_hosts(*heard):
    return times.judge_hosts([Heard(*each) for each in heard], "here", "taskqueue 1.0")


def of_daemons(*heard, trusted=("friend",)):
    amqp = AmqpSettings((), user="us", trusted_users=trusted)
    return trust.judge_daemons(amqp, [Heard("other", name, "", 0.0, user) for name, user in heard])


def of_trusted(*names, users=("us", "friend")):
    known = None if users is None else frozenset(users)
    return trust.judge_entries(AmqpSettings((), user="us", trusted_users=names), Inside("test", users=known))


def of_files(mode=0o640, owner="root", **facts):
    return files.judge([FileFacts("/etc/taskqueue/config.ini", mode, owner, **facts)], "root")


def of_host(*processes, disks=(), memory=8 * GIBIBYTE, **group):
    return host.judge(HostFacts(processes, tuple(disks), memory, (replace(GROUP, **group),)))


def of_plugins(*entries):
    return plugins.judge(
        [PluginFacts(Plugin(name, "a:B", owner, "1.0"), kind, error) for name, owner, kind, error in entries]
    )


def of_command(program):
    return plugins.judge_commands([replace(GROUP, command=(program, "-x"))])


def of_key(directory, text, mode=0o600, **settings):
    """Judge a control key beside a configuration."""
    (directory / "control.key").write_text(text)
    (directory / "control.key").chmod(mode)
    return files.judge_key(Settings(path=str(directory / "config.ini"), **settings))


def of_service(**facts):
    return services.judge(
        [Service(**{"daemon": "workerpool", "kind": "systemd unit", "is_running": True} | facts)]
    )


def of_disk(free, total=100 * GIBIBYTE):
    return of_host(disks=[Disk("/var/lib/rabbitmq", "the broker's data", free, total)])


#: Each fault alone: the name and the level of its finding, words of it, and what yields it.
FAULTS = [
    ("broker-unreachable", ERROR, f"now {URL}", of_broker(trouble=BrokerUnavailable("no answer"))),
    ("broker-refuses", ERROR, "it refused joe", of_broker(trouble=BrokerRefused("it refused joe"))),
    ("old-broker", ERROR, "RabbitMQ 3.8.9, and taskqueue needs 3.10", of_broker(version="3.8.9")),
    ("other-broker", WARNING, "LavinMQ 2.0", of_broker(product="LavinMQ", version="2.0")),
    ("alarm", ERROR, "takes no messages", of_broker(has_alarm=True)),
    ("alarm", ERROR, "memory of rabbit@one", of_inside(has_alarm=True, alarms=("memory of rabbit@one",))),
    ("node-down", ERROR, "rabbit@one", of_inside(replace(NODE, is_running=False), NODE, NODE)),
    ("broker-files", ERROR, "950 of 1000", of_inside(replace(NODE, open_files=(950, 1000)), NODE, NODE)),
    ("node-versions", WARNING, "3.10.8, 3.11.0", of_inside(NODE, NODE, replace(NODE, version="3.11.0"))),
    ("two-nodes", WARNING, "2 nodes", of_inside(NODE, NODE)),
    ("partition", ERROR, "split", of_inside(has_partitions=True)),
    ("partition-handling", WARNING, "ignore", of_inside(partition_handling="ignore")),
    # --- rights ---
    ("right-missing", ERROR, "read taskqueue, which the dispatcher", of_rights(Right(READ, "taskqueue"))),
    ("right-missing", ERROR, "group mail gets no work", of_rights(Right(READ, "worker_mail"))),
    ("right-missing", WARNING, "read taskqueue_schedules", of_rights(Right(READ, "taskqueue_schedules"))),
    ("right-missing", WARNING, "write amq.gen-*", of_rights(Right(WRITE, "amq.gen-doctor"))),
    ("right-missing", WARNING, "configure taskqueue_lease_*",
     of_rights(Right(CONFIGURE, "taskqueue_lease_doctor"))),
    ("queue-missing", ERROR, "queue results does not exist",
     of_rights(Right(CONFIGURE, "results"), missing=["results"])),
    ("untrusted-daemon", WARNING, "not trusted; consumer mail on other, gate on other have",
     of_daemons(("consumer mail", "pool"), ("gate", "pool"), ("gate", "pool"), ("keeper", "us"))),
    ("untrusted-daemon", WARNING, "consumer 4 on other and 2 more have",
     of_daemons(*((f"consumer {number}", "pool") for number in range(7)))),
    ("unknown-user", WARNING, "names 'freind', and", of_trusted("friend", "freind")),
    # --- queues ---
    ("no-dispatcher", ERROR, "no dispatcher runs, and 3 workitems wait",
     of_queues({"taskqueue": QueueSize(3, 0)})),
    ("no-dispatcher", ERROR, "no dispatcher runs", of_queues({"taskqueue": None})),
    ("one-dispatcher", WARNING, "a single dispatcher", of_queues({"taskqueue": QueueSize(3, 1)})),
    ("no-consumer", WARNING, "1 workitem waits in worker_mail", of_queues({"worker_mail": QueueSize(1, 0)})),
    ("dead-letters", ADVICE, "has 99 messages", of_queues({"taskqueue_failed": QueueSize(99, 0)})),
    ("dead-letters", WARNING, "has 100 messages", of_queues({"taskqueue_rejected": QueueSize(100, 0)})),
    ("dead-letters", WARNING, "3 of them from the last 24 hours",
     of_queues({"taskqueue_failed": QueueSize(5, 0)}, new_letters={"taskqueue_failed": 3})),
    ("unread-results", WARNING, "100 results wait in results", of_queues({"results": QueueSize(100, 0)})),
    ("idle-type", ADVICE, "no work for 15 days", of_queues(idle_since={"mail": NOW - 15 * DAY})),
    ("message-ttl", ERROR, "drops messages that are older than 5 s (by its argument x-message-ttl)",
     with_settings(arguments={"message-ttl": 5000})),
    ("message-ttl", ERROR, "moves messages elsewhere that are older than 3 s (by policy short)",
     with_settings(arguments={"message-ttl": 5000},
                   policy={"message-ttl": 3000, "dead-letter-exchange": ""})),
    ("message-ttl", ERROR, "queue taskqueue_delay_5",
     with_settings(name="taskqueue_delay_5", arguments={"message-ttl": 5000}, policy={"message-ttl": 100})),
    ("queue-expires", ERROR, "after 60 s without use", with_settings(policy={"expires": 60_000})),
    ("max-length", ERROR, "beyond 9 messages", with_settings(policy={"max-length": 9})),
    ("max-length", ERROR, "beyond 9000 bytes",
     with_settings(name="taskqueue", arguments={"max-length-bytes": 9000})),
    ("not-durable", ERROR, "is not durable", with_settings(arguments={"durable": False})),
    ("delivery-limit", WARNING, "after 20 deliveries, the default",
     with_settings(kind="quorum", broker_major=4)),
    ("delivery-limit", WARNING, "after 5 deliveries (by policy short)",
     with_settings(kind="quorum", policy={"delivery-limit": 5})),
    ("delivery-limit", WARNING, "after 5 deliveries (by policy short)",
     with_settings(kind="quorum", name="taskqueue_delay_5", policy={"delivery-limit": 5},
                   arguments={"delivery-limit": -1})),
    ("single-consumer", WARNING, "one process", with_settings(arguments={"single-active-consumer": True})),
    ("classic-queue", WARNING, "worker_mail is a classic queue", with_settings(is_cluster=True)),
    # --- times ---
    ("consumer-timeout", WARNING, "set lease_after to less than 450", of_deliveries(900.0)),
    ("consumer-timeout", WARNING, "back after 60 s", of_deliveries(policy={"consumer-timeout": 60_000})),
    ("clock", WARNING, "host other is 90 s ahead",
     of_hosts(("other", "dispatcher", "", 90.0), ("other", "dispatcher", "", 88.0))),
    ("clock", WARNING, "host other is 60 s behind", of_hosts(("other", "dispatcher", "", -60.0))),
    ("old-process", WARNING, "consumer mail of this host runs taskqueue 0.9",
     of_hosts(("here", "consumer mail", "taskqueue 0.9", 0.0))),
    ("versions", WARNING, "taskqueue 0.9 on other; taskqueue 1.0 on here",
     of_hosts(("other", "dispatcher", "taskqueue 0.9", 0.0))),
    # --- files ---
    ("file-writable", ERROR, "can change /etc/taskqueue/config.ini", of_files(0o646, is_secret=False)),
    ("file-owner", WARNING, "belongs to user joe", of_files(owner="joe", is_config=True)),
    ("secret-public", ERROR, "every user of this machine can read", of_files(0o644)),
    ("secret-group", ADVICE, "a, b, c, d, e and 1 more", of_files(members=tuple("abcdef"))),
    # --- the host ---
    ("open-files", WARNING, "consumer of mail has 95 of 100",
     of_host(Process("consumer of mail", 1, (95, 100)))),
    ("disk", WARNING, "1023 MiB are free in /var/lib/rabbitmq", of_disk(1024 * MEBIBYTE - 1, 50 * GIBIBYTE)),
    ("disk", WARNING, "4096 MiB", of_disk(4 * GIBIBYTE)),
    ("disk", ERROR, "99 MiB", of_disk(100 * MEBIBYTE - 1, GIBIBYTE)),
    ("memory", WARNING, "need 8207 MiB",
     of_host(Process("worker mail/2", 4 * GIBIBYTE), Process("worker mail/1", 9))),
    ("memory-allowed", ADVICE, "may come to 10015 MiB", of_host(max_memory=5000)),
    # --- plugins ---
    ("plugin-import", ERROR, "No module named 'x'",
     of_plugins(("mail", "mails", WORKERS, "No module named 'x'"))),
    ("plugin-collision", ERROR, "mails 1.0, posts 1.0",
     of_plugins(("mail", "mails", WORKERS, None), ("mail", "posts", WORKERS, None))),
    ("plugin-hides-tasks", WARNING, "mail",
     of_plugins(("mail", "a", WORKERS, None), ("mail", "b", TASKS, None))),
    ("command-missing", ERROR, "runs /nowhere, which is no program", of_command("/nowhere")),
    ("command-missing", ERROR, "runs /etc/passwd", of_command("/etc/passwd")),
    # --- services ---
    ("service-failed", ERROR, "python-taskqueue-workerpool has failed",
     of_service(is_running=False, has_failed=True)),
    ("service-stopped", WARNING, "is enabled, and does not run", of_service(is_running=False)),
    ("service-disabled", WARNING, "`systemctl enable", of_service(is_enabled=False)),
    ("service-disabled", WARNING, "`update-rc.d", of_service(is_enabled=False, kind="init script")),
    ("unit-changed", WARNING, "daemon-reload", of_service(needs_reload=True)),
    ("unit-overridden", ADVICE, "is changed by /etc/x.conf", of_service(drop_ins=("/etc/x.conf",))),
]  # fmt: skip
#: Findings that are not judged of facts: tests/broker/test_doctor.py and tests below make their faults.
ELSEWHERE = {
    "control-key",
    "config-fault",
    "config-warning",
    "no-address",
    "secret-of-workers",
    "daemon-cannot-read",
}


@pytest.mark.parametrize(
    ("name", "level", "words", "found"),
    [(name, level, words, list(found)) for name, level, words, found in FAULTS],
    ids=[f"{name}-{number}" for number, (name, *_) in enumerate(FAULTS)],
)
def test_each_fault_is_found_and_nothing_else(name, level, words, found):
    assert {(each.name, each.level) for each in found} == {(name, level)}
    for each in found:
        assert each.area in AREAS
        assert each.advice
        assert not each.text.endswith(".")
        assert not each.advice.endswith(".")
    assert any(words in f"{each.text}; {each.advice}" for each in found), found


def names_in_the_code():
    """Return the names of all findings: the word after the level, or after the area of a Finding."""
    for path in Path(taskqueue.doctor.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_finding", "Finding", "_of_config"):
                place = 2 if ast.unparse(node.func) == "Finding" else 1
                if isinstance(node.args[place], ast.Constant):
                    yield node.args[place].value


def test_each_finding_of_the_code_has_a_test_that_makes_its_fault():
    # Two are passed on with names of their own.
    assert {name for name, *_ in FAULTS} | ELSEWHERE == {
        *names_in_the_code(),
        "message-ttl",
        "queue-expires",
        "max-length",
    }


HEALTHY = [
    of_broker(),
    of_inside(partition_handling="pause_minority", alarms=("memory of rabbit@one",)),
    of_broker(inside=Inside("test", (NODE,), partition_handling="ignore")),
    of_rights(Right(READ, "taskqueue_gate")),  # no limit is configured
    of_rights(missing=["results"]),
    of_daemons(
        ("consumer mail", "friend"), ("dispatcher", "us"), ("dispatcher", ""), ("feeder", "joe"), ("", "joe")
    ),
    of_daemons(("consumer mail", "anybody"), trusted=("*",)),
    of_trusted("friend", "*"),
    of_trusted("who knows", users=None),
    of_queues(),
    of_queues({"taskqueue": QueueSize(0, 1)}, is_private=True),
    of_queues({"taskqueue_failed": QueueSize(0, 0)}, new_letters={"taskqueue_failed": 3}),
    of_queues({"results": QueueSize(99, 0)}),
    of_queues({"worker_mail": QueueSize(0, 0)}, idle_since={"mail": NOW - 15 * DAY}),
    of_queues(idle_since={"mail": NOW - 13 * DAY}),
    with_settings(arguments={"max-length": 9, "overflow": "reject-publish"}),
    with_settings(
        name="taskqueue_delay_5", kind="quorum", arguments={"message-ttl": 5000, "delivery-limit": -1}
    ),
    with_settings(name="taskqueue_claims", kind="quorum", arguments={"single-active-consumer": True}),
    with_settings(name="taskqueue_events", kind="stream", policy={"max-length-bytes": 10**9}),
    with_settings(name="results", policy={"message-ttl": 1000}, results=frozenset(["results"])),
    with_settings(kind="quorum", broker_major=4, arguments={"delivery-limit": -1}),
    with_settings(kind="quorum", is_cluster=True),
    of_deliveries(1800.0),
    of_deliveries(math.inf),
    of_deliveries(900.0, timeout=60.0),
    of_deliveries(900.0, workers=0),
    of_hosts(("other", "dispatcher", "taskqueue 1.0", 1.0), ("here", "dispatcher", "taskqueue 1.0", -99.0)),
    of_files(),
    of_files(owner="taskqueue"),
    of_command("/bin/true"),
    of_files(0o644, is_secret=False),
    of_host(Process("consumer of mail", 1, (89, 100)), Process("worker other/1", 90 * GIBIBYTE)),
    of_host(max_memory=5000, memory=0),
    of_disk(6 * GIBIBYTE),
    of_plugins(("mail", "a", WORKERS, None), ("mail", "b", FORMATS, None), ("post", "b", TASKS, None)),
    of_service(),
    of_service(is_running=False, is_enabled=False),
]


def test_nothing_is_found_where_nothing_is_wrong():
    assert [found for facts in HEALTHY if (found := list(facts))] == []


# --- the report ---


def test_findings_are_ordered_by_weight_and_the_worst_is_the_status():
    def finding(level, area, text="x"):
        return Finding(level, area, "name", text, "do it")

    some = [
        finding(ADVICE, "broker"),
        finding(WARNING, "host"),
        finding(WARNING, "rights"),
        finding(ERROR, "host"),
    ]
    report = Report.of([*some, some[0]], [Unseen("a", "b"), Unseen("a", "b")])
    assert [(each.level, each.area) for each in report.findings] == [
        (ERROR, "host"), (WARNING, "rights"), (WARNING, "host"), (ADVICE, "broker")
    ]  # fmt: skip
    assert len(report.unseen) == 1
    assert [Report.of(some[:number], ()).status for number in (0, 1, 2, 4)] == [0, 0, 1, 2]
    assert report.as_json()["findings"][0] == {
        "level": "error", "area": "host", "name": "name", "text": "x", "advice": "do it"
    }  # fmt: skip


# --- reading ---

#: What `systemctl show` prints of a unit that is not installed, one that has failed, and one that is changed.
SHOWN = """\
Id=python-taskqueue-dispatcher.service
LoadState=not-found
ActiveState=inactive
NeedDaemonReload=no

Id=python-taskqueue-workerpool.service
LoadState=loaded
ActiveState=failed
UnitFileState=enabled
NeedDaemonReload=yes

Id=python-taskqueue-monitor.service
LoadState=loaded
ActiveState=active
UnitFileState=disabled
NeedDaemonReload=no
DropInPaths=/etc/systemd/system/python-taskqueue-monitor.service.d/override.conf
"""


def test_units_are_read():
    pool, monitor = services.units(SHOWN)
    assert pool == Service(
        "workerpool", "systemd unit", is_running=False, has_failed=True, needs_reload=True
    )  # fmt: skip
    place = "/etc/systemd/system/python-taskqueue-monitor.service.d/override.conf"
    assert monitor == Service("monitor", "systemd unit", is_running=True, is_enabled=False, drop_ins=(place,))


def test_init_scripts_are_read(tmp_path):
    def write(name, text=""):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    for daemon in ("dispatcher", "workerpool"):
        write(f"etc/init.d/python-taskqueue-{daemon}")
    write("etc/rc2.d/S01python-taskqueue-dispatcher")
    write("run/taskqueue/dispatcher.pid", "1\n")
    write("run/taskqueue/workerpool.pid", "4194304\n")  # more than pid_max
    dispatcher, pool = services.collect(tmp_path)
    assert dispatcher == Service("dispatcher", "init script", is_running=True)
    assert pool == Service("workerpool", "init script", is_running=False, is_enabled=False, has_failed=True)
    assert services.daemons_here([dispatcher, pool]) == {"dispatcher"}
    assert services.daemons_here([]) == {"dispatcher", "workerpool"}


def test_the_process_files_are_read(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:       1024 kB\nMemFree: 1 kB\n")
    for number in range(3):
        (tmp_path / f"1/fd/{number}").mkdir(parents=True)
    (tmp_path / "1/cmdline").write_bytes(b"taskqueue: consumer of mail\0\0")
    (tmp_path / "1/limits").write_text("Limit  Soft Limit  Hard Limit  Units\nMax open files  9  20  files\n")
    (tmp_path / "2").mkdir()  # has ended
    found = host.collect(Settings(), tmp_path)
    assert found.memory == MEBIBYTE
    assert [(each.title, each.open_files) for each in found.processes] == [("consumer of mail", (3, 20))]
    assert found.processes[0].rss > 0
    assert len({disk.path for disk in found.disks}) == len(found.disks) > 0


def test_the_arguments_that_amqp_tells_are_read():
    assert queues.settings_of("x-message-ttl", "5000") == QueueSettings(
        "", {"message-ttl": 5000}, is_whole=False
    )
    assert queues.settings_of("durable", "false").arguments == {"durable": False}
    assert queues.settings_of("x-queue-type", "quorum").kind == "quorum"


def test_the_alarms_and_times_that_rabbitmqctl_tells_are_read():
    told = {
        "nodes": [], "queues": [], "partitions": 1, "partition_handling": "", "consumer_timeout": "undefined",
        "users": False,
        "alarms": ["{{resource_limit,memory,rabbit@one},[]}", "{{resource_limit,disk,'rabbit@a-b'},[]}", "x"],
    }  # fmt: skip
    found = rabbitmqctl.inside(told)
    assert found.alarms == ("memory of rabbit@one", "disk space of rabbit@a-b", "x")
    assert (found.consumer_timeout, found.has_partitions, found.partition_handling) == (math.inf, True, None)
    assert rabbitmqctl.inside(told | {"consumer_timeout": "1800000"}).consumer_timeout == 1800
    assert rabbitmqctl.inside(told | {"consumer_timeout": ""}).consumer_timeout is None
    assert (found.users, rabbitmqctl.inside(told | {"users": ["joe"]}).users) == (None, {"joe"})
    assert list(api.unseen())


def test_a_control_key_that_the_pool_refuses_is_found(tmp_path):
    good = f"{'k' * 43}\n"
    assert list(of_key(tmp_path, good)) == []
    for text, mode, words in [
        ("short", 0o600, "expected a line of 43"),
        (good, 0o604, "other users cannot read"),
    ]:
        (found,) = of_key(tmp_path, text, mode)
        assert (found.name, found.level) == ("control-key", ERROR)
        assert words in found.text
    settings = Settings(path=str(tmp_path / "config.ini"), groups=(GROUP,))
    pools = str(tmp_path / "control.key")
    assert files.with_control_key(settings).secret_files == (pools,)
    (tmp_path / "other.key").write_text("short")
    for other, both in (
        (pools, (pools,)),
        (str(tmp_path / "other.key"), (pools, str(tmp_path / "other.key"))),
    ):
        watched = replace(settings, monitor=MonitorSettings(control_key=other))
        assert files.with_control_key(watched).secret_files == both
    (tmp_path / "control.key").write_text(good)
    (tmp_path / "control.key").chmod(0o600)
    assert [str(tmp_path / "other.key") in each.text for each in files.judge_key(watched)] == [True]
    needed = {need.right for need in rights.needs(settings, ("workerpool",))}
    assert Right(READ, "taskqueue_control") in needed
    assert Right(READ, "taskqueue_control") not in {
        need.right for need in rights.needs(Settings(), ("workerpool",))
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look at files as another user")
def test_secrets_that_workers_can_read_and_files_that_daemons_cannot_are_found():
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        directory.chmod(0o755)
        secret, path = directory / "password", directory / "config.ini"
        secret.write_text("k1ngf1sher\n")
        os.chown(secret, 0, pwd.getpwnam("taskqueue-worker").pw_gid)
        secret.chmod(0o640)
        path.write_text("")
        path.chmod(0o600)
        settings = Settings(path=str(path), groups=(GROUP,), secret_files=(str(secret),))
        found = {each.name: each for each in files.judge_exposure(settings)}
        assert found.keys() == {"secret-of-workers", "daemon-cannot-read"}
        assert "workers of these users can read it: taskqueue-worker" in found["secret-of-workers"].text
        assert found["secret-of-workers"].advice.startswith("chown root:taskqueue and chmod 640")
        assert found["daemon-cannot-read"].advice.startswith("chgrp taskqueue and chmod g+r")
        secret.rename(directory / "control.key")
        exposed = [each for each in files.judge_exposure(settings) if each.name == "secret-of-workers"]
        assert [each.advice[:25] for each in exposed] == ["chown taskqueue and chmod"]
        (directory / "control.key").rename(secret)
        looked = {each.path: each for each in files.collect(settings)}
        assert looked[str(secret)].members == ("taskqueue-worker",)
        assert [(each.mode, each.owner, each.is_secret) for each in looked.values()] == [
            (0o600, "root", False), (0o640, "root", True)
        ]  # fmt: skip
        path.chmod(0o644)
        secret.chmod(0o600)
        assert list(files.judge_exposure(settings)) == []
    finally:
        shutil.rmtree(directory)


# --- the command ---


def test_a_faulty_configuration_and_a_broker_that_is_away_are_findings(call, write):
    path = write("[dispatcher]\nwindow: three\n[digset]\n[amqp]\nhost: x\n", mode=0o644)
    status, text, errors = call("doctor", "-c", path)
    assert (status, errors) == (2, "")
    assert f"error: {path}: section [dispatcher], option window: " in text
    assert "warning: section [digset]: no plugin 'digset' is installed" in text
    assert "not looked at: the broker (the configuration, which names it, has faults)" in text
    status, text, errors = call("doctor", "-c", path, "--amqp", "amqp://joe:k1ngf1sher@127.0.0.1:1/")
    assert (status, errors) == (2, "")
    assert (
        "error: the broker at 127.0.0.1:1 cannot be reached: Connection refused\n    start RabbitMQ" in text
    )
    assert "k1ngf1sher" not in text


def test_without_any_broker_and_with_a_public_password_the_ways_to_mend_it_are_told(call, write):
    status, text, errors = call("doctor", "-c", write("[amqp]\npassword: k1ngf1sher\n", mode=0o644))
    assert (status, errors) == (2, "")
    assert "error: no broker: expected --amqp, TASKQUEUE_AMQP, or url or host in section [amqp]" in text
    assert "error: every user of this machine can read the secret in" in text
    assert text.count("can read the") == 1
    assert "k1ngf1sher" not in text

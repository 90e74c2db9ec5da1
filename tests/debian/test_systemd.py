"""The packages under a real systemd, in namespaces of its own."""

import json

import pytest
from support.packages import DAEMONS, LICENSE, digest_of_license, readme_commands
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # seconds: machines are made

# Numbers of capabilities(7).
CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID, SETFCAP = 0, 1, 5, 6, 7, 31


def unit(name):
    return f"python-taskqueue-{name}.service"


def shown(host, name, option):
    return host.run("systemctl", "show", "--value", "--property", option, unit(name)).stdout.strip()


def status_of(host, name):
    """Return what the kernel says of a daemon's first process."""
    lines = host.shell(f"cat /proc/{shown(host, name, 'MainPID')}/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines)


@pytest.fixture(scope="module")
def booted(namespaces, release, fetched_for, make_host):
    """A machine that systemd has booted and on which README.md's commands were given; and what they said."""
    with make_host(fetched_for(release, "systemd-sysv dbus"), "machine") as host:
        host.start(systemd=True)
        yield host, host.shell(readme_commands()[1])


@pytest.fixture
def host(booted):
    """The machine, with its daemons running."""
    host = booted[0]
    host.configure("[amqp]\nhost: localhost\n[digest]\nuser: games\n")
    host.run("systemctl", "reset-failed", *map(unit, DAEMONS))  # tests start them more often than people do
    host.run("systemctl", "restart", *map(unit, DAEMONS))
    return host


def test_the_commands_of_the_readme_install_it_and_bring_a_result(booted):
    host, said = booted
    result = json.loads(said[said.rindex("{") :])
    assert (result["path"], result["sha256"]) == (LICENSE, digest_of_license(host))


def test_a_round_trip_by_init_scripts_that_hand_over_to_systemd(host, checkout_of, release):
    script = (checkout_of(release) / "debian/tests/round-trip").read_text()
    assert host.run("sh", "-s", stdin=script).stdout.endswith("* all is well\n")


def test_the_dispatcher_can_do_nothing_but_its_work(host):
    assert shown(host, "dispatcher", "Type") == "notify"
    status = status_of(host, "dispatcher")
    uid = host.shell("id -u taskqueue").strip()
    assert status["Uid"].split() == [uid] * 4
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_the_pool_can_switch_users_and_deal_with_what_is_theirs(host):
    assert shown(host, "workerpool", "Type") == "notify"
    status = status_of(host, "workerpool")
    wanted = sum(1 << number for number in (CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID, SETFCAP))
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == wanted
    assert digest_of_license(host) in host.submit()


def test_isolated_workers_have_control_groups_below_the_pools_which_is_restricted_itself(host):
    options = "private_tmp: yes\nno_network: yes\nread_only: yes\nuser: games\ncpu_weight: 50"
    host.configure(f"[amqp]\nhost: localhost\n[digest]\nworkers: 1\n{options}\n")
    host.run("systemctl", "reload", unit("workerpool"))  # the processes that run already are moved
    assert digest_of_license(host) in host.submit()
    pool = shown(host, "workerpool", "ControlGroup")
    groups = host.shell(f"cd /sys/fs/cgroup{pool} && grep -c . */cgroup.procs").split()
    counts = dict(line.split("/cgroup.procs:") for line in groups)
    assert counts.pop("supervisor") == "2"  # supervisor and consumer
    assert list(counts.values()) == ["1"]
    assert not host.shell(f"cat /sys/fs/cgroup{pool}/cgroup.procs")
    main = shown(host, "workerpool", "MainPID")
    inside = ["nsenter", f"--target={main}", "--mount"]
    host.run(*inside, "mkdir", "/sys/fs/cgroup/elsewhere", status=1)
    host.run("systemctl", "restart", unit("workerpool"))
    assert digest_of_license(host) in host.submit()
    security = host.run("systemd-analyze", "security", "--threshold=40", "--no-pager", unit("workerpool"))
    assert "Overall exposure level" in security.stdout


def test_both_write_a_log_file(host):
    host.configure("[amqp]\nhost: localhost\n[logging]\ndestination: /var/log/taskqueue/taskqueue.log\n")
    host.run("systemctl", "restart", *map(unit, DAEMONS))
    log = host.tree / "var/log/taskqueue/taskqueue.log"
    for words in ("dispatcher: ready: ", "workerpool: ready: "):
        wait_until(lambda words=words: words in log.read_text(), what=log.read_text)


@pytest.mark.parametrize("name", DAEMONS)
def test_a_start_with_faults_fails_and_the_journal_has_the_list_of_them(host, name):
    host.configure("[amqp]\nhost: localhost\nheartbeat: often\n[digest]\nworkers: many\n")
    host.run("systemctl", "reload", unit(name), status=1)
    assert shown(host, name, "ActiveState") == "active"
    host.run("systemctl", "restart", unit(name), status=1)
    assert (shown(host, name, "ActiveState"), shown(host, name, "ExecMainStatus")) == ("failed", "78")
    journal = host.shell(f"journalctl --no-pager --unit {unit(name)}")
    assert "section [amqp], option heartbeat: expected a number from 0 to 65535, found 'often'" in journal
    assert "section [digest], option workers: expected" in journal


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_that_hangs_is_replaced_by_its_watchdog(host, name):
    drop_in = host.tree / f"etc/systemd/system/{unit(name)}.d/quick.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=2\nRestartSec=0\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", unit(name))
    pid = shown(host, name, "MainPID")
    heard = {shown(host, name, "WatchdogTimestampMonotonic")}
    wait_until(lambda: len(heard.add(shown(host, name, "WatchdogTimestampMonotonic")) or heard) >= 4, 20)
    assert shown(host, name, "MainPID") == pid
    host.run("kill", "-STOP", pid)
    wait_until(lambda: shown(host, name, "MainPID") not in (pid, "0"), 30)
    wait_until(lambda: shown(host, name, "ActiveState") == "active", 30)
    assert "Watchdog timeout" in host.shell(f"journalctl --no-pager --unit {unit(name)}")


def test_nothing_is_left_after_a_purge(host):  # the last one: the machine is of no use then
    host.shell("apt purge $(dpkg-query -W -f '${Package} ' 'python-taskqueue-*')")
    assert not host.processes("taskqueue")
    assert not host.processes("tq:")
    assert host.run("systemctl", "list-units", "--all", "--no-legend", "python-taskqueue-*").stdout == ""
    found = host.shell(
        "find / -xdev -path /root -prune -o -path /proc -prune -o -path /sys -prune "
        "-o -path /var/lib/rabbitmq -prune "  # a stream's directory has its name
        "-o -path '/etc/systemd/system/*.d' -prune -o -name '*taskqueue*' -print"
    )
    assert found.split() == []

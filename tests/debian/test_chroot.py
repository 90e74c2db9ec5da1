"""The packages on a new machine with nothing but the base system: installed, used, upgraded, removed."""

import json
from pathlib import Path

import pytest
from stage import ROOT
from support.documentation import commands, example
from support.packages import DAEMONS, LICENSE, digest_of_license, readme_commands
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # seconds: machines are made

CONFIG = "[amqp]\nhost: localhost\n"
LOG = "/var/log/taskqueue/taskqueue.log"
SHIPPED = (ROOT / "etc/taskqueue/config.ini").read_text()
#: An administrator's; the package has another one.
OURS = f"{CONFIG}; ours\n[digest]\nworkers: 3\n"
OWNERS = (
    "stat -c '%U %G %a %n' /etc/taskqueue/config.ini /var/log/taskqueue /var/lib/taskqueue-worker "
    "/var/lib/taskqueue/monitor"
)


@pytest.fixture(scope="module")
def installed(release, fetched_for, make_host):
    """A machine on which README.md's commands were given; and what they said."""
    with make_host(fetched_for(release), "machine") as host:
        host.start()
        yield host, host.shell(readme_commands()[1])


@pytest.fixture
def running(installed):
    """The machine, with broker and daemons running, on the configuration of the package."""
    host = installed[0]
    host.configure(CONFIG)
    host.broker("start")
    for name in DAEMONS:
        host.daemon(name, "restart")
    return host


def log(host):
    path = host.tree / LOG[1:]
    return path.read_text() if path.exists() else ""


def test_the_commands_of_the_readme_install_it_and_bring_a_result(installed):
    host, said = installed
    result = json.loads(said[said.rindex("{") :])
    assert (result["path"], result["sha256"]) == (LICENSE, digest_of_license(host))


#: Debian's own client publishes something that is no JSON.
PUBLISH = """
import amqp

with amqp.Connection("localhost") as connection:
    message = amqp.Message('{"digest', content_type="application/json")
    connection.channel().basic_publish(message, routing_key="taskqueue")
"""
#: It shows what is in a queue.
READ = """
import json, sys
import amqp

with amqp.Connection("localhost") as connection:
    channel = connection.channel()
    while message := channel.basic_get(sys.argv[1], no_ack=True):
        body = message.body  # bytes, or text where a content encoding was named
        print(json.dumps([body if isinstance(body, str) else body.decode(), message.headers]))
"""


def depths(host):
    """Return the queues that the broker has, and how many messages are in each."""
    lines = host.shell("rabbitmqctl -s list_queues name messages").splitlines()
    return {name: int(depth) for name, depth in (line.split("\t") for line in lines)}


def test_results_failures_and_rejections_wait_in_queues_that_nobody_had_declared(installed):
    host = installed[0]
    wanted = {"results": 2, "taskqueue_failed": 1, "taskqueue_rejected": 1}
    assert depths(host).keys().isdisjoint(wanted)
    host.shell(
        f"apt install python3-amqp; taskqueue submit digest {LICENSE}; taskqueue submit digest /nowhere"
    )
    host.run("python3", "-c", PUBLISH)
    wait_until(lambda: depths(host).items() >= wanted.items(), 60, lambda: depths(host))
    found = {name: host.run("python3", "-c", READ, name).stdout for name in wanted}
    results = {
        headers["x-taskqueue-status"]: body
        for body, headers in map(json.loads, found["results"].splitlines())
    }
    assert json.loads(results["succeeded"])["sha256"] == digest_of_license(host)
    assert "/nowhere" in results["failed"]
    body, headers = json.loads(found["taskqueue_failed"])
    assert (body, headers["x-taskqueue-queue"]) == ("/nowhere", "worker_digest")
    assert "FileNotFoundError" in headers["x-taskqueue-reason"]
    body, headers = json.loads(found["taskqueue_rejected"])
    assert (body, headers["x-taskqueue-queue"]) == ('{"digest', "taskqueue")
    assert "JSON" in headers["x-taskqueue-reason"]


def test_a_round_trip_by_init_scripts(running, checkout_of, release):
    script = (checkout_of(release) / "debian/tests/round-trip").read_text()
    assert running.run("sh", "-s", stdin=script).stdout.endswith("* all is well\n")


def test_a_start_with_faults_fails_with_the_list_of_them_and_a_running_daemon_goes_on(running):
    running.configure("[amqp]\nhost: localhost\nheartbeat: often\n[digest]\nworkers: many\n")
    for name in DAEMONS:
        for action in ("reload", "restart"):
            said = running.daemon(name, action, 6)
            assert (
                "section [amqp], option heartbeat: expected a number from 0 to 65535, found 'often'" in said
            )
            assert "section [digest], option workers: expected" in said
        running.daemon(name, "status")
        running.daemon(name, "stop")
        said = running.daemon(name, "start", 6)
        assert "section [amqp], option heartbeat: expected" in said
        assert "section [digest], option workers: expected" in said
        running.daemon(name, "status", 3)


def test_a_start_right_after_one_that_failed_fails_too_and_nothing_runs(running):
    running.configure("[amqp]\nurl: amqp://guest:wrong@localhost\n")
    for name in DAEMONS:
        running.daemon(name, "stop")
        for _ in range(3):
            assert "wrong name or password" in running.daemon(name, "start", 1)
        running.daemon(name, "status", 3)
    running.configure(CONFIG)
    for name in DAEMONS:
        running.daemon(name, "start")
        running.daemon(name, "status")


def test_starts_at_the_same_time_all_say_what_became_of_the_one_daemon(running):
    script = """
        jobs=
        for daemon in dispatcher workerpool monitor dispatcher workerpool monitor; do
            /etc/init.d/python-taskqueue-$daemon start & jobs="$jobs $!"
        done
        for job in $jobs; do wait $job && status=0 || status=$?; echo "ended with $status"; done
    """
    for config, status in (("[amqp]\nurl: amqp://guest:wrong@localhost\n", 1), (CONFIG, 0)):
        for name in DAEMONS:
            running.daemon(name, "stop")
        running.configure(config)
        assert running.shell(script).count(f"ended with {status}\n") == 6
        for name in DAEMONS:
            running.daemon(name, "status", 3 if status else 0)
            running.daemon(name, "start", status)


def test_without_a_broker_the_daemons_start_and_wait_for_it_and_say_so(running):
    for name in DAEMONS:
        running.daemon(name, "stop")
    running.broker("stop")
    running.configure(f"{CONFIG}[logging]\ndestination: {LOG}\n")
    for name in DAEMONS:
        running.daemon(name, "start")
        running.daemon(name, "status")
    wait_until(lambda: log(running).count("Connection refused") >= 2, what=lambda: log(running))
    running.broker("start")
    assert digest_of_license(running) in running.submit(timeout=60)


def test_the_log_file_is_rotated_and_written_on(running):
    running.configure(f"{CONFIG}[logging]\ndestination: {LOG}\n")
    for name in DAEMONS:
        running.daemon(name, "restart")
    before = log(running)
    assert "ready: 1 worker in 1 group" in before  # of the pool, and the dispatcher is ready before it
    running.shell("apt install logrotate; logrotate --force /etc/logrotate.d/python-taskqueue-common")
    assert running.shell(f"cat {LOG}.1").startswith(before)
    for name in DAEMONS:
        running.daemon(name, "reload")
    wait_until(lambda: log(running).count("reloaded") == len(DAEMONS), what=lambda: log(running))
    assert running.shell(f"stat -c '%U %G %a' {LOG}") == "taskqueue adm 640\n"


def test_a_plugin_that_goes_and_comes_back_is_noticed_by_the_pool(running):
    running.configure(f"{CONFIG}[logging]\ndestination: {LOG}\n")
    running.daemon("workerpool", "restart")
    assert running.processes("tq:digest")
    running.shell("apt remove python3-taskqueue-digest")
    wait_until(lambda: not running.processes("tq:digest"), what=lambda: log(running))
    running.daemon("workerpool", "status")
    running.shell("apt install ./dist/python3-taskqueue-digest_*.deb")
    assert digest_of_license(running) in running.submit()


def test_what_is_removed_can_be_installed_again_with_its_configuration(running):
    before = running.shell(OWNERS)
    assert before.splitlines() == [
        "root taskqueue 640 /etc/taskqueue/config.ini",
        "taskqueue adm 750 /var/log/taskqueue",
        "taskqueue-worker taskqueue-worker 755 /var/lib/taskqueue-worker",
        "taskqueue taskqueue-monitor 2750 /var/lib/taskqueue/monitor",
    ]
    for text in (OURS, SHIPPED):
        running.configure(text)
        running.shell("apt remove python-taskqueue-common")
        assert not running.processes("taskqueue")
        # dpkg leaves directories with something in them, and their owners with them
        running.shell("rm -rf /var/log/taskqueue /var/lib/taskqueue-worker /var/lib/taskqueue/monitor")
        running.shell("apt install ./dist/*.deb")
        assert running.shell(OWNERS) == before
        assert running.shell("cat /etc/taskqueue/config.ini") == text
    assert digest_of_license(running) in running.submit()


def test_a_configuration_that_dpkg_unpacks_again_has_its_group_again(running):
    running.shell("apt remove python-taskqueue-common; rm /etc/taskqueue/config.ini")
    running.shell("apt install -o Dpkg::Options::=--force-confmiss ./dist/*.deb")
    assert running.shell(OWNERS).startswith("root taskqueue 640 ")


def test_what_the_administrator_has_made_of_owners_and_modes_stays(running):
    running.shell("chown root:adm /etc/taskqueue/config.ini; chmod 0700 /var/log/taskqueue")
    before = running.shell(OWNERS)
    try:
        running.shell("apt install --reinstall ./dist/python-taskqueue-common_*.deb")
        assert running.shell(OWNERS) == before
        running.shell("dpkg-statoverride --update --add root root 0640 /etc/taskqueue/config.ini")
        running.shell("apt install --reinstall ./dist/python-taskqueue-common_*.deb")
        assert running.shell(OWNERS).startswith("root root 640 ")
    finally:
        running.shell(
            "dpkg-statoverride --quiet --remove /etc/taskqueue/config.ini || true; "
            "chown root:taskqueue /etc/taskqueue/config.ini; chmod 0750 /var/log/taskqueue"
        )


KEY = "/etc/taskqueue/control.key"
MONITOR = example("docs/monitor.md", "control_key: /etc/taskqueue/control.key")


def reads_key(host, process):
    """Tell whether the users and groups of a process may read the control key."""
    [pid] = host.processes(process)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    uid, gid = status["Uid"].split()[1], status["Gid"].split()[1]
    groups = ",".join(status["Groups"].split())
    switch = [f"--reuid={uid}", f"--regid={gid}", f"--groups={groups}" if groups else "--clear-groups"]
    return host.run("setpriv", *switch, "cat", KEY, status=None).returncode == 0


def test_the_monitor_commands_pools_with_a_key_that_its_web_process_cannot_read(running):
    owned = example("docs/operations.md", "chown taskqueue:root /etc/taskqueue/control.key")
    running.configure(f"{CONFIG}{MONITOR}[digest]\nworkers: 1\n")
    try:
        running.shell(example("docs/operations.md", "taskqueue control key"))
        made = running.shell(f"stat -c '%U %a' {KEY}")
        running.shell(f"install -o root -g taskqueue-monitor -m 0640 {KEY} copy; mv copy {KEY}")
        warning = f"{KEY} is the control key, and the monitor's web process can read it: taskqueue-monitor"
        assert warning in running.shell("taskqueue config")
        running.shell(owned)
        assert (made, running.shell(f"stat -c '%U %a' {KEY}")) == ("taskqueue 400\n", "taskqueue 400\n")
        assert warning not in running.shell("taskqueue config")
        for name in ("workerpool", "monitor"):
            running.daemon(name, "restart")
        assert (reads_key(running, "tq:recorder"), reads_key(running, "tq:web")) == (True, False)
        assert_commanded(running)
    finally:
        running.shell(f"rm -f {KEY}")


def assert_commanded(host):
    """Run the documented requests, and look on the host for what has become of them."""
    token = host.shell("taskqueue monitor token add deployer --role operator 2>/dev/null").strip()
    host.shell("apt install curl")
    env = f"TOKEN={token}; MONITOR=http://127.0.0.1:8672; "
    page = example("docs/monitor.md", 'curl -s -H "Authorization: Bearer $TOKEN" "$MONITOR/api/v1/pools"')
    wait_until(lambda: host.shell("taskqueue ps --format json || true").startswith("{"), 60)
    *_, scaled = (json.loads(host.shell(env + request)) for request in commands(page))
    assert scaled["complaints"] == []
    shown = json.loads(host.shell("taskqueue ps --format json"))
    assert shown["paused"]["digest"]["by"] == "deployer (monitor on machine)"
    groups = [each for each in shown["pools"][0]["groups"] if not each["ends"]]
    assert [(each["state"], len(each["workers"])) for each in groups] == [("is paused", 6)]
    host.shell("taskqueue resume digest")
    assert digest_of_license(host) in host.submit()


#: With nobody to answer a question; the later ones are upgrades of the former ones.
UPGRADES = {
    "9.8": "apt install ./newer/python-taskqueue-*.deb </dev/null",
    "9.9": "dpkg -i newer/python-taskqueue-*.deb <&-",
}


def test_upgrades_under_load_lose_nothing_and_keep_the_configuration(running):
    running.configure(OURS)
    load = running.load(rate=40)
    load.wait_for(20)
    for version, command in UPGRADES.items():
        newer(running, version)
        before = {name: running.main_process(name) for name in DAEMONS}
        running.shell(command)
        states = running.shell("dpkg-query -W -f '${db:Status-Abbrev} ${Version}\n' 'python-taskqueue-*'")
        assert states.splitlines() == [f"ii  {version}"] * 4
        assert all(running.main_process(name) != before[name] for name in DAEMONS)
        load.wait_for(load.arrived() + 20)
    load.finish(150)
    assert running.shell("cat /etc/taskqueue/config.ini") == OURS
    assert running.shell("stat -c '%U %G %a' /etc/taskqueue/config.ini") == "root taskqueue 640\n"


def newer(host, version):
    """Make packages of a later version on a machine."""
    host.shell(
        f"""
        rm -rf newer; mkdir newer
        for package in dist/python-taskqueue-*.deb; do
            rm -rf tree
            dpkg-deb -R $package tree
            sed -i 's/^Version: .*/Version: {version}/; s/(= [0-9.]*)/(= {version})/' tree/DEBIAN/control
            dpkg-deb -b -Zgzip -z1 tree newer/$(basename $package)
        done
        """
    )


def test_nothing_is_left_after_a_purge(running):  # the last one: the machine is of no use then
    assert digest_of_license(running) in running.submit()
    running.shell("apt purge $(dpkg-query -W -f '${Package} ' 'python-taskqueue-*')")
    assert not running.processes("taskqueue")
    assert not running.processes("tq:")
    # The broker's data stay: a stream's directory has its name.
    pruned = "".join(f"-path {path} -prune -o " for path in ("/root", "/proc", "/var/lib/rabbitmq"))
    found = running.shell(f"find / -xdev {pruned}-name '*taskqueue*' -print")
    assert found.split() == []

"""A pool that root starts gives up root: who the processes are is read back from inside and outside."""

import json
import os
import pwd
import shlex
import shutil
from pathlib import Path

import pytest
from stage import ROOT
from support.processes import children, tree
from support.site import AS_ROOT, consumers, install, workers
from support.waiting import wait_until

NOBODY = "nobody"  # a user that every Unix has, for a group of its own

as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become other users")


def ids(pid):
    """Return the real, effective, saved and file system user ids of a process, and those of its group."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return [int(uid) for uid in fields["Uid"]], [int(gid) for gid in fields["Gid"]], fields["Groups"]


def assert_is(pid, name):
    user = pwd.getpwnam(name)
    groups = [str(gid) for gid in os.getgrouplist(name, user.pw_gid)]
    assert ids(pid) == ([user.pw_uid] * 4, [user.pw_gid] * 4, groups)


@as_root
def test_a_worker_is_its_groups_user_and_can_be_nobody_else(site, work):
    site.pool(
        f"[whoami]\nworkers: one, two\n[whoami_one]\nworkers: 1\n[whoami_two]\nworkers: 1\nuser: {NOBODY}"
    )
    seen = {}
    for _ in range(50):  # whichever of the two takes it
        answer = work.ask("whoami")
        seen[answer["uids"][0]] = answer
        if len(seen) == 2:
            break
    for name in ("taskqueue-worker", NOBODY):
        user = pwd.getpwnam(name)
        answer = seen[user.pw_uid]
        assert answer["uids"] == [user.pw_uid] * 3
        assert answer["gids"] == [user.pw_gid] * 3
        assert sorted(answer["groups"]) == sorted(os.getgrouplist(name, user.pw_gid))
        assert answer["environment"]["HOME"] == user.pw_dir
        assert answer["environment"]["USER"] == name
        assert_is(answer["pid"], name)


@as_root
def test_supervisor_consumer_worker_and_dispatcher_are_who_they_should_be(site):
    pool = site.pool("[good]\nworkers: 2")
    dispatcher = site.dispatcher()
    assert ids(pool.pid)[0] == [0] * 4
    for consumer in consumers(pool):
        assert_is(consumer, "taskqueue")
    assert len(workers(pool)) == 2
    for worker in workers(pool):
        assert_is(worker, "taskqueue-worker")
    assert ids(dispatcher.pid)[0] == [0] * 4
    # The scheduler and the keeper start after the dispatcher is ready, and are root at first.
    wait_until(lambda: [ids(child)[0] == [0] * 4 for child in children(dispatcher.pid)] == [False] * 3)
    for child in children(dispatcher.pid):
        assert_is(child, "taskqueue")


@as_root
def test_a_replacement_is_its_groups_user_too(site, work):
    pool = site.pool(f"[whoami]\nworkers: 1\nuser: {NOBODY}")
    (first,) = workers(pool)
    os.kill(first, 9)
    wait_until(lambda: workers(pool) and first not in workers(pool))
    assert work.ask("whoami")["uids"] == [pwd.getpwnam(NOBODY).pw_uid] * 3


def test_a_worker_has_nothing_but_what_it_needs(site, work):
    pool = site.pool("[whoami]\nworkers: 2\ncolour: red")
    dispatcher = site.dispatcher()
    answer = work.ask("whoami")
    assert answer["directory"] == "/"
    descriptors = answer["descriptors"]
    assert descriptors.pop("0") == "/dev/null"
    assert descriptors.pop("1").startswith("pipe:")
    assert descriptors.pop("2").startswith("pipe:")
    # Its directory, and its consumer: frames, and credit.
    assert sorted(descriptors.values()) == ["/", "socket AF_UNIX", "socket AF_UNIX"]
    assert answer["settings"]["colour"] == "red"
    assert answer["blocked"] == []  # no signal is withheld from it or from what it starts
    assert not any("NOTIFY_SOCKET" in name or "AMQP" in name for name in answer["environment"])
    assert pool.stop() == dispatcher.stop() == 0


@pytest.mark.parametrize("user", ["root", "taskqueue", "no-such-user"])
@as_root
def test_a_user_that_workers_must_not_be_is_a_fault(site, user):
    site.configure(f"[good]\nworkers: 1\nuser: {user}")
    done = site.run("workerpool", "-f", "-c", str(site.config))
    assert done.returncode == 78
    assert "section [good], option user: expected" in done.stderr


def test_a_user_in_a_pool_that_is_not_roots_is_a_fault(site):
    site.configure("[good]\nworkers: 1\nuser: daemon")  # another one than whoever runs the tests
    site.config.chmod(0o644)
    unprivileged = ["setpriv", "--reuid=taskqueue-worker", "--regid=taskqueue-worker", "--clear-groups"]
    done = site.run("workerpool", "-f", "-c", str(site.config), prefix=unprivileged if AS_ROOT else [])
    assert done.returncode == 78
    assert "section [good], option user: expected" in done.stderr


@as_root
def test_a_file_that_the_daemons_could_not_read_is_warned_of(site):
    site.configure("[good]\nworkers: 1")
    password = site.directory / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    site.config.write_text(f"[amqp]\nhost: localhost\npasswd_file: {password}\n")
    command = ("config", "-c", str(site.config))
    done = site.run(*command)
    assert done.returncode == 0
    [warning] = done.stderr.splitlines()
    assert warning.startswith("warning: the daemons run as user 'taskqueue': ")
    assert f"'{password}': Permission denied; to mend it: chgrp taskqueue and chmod g+r" in warning
    shutil.chown(password, group="taskqueue")
    password.chmod(0o640)
    assert site.run(*command).stderr == ""
    site.config.chmod(0o600)
    fault = f"{site.config}: expected a readable file, found Permission denied"
    mend = "to mend it: chgrp taskqueue and chmod g+r that file, chmod o+x its folders"
    [warning] = site.run(*command).stderr.splitlines()
    assert warning == f"warning: the daemons run as user 'taskqueue': {fault}; {mend}"


@as_root
@pytest.mark.parametrize(
    ("mode", "advice"), [(0o640, "join its group, taskqueue,"), (0o600, "ask for the right to read it,")]
)
def test_a_user_who_may_not_read_the_configuration_is_told_in_one_line_what_to_do(site, mode, advice):
    site.configure("[good]\nworkers: 1")
    site.config.chmod(mode)
    user = ["setpriv", f"--reuid={NOBODY}", "--regid=nogroup"]
    submit = ("submit", "-c", str(site.config), "good", "{}")
    done = site.run(*submit, prefix=[*user, "--clear-groups"])
    fault = f"{site.config}: expected a readable file, found Permission denied"
    ways = f"{advice} or name the broker by --amqp or TASKQUEUE_AMQP"
    assert (done.returncode, done.stderr) == (78, f"taskqueue: {fault}; {ways}\n")
    # Each of the ways leads there.
    assert site.run(*submit, "--amqp", site.url, prefix=[*user, "--clear-groups"]).returncode == 0
    assert site.run(*submit, prefix=[*user, "--clear-groups"], TASKQUEUE_AMQP=site.url).returncode == 0
    joined = site.run(*submit, prefix=[*user, "--groups=taskqueue"])
    assert joined.returncode == (0 if mode == 0o640 else 78)


@as_root
@pytest.mark.parametrize("secret", ["config.ini", "passwd_file", "key_file"])
@pytest.mark.parametrize("way", ["mode", "group"])
def test_a_secret_that_users_of_workers_can_read_is_warned_of_in_one_line(site, secret, way):
    groups = f"[good]\nworkers: 1\nuser: {NOBODY}\n[better]\nworkers: 1\n[slow]\nworkers: 0\nuser: games"
    if secret == "config.ini":
        site.configure(groups)
        path = site.config
    else:
        path = site.directory / "secret"
        path.write_text("k1ngf1sher\n")
        option = "passwd_file" if secret == "passwd_file" else "ssl: yes\ncert_file: /etc/hostname\nkey_file"
        site.configure(f"[amqp]\nhost: localhost\n{option}: {path}\n{groups}", url="")
    shutil.chown(path, "root", "taskqueue")
    path.chmod(0o640)
    assert "holds a secret" not in site.run("config", "-c", str(site.config)).stderr
    if way == "mode":
        path.chmod(0o644)
        readers = f"{NOBODY}, taskqueue-worker"
    else:
        shutil.chown(path, group=pwd.getpwnam(NOBODY).pw_gid)
        readers = NOBODY
    said = [
        line
        for line in site.run("config", "-c", str(site.config)).stderr.splitlines()
        if "taskqueue'" not in line
    ]
    if (secret, way) == ("config.ini", "mode"):
        assert said == [
            "warning: section [amqp]: every user of this machine can read the password (mode o+r)"
        ]
        return
    warning = (
        f"{path} holds a secret for the broker, and workers of these users can read it: {readers}; "
        "to mend it: chown root:taskqueue and chmod 640 that file, "
        "and take the users out of the group taskqueue"
    )
    assert said == [f"warning: {warning}"]
    if way == "mode" and secret == "passwd_file":  # the consumers can read it, too
        pool = site.start("workerpool", "-f", "-c", str(site.config))
        pool.wait_for(f"WARNING workerpool: {warning}")
        assert pool.output().count("holds a secret") == 1


@as_root
def test_a_plugin_that_is_tried_sees_nothing_of_roots_environment(site):
    (site.plugins / "nosy.py").write_text(
        "import os\nraise RuntimeError(os.environ.get('SECRET', 'nothing') + os.environ['HOME'])\n"
    )
    install(site.plugins, "nosy", {"nosy": "nosy:x"})
    done = site.run("plugins", "--format", "json", SECRET="k1ngf1sher")
    [nosy] = [each for each in json.loads(done.stdout) if each["name"] == "nosy"]
    assert nosy["error"].endswith(f": nothing{pwd.getpwnam('taskqueue-worker').pw_dir}")


@as_root
def test_an_ordinary_users_daemons_are_that_users(site, work, daemon):
    site.configure("[whoami]\nworkers: 1")
    site.config.chmod(0o644)
    unprivileged = ["setpriv", f"--reuid={NOBODY}", "--regid=nogroup", "--clear-groups"]
    everything = daemon(
        [*unprivileged, *site.command("up", "-c", str(site.config))], env={"PYTHONPATH": str(site.plugins)}
    )
    everything.wait_for("ready: dispatcher runs, workerpool runs")
    work.dispatch("whoami")
    assert work.result().value["uids"] == [pwd.getpwnam(NOBODY).pw_uid] * 3
    assert {ids(pid)[0][0] for pid in tree(everything.pid)} == {pwd.getpwnam(NOBODY).pw_uid}
    assert everything.stop() == 0
    everything.assert_nothing_left()


def test_a_worker_cannot_reach_the_terminal_that_its_pool_was_started_in(site, work, daemon):
    site.configure("[escaping]\nworkers: 1")
    command = shlex.join(site.command("workerpool", "-f", "-c", str(site.config)))
    # script(1) makes a terminal and runs the command in it.
    terminal = daemon(["script", "-qec", command, "/dev/null"], env={"PYTHONPATH": str(site.plugins)})
    terminal.wait_for("ready:")
    assert work.ask("escaping") == []


@as_root
def test_a_password_file_that_the_consumers_cannot_reach_is_one_line_and_the_end(site):
    secluded = site.directory / "secluded"
    secluded.mkdir(mode=0o700)
    (secluded / "password").write_text("secret\n")
    site.configure(f"[amqp]\nhost: localhost\npasswd_file: {secluded}/password\n[good]\nworkers: 1", url="")
    pool = site.start("workerpool", "-f", "-c", str(site.config))
    assert pool.wait() == 78
    assert pool.output().count(f"found '{secluded}/password': Permission denied") == 1
    assert "Traceback" not in pool.output()


@as_root
def test_a_pool_whose_users_cannot_read_its_code_says_so_and_ends(site):
    secluded = site.directory / "secluded"
    secluded.mkdir(mode=0o700)
    shutil.copytree(ROOT / "taskqueue", secluded / "taskqueue")
    site.configure("[good]\nworkers: 1")
    pool = site.start("workerpool", "-f", "-c", str(site.config), PYTHONPATH=f"{secluded}:{site.plugins}")
    assert pool.wait() == 71
    assert "user 'taskqueue' cannot read" in pool.output()
    assert "install taskqueue where all users can" in pool.output()
    assert "Traceback" not in pool.output()

"""The walls around daemons that root has started, against other users of the machine and those of workers."""

import json
import pwd
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.processes import tree
from support.site import AS_ROOT, consumers, workers

pytestmark = pytest.mark.skipif(
    not AS_ROOT, reason="only root's daemons are other users than those around them"
)

#: Tries what a user may try against processes that are named, and prints what worked.
ATTACK = """
import ctypes, json, os, signal, sys
worked = []
def attempt(name, way):
    try:
        if way() is not False:
            worked.append(name)
    except OSError:
        pass
def attach(pid):
    if ctypes.CDLL(None, use_errno=True).ptrace(16, pid, 0, 0) != 0:  # PTRACE_ATTACH
        return False
for pid in map(int, sys.argv[1:]):
    for name in ("environ", "maps", "mem", "auxv", "stack"):
        attempt(f"{pid} {name}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    attempt(f"{pid} fd", lambda: os.listdir(f"/proc/{pid}/fd"))
    attempt(f"{pid} cwd", lambda: os.readlink(f"/proc/{pid}/cwd"))
    attempt(f"{pid} ptrace", lambda: attach(pid))
    attempt(f"{pid} pidfd", lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGCONT))
    attempt(f"{pid} kill", lambda: os.kill(pid, signal.SIGCONT))
    attempt(f"{pid} nice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt(f"{pid} prlimit", lambda: __import__("resource").prlimit(pid, 7, (0, 0)))
print(json.dumps(worked))
"""


def attack(user, pids):
    """Return what worked for a user."""
    group = pwd.getpwnam(user).pw_gid
    command = ["setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups", "--inh-caps=-all"]
    code = ["/usr/bin/python3", "-c", ATTACK, *map(str, pids)]
    done = subprocess.run([*command, *code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("user", ["nobody", "taskqueue-worker", "games"])
def test_a_user_gets_at_nothing_of_daemons_consumers_and_workers_of_others(site, work, user):
    pool = site.pool("[good]\nworkers: 1\n[whoami]\nworkers: 1\nuser: games")
    dispatcher = site.dispatcher()
    work.ask("good")
    theirs = {"taskqueue-worker": "tq:good/1", "games": "tq:whoami/1"}.get(user)
    pids = [
        pid
        for pid in (*tree(pool.pid), *tree(dispatcher.pid))
        if Path(f"/proc/{pid}/comm").read_text().strip() != theirs
    ]
    assert set(pids) >= {pool.pid, dispatcher.pid, *consumers(pool)}
    assert attack(user, pids) == []


def test_the_attack_would_succeed_against_a_process_of_ones_own():
    with subprocess.Popen(
        ["setpriv", "--reuid=games", "--regid=games", "--clear-groups", "sleep", "60"]
    ) as own:
        worked = {words.partition(" ")[2] for words in attack("games", [own.pid])}
        own.kill()
    assert worked >= {"environ", "fd", "kill", "nice"}


def test_no_socket_of_the_daemons_has_a_name_that_others_could_speak_to(site, work):
    pool, dispatcher = site.pool("[good]\nworkers: 1"), site.dispatcher()
    work.ask("good")
    held = {
        path.readlink().name
        for pid in (*tree(pool.pid), *tree(dispatcher.pid))
        for path in Path(f"/proc/{pid}/fd").iterdir()
        if path.exists() or path.is_symlink()
    }
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    assert [row[7] for row in rows if f"socket:[{row[6]}]" in held and len(row) > 7] == []
    assert sum(f"socket:[{row[6]}]" in held for row in rows) >= 6


def test_a_worker_cannot_read_the_configuration_nor_a_consumers_files(site, work):
    pool = site.pool("[whoami]\nworkers: 1")
    password = urlsplit(site.url).password
    assert password in site.config.read_text()
    [worker], [consumer] = workers(pool), consumers(pool)
    user = ["setpriv", "--reuid=taskqueue-worker", "--regid=taskqueue-worker", "--init-groups"]
    for path in (site.config, f"/proc/{consumer}/environ", f"/proc/{pool.pid}/fd/0", f"/proc/{worker}/mem"):
        assert subprocess.run([*user, "head", "-c1", path], capture_output=True, check=False).returncode != 0

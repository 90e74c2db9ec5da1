"""Workers that see less of the machine: temporary directories and network of their own, read-only files."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.machine import namespaces_refused
from support.site import AS_ROOT, workers

PROJECT = Path(__file__).parents[2]
TEMPORARY = ["/tmp", "/var/tmp", "/dev/shm"]

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="only root can make namespaces for its workers")

#: Words that start a command as root with fewer capabilities.
WITHOUT_ADMIN = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"]
WITHOUT_NAMESPACES = ["setpriv", "--bounding-set=-sys_admin,-setfcap", "--inh-caps=-all"]

#: Isolates itself, becomes a user, and prints what there is then. Arguments: user, options, a directory.
INSIDE = """
import json, os, socket, subprocess, sys
from taskqueue.process.namespaces import Isolation
from taskqueue.process.privileges import become
Isolation(**json.loads(sys.argv[2])).impose()
become(sys.argv[1])
def writes(path):
    try:
        with open(path, "w") as file:
            file.write("x")
        return True
    except OSError:
        return False
with open("/proc/self/status") as status:
    bounding = next(line.split()[1] for line in status if line.startswith("CapBnd"))
print(json.dumps({
    "tmp": [os.listdir(each) for each in ("/tmp", "/var/tmp", "/dev/shm")],
    "network": os.readlink("/proc/self/ns/net"),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "local": socket.create_server(("127.0.0.1", 0)) is not None,
    "written": [path for path in ("/tmp/tq", sys.argv[3] + "/tq") if writes(path)],
    "proc": subprocess.run(["sh", "-c", "echo 35 >/proc/self/coredump_filter"]).returncode == 0,
    "owner": os.stat("/etc/passwd").st_uid,
    "bounding": bounding,
}))
"""


@pytest.fixture
def namespaces():
    if refused := namespaces_refused():
        pytest.skip(f"this machine allows no namespaces: {refused}")


@pytest.fixture
def outside():
    """The name of a file of somebody else's in each temporary directory of the machine."""
    files = [Path(tempfile.mkstemp(prefix="tq-outside-", dir=each)[1]) for each in TEMPORARY]
    yield {each.name for each in files}
    for each in files:
        each.unlink()


@pytest.fixture
def pool_of(site, daemon):
    """A pool with some sections, started by some words."""

    def start(prefix, sections):
        site.configure(sections)
        command = [*prefix, *site.command("workerpool", "-f", "-c", str(site.config))]
        return daemon(command, env={"PYTHONPATH": str(site.plugins)})

    return start


def inside(prefix, directory, **options):
    """Return what there is for user nobody inside, and the capabilities that programs may get outside."""
    code = [sys.executable, "-c", INSIDE, "nobody", json.dumps(options), str(directory)]
    path = {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [*prefix, *code], env=os.environ | path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    status = subprocess.check_output([*prefix, "cat", "/proc/self/status"], text=True)
    return json.loads(done.stdout), status.partition("CapBnd:\t")[2].split()[0]


@pytest.mark.parametrize("prefix", [[], WITHOUT_ADMIN], ids=["root", "without CAP_SYS_ADMIN"])
def test_each_option_isolates_by_itself(namespaces, outside, site_directory, prefix):
    site_directory.chmod(0o1777)
    file = f"{site_directory}/tq"
    seen, bounding = inside(prefix, site_directory, private_tmp=True)
    assert seen["tmp"] == [[], [], []]
    assert seen["network"] == str(Path("/proc/self/ns/net").readlink())
    assert seen["written"] == ["/tmp/tq", file]
    # To programs that look at owners, files belong to whom they belong outside; setuid programs get no more.
    assert (seen["owner"], seen["bounding"]) == (0, bounding)
    seen, _ = inside(prefix, site_directory, read_only=True)
    assert (seen["written"], seen["proc"]) == ([], True)
    seen, _ = inside(prefix, site_directory, read_only=True, private_tmp=True)
    assert seen["written"] == ["/tmp/tq"]
    seen, _ = inside(prefix, site_directory, no_network=True)
    assert (seen["interfaces"], seen["local"]) == (["lo"], True)
    assert seen["network"] != str(Path("/proc/self/ns/net").readlink())
    assert outside <= {name for names in seen["tmp"] for name in names}


def test_a_worker_cannot_undo_its_isolation_and_its_neighbours_have_none(
    namespaces, outside, site, work, pool_of
):
    options = "private_tmp: yes\nno_network: yes\nread_only: yes\nuser: games"
    pool = pool_of(WITHOUT_ADMIN, f"[confined]\nworkers: 1\n{options}\n[whoami]\nworkers: 1")
    mine = [f"{each}/tq-{site.directory.name}" for each in TEMPORARY]
    seen = work.ask("confined", {"paths": [*mine, f"{site.open}/written"], "temporary": TEMPORARY})
    assert seen == {
        "written": mine,
        "temporary": {each: [f"tq-{site.directory.name}"] for each in TEMPORARY},
        "interfaces": ["lo"],
        "undone": [],
        "devices": True,
    }
    assert not any(Path(path).exists() for path in mine)
    pid = work.ask("whoami")["pid"]
    assert len(workers(pool)) == 2
    for kind in ("mnt", "net", "user"):
        theirs = Path(f"/proc/{pid}/ns/{kind}").readlink()
        assert theirs == Path(f"/proc/{pool.pid}/ns/{kind}").readlink()


def test_a_worker_that_cannot_be_isolated_does_not_run(work, pool_of):
    options = "read_only: yes\nno_network: yes"
    pool = pool_of(WITHOUT_NAMESPACES, f"[good]\nworkers: 1\n{options}\n[whoami]\nworkers: 1")
    pool.wait_for(
        "cannot start: the system does not allow no_network, read_only (uid_map: Operation not permitted); "
        "remove these options, or let the pool create namespaces (docs/operations.md, Isolation) [group=good"
    )
    pool.wait_for("ended: it cannot become its user or be isolated (exit status 71); the next one starts in")
    assert work.ask("whoami")["uids"]

"""debian/init.in on this machine; tests/debian uses the installed scripts."""

import subprocess

import pytest
from stage import ROOT
from support.site import AS_ROOT
from support.waiting import wait_until

LEADS = "scheduler: leads 0 schedules, keeper: stands by"


@pytest.fixture
def script(site):
    """A function that gives the dispatcher's init script an action, and returns how that ended.

    Program, configuration and pid file are the site's, the rest is as it is shipped.
    """
    site.configure("")
    program = site.directory / "taskqueue"  # the name that the script looks for among the processes
    program.write_text(f"#!{site.python} -P\nfrom taskqueue.cli import main\nmain()\n")
    program.chmod(0o755)
    own = {
        "PROGRAM=/usr/bin/taskqueue": f"PROGRAM={program}",
        "CONFIG=/etc/taskqueue/config.ini": f"CONFIG={site.config}",
        "PIDFILE=/run/taskqueue/@DAEMON@.pid": f"PIDFILE={site.directory}/run/@DAEMON@.pid",
    }
    text = (ROOT / "debian/init.in").read_text()
    for shipped, ours in own.items():
        assert text.count(shipped) == 1
        text = text.replace(shipped, ours)
    path = site.directory / "init"
    path.write_text(text.replace("@DAEMON@", "dispatcher"))

    def act(action):
        return subprocess.run(["sh", path, action], capture_output=True, text=True, timeout=60, check=False)

    yield act
    act("stop")


@pytest.mark.skipif(not AS_ROOT, reason="only root starts a daemon by its init script")
def test_the_status_of_a_daemon_is_followed_by_what_it_does(script):
    name = "python-taskqueue-dispatcher"
    assert script("status").returncode == 3
    started = script("start")
    assert started.returncode == 0, started
    wait_until(lambda: f"takes work, {LEADS}" in script("status").stdout)
    status = script("status")
    assert (status.returncode, status.stdout) == (
        0,
        f"{name} is running: dispatcher 1: takes work, {LEADS}.\n",
    )
    assert script("stop").returncode == 0
    assert script("status").returncode == 3

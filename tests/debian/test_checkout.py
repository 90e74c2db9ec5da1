"""Commands that `make test-trixie` runs in the checkout, on a machine with Debian 13."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stage import ROOT
from support.debian import CACHE
from support.processes import command, pids

MARK = "62791 seconds"
#: It says where it is, leaves a process and a mount behind, and fails.
SCRIPT = f"""
git ls-files Makefile
cat /etc/debian_version
.venv/bin/taskqueue --help >/dev/null
setsid perl -e 'sleep 62791; # {MARK}' &
mount -t tmpfs tmpfs /mnt
exit 3
"""


def run():
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "scripts")])
    program = [sys.executable, ROOT / "scripts/debian13.py", SCRIPT]
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(CACHE.parent)}
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)


def trees():
    return set(Path("/var/tmp").glob("tq-debian13-*"))


@pytest.mark.timeout(1200)  # seconds; the first run of a week makes the base
def test_a_command_runs_in_the_checkout_and_its_status_is_passed_on_and_nothing_is_left(namespaces):
    before, mounts = trees(), Path("/proc/mounts").read_text()
    ran = run()
    assert ran.returncode == 3, ran.stderr
    assert "Makefile\n13." in ran.stdout
    assert trees() <= before
    assert Path("/proc/mounts").read_text() == mounts
    assert [pid for pid in pids() if MARK in command(pid)] == []

"""The packages agree with the rest of the project."""

import hashlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from taskqueue import config

PROJECT = Path(__file__).parents[2]

#: Debian's names for what pip calls otherwise.
RENAMED = {"python-daemon": "python3-daemon"}


def project(folder):
    return tomllib.loads((PROJECT / folder / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("folder", [".", "examples/digest"])
def test_the_changelog_ends_at_the_version_of_the_project(folder):
    newest = (PROJECT / folder / "debian/changelog").read_text().splitlines()[0]
    assert f"({project(folder)['version']})" in newest


def test_the_common_package_depends_on_all_that_the_project_depends_on():
    names = {re.match("[a-z-]+", each)[0] for each in project(".")["dependencies"]}
    control = (PROJECT / "debian/control").read_text()
    depends = control.partition("Package: python-taskqueue-common\n")[2].partition("Depends:")[2]
    depends = depends.partition("Suggests:")[0]
    assert {RENAMED.get(name, f"python3-{name}") for name in names} <= set(re.split(r"[\s,]+", depends))


def test_the_shipped_configuration_is_short_and_has_no_faults():
    path = PROJECT / "etc/taskqueue/config.ini"
    assert config.load(str(path), (), as_root=False).amqp.hosts == (("localhost", 5672),)
    assert len(path.read_text().splitlines()) <= 40


def test_each_example_of_the_shipped_configuration_is_valid(tmp_path):
    lines = (PROJECT / "etc/taskqueue/config.ini").read_text().splitlines()
    wanted = tmp_path / "config.ini"
    wanted.write_text("\n".join(line[1:] if re.match(r";[\[\w]", line) else line for line in lines))
    settings = config.load(str(wanted), ("digest",), as_root=False)
    assert (settings.amqp.user, settings.amqp.password) == ("taskqueue", "secret")
    group, command = settings.groups
    assert (command.worker_type, command.command) == ("upper", ("/usr/bin/tr", "a-z", "A-Z"))
    assert (group.lanes, group.weights) == (16, (("acme", 3), ("example", 1)))
    assert [(each.name, each.worker_type) for each in settings.schedules] == [("nightly", "digest")]
    assert [(each.name, each.concurrency, each.rate) for each in settings.limits] == [
        ("shopify-api", 5, "40 per 1s")
    ]


def test_the_shipped_configuration_is_the_same_in_each_version():
    """Where it changed, and the administrator's did too, an upgrade asks, and stops if nobody can answer.

    dpkg leaves the packages half installed then (iU). New options have a default and a line in
    configspec.ini, and the shipped file needs no change.
    """
    shipped = (PROJECT / "etc/taskqueue/config.ini").read_bytes()
    assert hashlib.sha256(shipped).hexdigest() == (
        "b88a7be2ae2947facdb6ea63a8cf1598137c52dbf7c9f4f9dc27ac54e30e02e2"
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_the_units_are_restricted_as_far_as_systemd_can_tell():
    most = {"dispatcher": 20, "workerpool": 40, "monitor": 30}  # tenths of an exposure level
    for name, threshold in most.items():
        unit = PROJECT / f"debian/python-taskqueue-{name}.service"
        command = ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", unit]
        done = subprocess.run([*command, "--no-pager"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_no_line_of_a_page_is_so_long_that_lintian_takes_the_file_for_generated():
    pages = PROJECT / "taskqueue/monitor/web"
    lines = [(each.name, line) for each in pages.rglob("*.html") for line in each.read_text().splitlines()]
    assert lines
    assert not [(name, line) for name, line in lines if len(line) > 500]  # lintian: 512

"""What the packages say about the project that is said elsewhere, too."""

import hashlib
import re
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
    assert len(path.read_text().splitlines()) <= 15


def test_the_shipped_configuration_is_the_same_in_each_version():
    """Where it changed, and the administrator's did too, an upgrade asks, and stops if nobody can answer.

    dpkg leaves the packages half installed then (iU). New options have a default and a line in
    configspec.ini, and the shipped file needs no change.
    """
    shipped = (PROJECT / "etc/taskqueue/config.ini").read_bytes()
    assert hashlib.sha256(shipped).hexdigest() == (
        "256fd960b3c3a4491d1b3c56ce30c2d23d23d87f1324e9cade4b4b3a6f420b8c"
    )

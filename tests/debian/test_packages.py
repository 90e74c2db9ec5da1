"""The packages: exactly these, of which lintian has nothing to say."""

import re

import pytest
from stage import ROOT
from support.debian import online
from support.documentation import example
from support.packages import DAEMONS, readme_commands

pytestmark = pytest.mark.timeout(900)  # seconds: machines are made

PACKAGES = {f"python-taskqueue-{name}" for name in ("common", "dispatcher", "workerpool", "monitor")}
SOURCES = {"taskqueue": PACKAGES, "taskqueue/examples/digest": {"python3-taskqueue-digest"}}


@pytest.fixture
def builder(checkout_of, release):
    """The tree in which the packages were built, with lintian."""
    with online(checkout_of(release).parents[1]) as chroot:
        chroot.shell("apt-get install fakeroot lintian")
        yield chroot


#: A Python of the user's own that can do nothing, first on PATH.
OTHER_PYTHON = """
mkdir -p /opt/own/bin
for name in python3 python3.11 python3.13; do
    printf '#!/bin/sh\\necho "not this one" >&2\\nexit 9\\n' >/opt/own/bin/$name
    chmod 755 /opt/own/bin/$name
done
export PATH=/opt/own/bin:$PATH PYTHONHOME=/nowhere
"""


@pytest.mark.parametrize("source", SOURCES)
def test_a_clean_checkout_builds_twice_and_lintian_is_content(builder, source):
    for _ in range(2):
        # Exactly so, on a machine that has no key to sign with.
        build = f"cd {source}; rm -f ../*.deb ../*.changes; dpkg-buildpackage -rfakeroot"
        builder.shell(f"{OTHER_PYTHON}{build}")
        listed = builder.shell(f"cd {source}/..; for each in *.deb; do dpkg-deb -f $each Package; done")
        assert set(listed.split()) == SOURCES[source]
    # The changelog says UNRELEASED, which keeps the build from signing.
    lintian = "lintian --fail-on error,warning --info --suppress-tags unreleased-changes"
    said = builder.shell(f"cd {source}/..; {lintian} *.changes")
    assert "E:" not in said
    assert "W:" not in said


def test_the_commands_of_the_readme_leave_all_packages_in_one_place(builder):
    listed = builder.shell("cd taskqueue/dist; for each in *.deb; do dpkg-deb -f $each Package; done")
    assert len(readme_commands()) == 2
    assert set(listed.split()) == set.union(*SOURCES.values())


def test_they_are_built_without_git_and_with_nothing_of_what_is_made_in_a_checkout(builder):
    builder.shell(
        f"{OTHER_PYTHON}cd taskqueue; mkdir .git .venv; touch .venv/junk; rm -rf dist; make deb; rmdir .git"
    )
    listed = builder.shell("cd taskqueue/dist; for each in *.deb; do dpkg-deb -f $each Package; done")
    assert set(listed.split()) == set.union(*SOURCES.values())
    builder.shell("cd taskqueue; dpkg-buildpackage -rfakeroot; rm -r .venv")
    packed = builder.shell("tar -tf taskqueue_*.tar.*")
    assert "/debian/rules" in packed
    assert "junk" not in packed


@pytest.mark.parametrize("name", DAEMONS)
def test_the_units_are_right_in_the_eyes_of_systemd(builder, name):
    builder.shell("apt-get install systemd; apt-get install ./taskqueue/dist/python-taskqueue-*.deb")
    said = builder.shell(
        f"systemd-analyze verify --man=no $(dpkg -L python-taskqueue-{name} | grep '[.]service$')"
    )
    assert said == ""


def test_a_plugin_is_installed_by_pip_beside_the_packages_only_as_the_documentation_says(builder):
    plugin = builder.tree / "root/wordcount"
    plugin.mkdir()
    (plugin / "wordcount.py").write_text(example("README.md", "from taskqueue.worker import BaseWorker"))
    (plugin / "pyproject.toml").write_text(example("README.md", 'name = "wordcount"'))
    builder.shell("apt-get install python3-pip python3-setuptools python3-wheel ./taskqueue/dist/*.deb")
    said = builder.run("pip", "install", "/root/wordcount", status=1).stdout
    assert "externally-managed-environment" in said
    (command,) = re.findall(r"`(pip install --break[^`]+)`", (ROOT / "docs/plugins.md").read_text())
    # Built by Debian's setuptools: there may be no index within reach.
    builder.shell(f"PIP_NO_BUILD_ISOLATION=0 {command.replace('/path/to', '/root')}")
    assert "wordcount" in builder.shell("taskqueue plugins")
    assert builder.shell("find /usr/local -name 'wordcount*'")

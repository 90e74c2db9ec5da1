"""Fixtures of the tests of packages: packages that are built, and machines that they are installed on."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from support import machine as machines
from support.debian import RELEASES
from support.packages import Host, build, fetched, readme_commands


@pytest.fixture(scope="session", autouse=True)
def _able() -> None:
    """Skip where no machine can be made; fail there if CI is set."""
    refuse = pytest.fail if os.environ.get("CI") else pytest.skip
    if os.geteuid() != 0:
        refuse("root is needed to make machines")
    if shutil.which("debootstrap", path="/usr/sbin:/usr/bin") is None:
        refuse("debootstrap is not installed")


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """A place for trees; removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="tq-trees-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """A Debian release, by its code name."""
    return request.param


@pytest.fixture(scope="session")
def checkout_of(directory: Path) -> Callable[[str], Path]:
    """Return the checkout, in a tree of its own, in which the packages were built: checkout_of(release)."""

    @cache
    def checkout_of(release: str) -> Path:
        place = directory / f"built-{release}"
        place.mkdir()
        return build(release, place)

    return checkout_of


@pytest.fixture(scope="session")
def fetched_for(directory: Path, checkout_of: Callable[[str], Path]) -> Callable[..., Path]:
    """Return a base system with all at hand that installing takes: fetched_for(release, extra=...)."""

    @cache
    def fetched_for(release: str, extra: str = "") -> Path:
        place = directory / f"fetched-{release}{'-more' if extra else ''}"
        place.mkdir()
        return fetched(release, checkout_of(release) / "dist", place, extra=extra)

    return fetched_for


@pytest.fixture(scope="session")
def installed_on(directory: Path, fetched_for: Callable[..., Path]) -> Callable[[str], tuple[Path, str]]:
    """Return a tree after README.md's commands, and what the last of them said: installed_on(release)."""

    @cache
    def installed_on(release: str) -> tuple[Path, str]:
        host = Host(fetched_for(release), "installer")
        try:
            host.start()
            said = host.shell(readme_commands()[1])
            for name in ("dispatcher", "workerpool"):
                host.daemon(name, "stop")
            host.broker("stop")
            host.cut_power()
            return host.tree.rename(directory / f"installed-{release}"), said
        finally:
            host.remove()

    return installed_on


@pytest.fixture(scope="session")
def make_host() -> Callable[[Path, str], contextlib.AbstractContextManager[Host]]:
    """Return a context manager: make_host(tree, name) makes a machine, which is removed at the end."""

    @contextlib.contextmanager
    def make_host(tree: Path, name: str) -> Iterator[Host]:
        host = Host(tree, name)
        try:
            yield host
        finally:
            host.remove()

    return make_host


@pytest.fixture
def host_of(
    make_host: Callable[[Path, str], contextlib.AbstractContextManager[Host]],
) -> Iterator[Callable[[Path, str], Host]]:
    """Make a machine: host_of(tree, name); it is removed after the test."""
    with contextlib.ExitStack() as made:
        yield lambda tree, name: made.enter_context(make_host(tree, name))


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip where the machine refuses namespaces, saying so."""
    if words := machines.namespaces_refused():
        pytest.skip(f"this machine refuses namespaces: {words}")

"""Daemons on the real broker: one virtual host for a module, or one for a test that disturbs others."""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support import remote, samples
from support.ground import Ground
from support.node import Node
from support.site import python

from taskqueue import AsyncClient, Client

__all__ = ["python"]


@pytest.fixture(scope="session")
def readable() -> Iterator[Path]:
    """A directory that the users whom the daemons become can enter."""
    path = Path(tempfile.mkdtemp(prefix="tq-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def new_ground(
    session_broker: Node, readable: Path, python: Path
) -> Callable[[], AbstractContextManager[Ground]]:
    """Make a ground with a virtual host of its own, where the sample plugins are installed."""
    environment = {"PYTHONPATH": str(samples.install(open_directory(readable / "samples")))}

    @contextmanager
    def new_ground() -> Iterator[Ground]:
        name = f"ground-{secrets.token_hex(4)}"
        session_broker.start()
        session_broker.add_vhost(name)
        directory = open_directory(readable / name)
        with Ground(session_broker.url_of(name), directory, python, environment) as ground:
            yield ground
        session_broker.start()
        session_broker.delete_vhost(name)

    return new_ground


@pytest.fixture(scope="module")
def shared(new_ground: Callable[[], AbstractContextManager[Ground]]) -> Iterator[Ground]:
    """The ground of a module."""
    with new_ground() as ground:
        yield ground


@pytest.fixture(scope="module")
def served(shared: Ground) -> Ground:
    """The ground of a module, where a dispatcher runs and the tasks of `remote` are served."""
    shared.pool = shared.work(Path(remote.__file__), "-n", "2")
    shared.start("dispatcher")
    return shared


@pytest.fixture
def client(served: Ground) -> Iterator[Client]:
    """A client of the tasks of `remote`."""
    with Client(served.url) as client:
        yield client


@pytest.fixture
def async_client(served: Ground) -> Iterator[AsyncClient]:
    """A client of the tasks of `remote` that does not wait."""
    with AsyncClient(served.url) as client:
        yield client


@pytest.fixture
def ground(new_ground: Callable[[], AbstractContextManager[Ground]]) -> Iterator[Ground]:
    """A ground of the test's own."""
    with new_ground() as ground:
        yield ground


def open_directory(path: Path) -> Path:
    """Make a directory that every user can enter, and return it."""
    path.mkdir()
    path.chmod(0o755)
    return path

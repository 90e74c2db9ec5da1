"""Daemons on the real broker: one virtual host for a module, or one for a test that disturbs others."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support import remote, samples
from support.foreign import Foreign
from support.forked import Forked
from support.ground import Ground, ground_on, open_directory, readable
from support.node import Node
from support.site import python
from support.team import Team

from taskqueue import AsyncClient, Client

__all__ = ["python", "readable"]


@pytest.fixture(scope="session")
def new_ground(
    session_broker: Node, readable: Path, python: Path
) -> Callable[[], AbstractContextManager[Ground]]:
    """Make a ground with a virtual host of its own, where the sample plugins are installed."""
    environment = {"PYTHONPATH": str(samples.install(open_directory(readable / "samples")))}
    return lambda: ground_on(session_broker, readable, python, environment)


@pytest.fixture
def team(amqp_url: str, forked: Callable[..., Forked], foreign: Foreign) -> Team:
    """Schedulers, and what they fire."""
    return Team(amqp_url, forked, foreign)


@pytest.fixture(scope="module")
def shared(new_ground: Callable[[], AbstractContextManager[Ground]]) -> Iterator[Ground]:
    """The ground of a module."""
    with new_ground() as ground:
        yield ground


@pytest.fixture(scope="module")
def served(shared: Ground) -> Ground:
    """The ground of a module, where a dispatcher runs and the tasks of `remote` are served."""
    shared.pool = shared.work(Path(remote.__file__), "-n", "2")
    shared.dispatcher = shared.start("dispatcher")
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

"""Fixtures: a real RabbitMQ, a client of it, a line that can be cut, real processes."""

import faulthandler
import hashlib
import itertools
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
from support import rabbitmq as rabbitmq_releases
from support.foreign import Foreign
from support.forked import Forked
from support.node import Node
from support.postgresql import PostgreSQL, running_server
from support.processes import Daemon
from support.proxy import Proxy

_numbers = itertools.count(1)

# A busy machine is no fault of the code.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

#: In its turn it would begin late, and last when all others have ended.
LONGEST = "test_surroundings.py"

#: Seconds; longer than the timeout of any test.
AT_LAST = 660
STDERR = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills",
        type=int,
        default=10,
        metavar="NUMBER",
        help="how often tests/broker/test_recorder.py kills the monitor, each time while 250 workitems pass; "
        "beside it --timeout 0",
    )
    parser.addoption(
        "--rabbitmq",
        choices=sorted(rabbitmq_releases.RELEASES),
        help="use another release's RabbitMQ than the installed one: 4.0 is Debian 13's, 4 the newest",
    )
    parser.addoption(
        "--alarm",
        type=float,
        default=8.0,
        metavar="SECONDS",
        help="how long an alarm of the broker lasts in tests/fault/test_alarms.py; beside it --timeout 0",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)  # before it is captured
    if version := config.getoption("--rabbitmq"):
        Node.start_script = rabbitmq_releases.server(version)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest file, so that no process has to wait for another one at the end."""
    items.sort(key=lambda item: item.path.name != LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _heeding_signals() -> None:
    """Let what tests start heed these: who starts us in the background may have them ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # SIGALRM, too, which ends a test that hangs


@pytest.fixture(scope="session", autouse=True)
def _away_from_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and the processes they start, from the user's own broker and its data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HOME", str(Path.home()))  # which the environment may lack
        for variable in ("TASKQUEUE_AMQP", "TASKQUEUE_MONITOR", "TASKQUEUE_MONITOR_TOKEN"):
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(autouse=True)
def _ended_at_last(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """End the process of a test that hangs once more while it is taken down, with a traceback.

    pytest-xdist counts it as failed and goes on in another process, which gets the test again: it must fail.
    """
    if not hasattr(request.config, "workerinput"):
        yield
        return
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()
    running = tmp_path_factory.getbasetemp().parent / f"running-{name}"
    if running.exists():
        pytest.fail("its process has ended while it ran")
    running.touch()
    faulthandler.dump_traceback_later(AT_LAST, exit=True, file=request.config.stash[STDERR])
    yield
    faulthandler.cancel_dump_traceback_later()
    running.unlink()


@pytest.fixture(scope="session")
def rabbitmq() -> None:
    """Skip the test where RabbitMQ is not installed, but fail it where CI is set."""
    if not Node.start_script.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("RabbitMQ is not installed")


@pytest.fixture(scope="session")
def node_directory() -> Iterator[Path]:
    """A new, empty directory with a short path, for nodes."""
    path = Path(tempfile.mkdtemp(prefix="tq-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def session_broker(rabbitmq: None, node_directory: Path) -> Iterator[Node]:
    """The one node of all tests."""
    node = Node(node_directory / "session")
    node.start()
    yield node
    node.stop()


@pytest.fixture
def broker(session_broker: Node) -> Node:
    """The one node of all tests, running; a test that kills it need not start it again."""
    session_broker.start()
    return session_broker


@pytest.fixture
def rabbitmq_version(broker: Node) -> int:
    """The first number of the version of RabbitMQ that is tested with."""
    with Foreign(broker.url) as client:
        return int(client.server_version().partition(".")[0])


@pytest.fixture
def vhost(broker: Node) -> Iterator[str]:
    """The name of a virtual host of this test alone."""
    name = f"test{next(_numbers)}"
    broker.add_vhost(name)
    yield name
    broker.start()
    broker.delete_vhost(name)


@pytest.fixture
def amqp_url(broker: Node, vhost: str) -> str:
    """The AMQP URL of this test's virtual host."""
    return broker.url_of(vhost)


@pytest.fixture(autouse=True)
def _levels_restored() -> Iterator[None]:
    """Restore the level of a logger that `taskqueue doctor` sets, in this process, too."""
    logger = logging.getLogger("taskqueue.broker")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
def foreign(amqp_url: str) -> Iterator[Foreign]:
    """A client that shares no code with taskqueue, in this test's virtual host."""
    with Foreign(amqp_url) as client:
        yield client


@pytest.fixture
def proxy(amqp_url: str) -> Iterator[Proxy]:
    """A line to this test's virtual host that can be cut."""
    with Proxy(amqp_url) as line:
        yield line


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start a command that keeps running: daemon(command, env=...); it is killed after the test."""
    started: list[Daemon] = []

    def start(command: Iterable[str], env: Mapping[str, str] | None = None) -> Daemon:
        started.append(Daemon(command, tmp_path, env=env))
        return started[-1]

    yield start
    for each in started:
        each.clean_up()


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Callable[[Callable[[], object]], Forked]]:
    """Run a function in a process of its own: forked(function); it is killed after the test."""
    started: list[Forked] = []

    def fork(run: Callable[[], object]) -> Forked:
        started.append(Forked(run, tmp_path / f"output-{len(started)}"))
        return started[-1]

    yield fork
    for each in started:
        each.clean_up()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """The one PostgreSQL server of all tests; a test that stops it makes its own."""
    with running_server() as server:
        yield server


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest) -> str | None:
    """The URL of a new PostgreSQL database for a record; None for SQLite."""
    if request.param == "SQLite":
        return None
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_database()

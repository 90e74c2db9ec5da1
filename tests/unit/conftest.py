import gc
import io
import sys

import pytest
from support.configs import PLUGINS, People

from taskqueue import cli
from taskqueue.config import load
from taskqueue.errors import ConfigError


def pytest_collection_finish(session):
    """Let the garbage collector leave the collected tests alone: they stay until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _stevedore(_away_from_home):
    """Import it once and not in every worker that a test forks; its cache is away from home, too."""
    import stevedore.driver  # noqa: F401, PLC0415


@pytest.fixture
def call(capsys, monkeypatch):
    """Call the command in this process; return its exit status, output and errors."""

    def call(*arguments, typed=""):
        monkeypatch.setattr(sys, "argv", ["taskqueue", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return call


@pytest.fixture
def write(tmp_path):
    def write(text, mode=0o600):
        path = tmp_path / "config.ini"
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return str(path)

    return write


@pytest.fixture
def read(write):
    def read(text, plugins=PLUGINS, *, as_root=False, people=None, mode=0o600):
        return load(write(text, mode), plugins, as_root=as_root, unix_users=people or People())

    return read


@pytest.fixture
def faults_of(read):
    def faults_of(text, plugins=PLUGINS, **options):
        with pytest.raises(ConfigError) as caught:
            read(text, plugins, **options)
        return [str(fault).partition("config.ini: ")[2] for fault in caught.value.faults]

    return faults_of

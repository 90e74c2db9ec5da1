"""The places of the monitor's files."""

import os
import pwd
from pathlib import Path

import pytest

from taskqueue.config import MonitorSettings, PoolSettings
from taskqueue.control import key
from taskqueue.errors import ConfigError
from taskqueue.monitor import place
from taskqueue.monitor.daemon import read_plan
from taskqueue.monitor.store.store import Store
from taskqueue.process import startup

NOBODY = 65534
#: Who may be a consumer: root refuses to run them as root.
USER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(place, "SYSTEM", tmp_path / "system/monitor")
    monkeypatch.setattr(startup, "ROOTS_UP", tmp_path / "system/up")
    for parent in (tmp_path, *tmp_path.parents[:3]):  # pytest's, of which pytest-xdist has one more
        parent.chmod(parent.stat().st_mode | 0o011)
    return tmp_path / "home/taskqueue/monitor"


def test_a_configured_directory_is_used_for_all(home):
    settings = MonitorSettings(database="/srv/record")
    assert place.own_directory(settings) == place.directory_to_read(settings) == Path("/srv/record")


@pytest.fixture
def as_nobody(forked, home):
    """Run a check in a process of another user than root."""

    def run(check):
        def become_and_check():
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            check()

        child = forked(become_and_check)
        assert child.wait() == 0, child.output()

    return run


for_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root is root")


@for_root
def test_root_keeps_the_record_of_the_system(home):
    assert place.own_directory(MonitorSettings()) == place.SYSTEM


def test_others_keep_a_record_of_their_own(home, as_nobody):
    def check():
        assert place.own_directory(MonitorSettings()) == home
        assert place.directory_of_up(MonitorSettings()) == home

    as_nobody(check)


def test_a_command_reads_the_users_own_record_before_the_systems(home, as_nobody):
    def reads(directory):
        def check():
            assert place.directory_to_read(MonitorSettings()) == directory

        as_nobody(check)

    reads(home)
    place.SYSTEM.parent.mkdir()
    reads(place.SYSTEM)
    home.mkdir(parents=True)
    reads(home)


@for_root
def test_the_record_of_roots_up_is_where_the_recorders_user_may_write(home, monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    assert place.directory_of_up(MonitorSettings()) == startup.ROOTS_UP
    assert place.directory_of_up(MonitorSettings(database="/srv/record")) == Path("/srv/record")


@for_root
def test_root_reads_and_manages_the_record_of_up_while_it_runs_and_else_the_systems(home):
    def meant():
        return place.directory_to_read(MonitorSettings()), place.directory_to_manage(MonitorSettings())

    home.mkdir(parents=True)
    assert meant() == (home, place.SYSTEM)
    place.SYSTEM.mkdir(parents=True)
    with Store(home):
        assert meant() == (home, home)
    assert meant() == (place.SYSTEM, place.SYSTEM)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("127.0.0.1:8672", ("127.0.0.1", 8672)),
        ("[::1]:0", ("::1", 0)),
        ("monitor.example.org:80", ("monitor.example.org", 80)),
    ],
)
def test_the_address_to_listen_on_has_a_host_and_a_port(written, meant, read):
    settings = read(f"[monitor]\nlisten: {written}\n").monitor
    assert place.host_and_port(settings.listen) == meant


def test_without_a_configuration_file_the_monitor_has_the_control_key_of_up(home):
    place_of_key = key.place_of(None, PoolSettings())
    assert place_of_key == home.parent / "control.key"
    assert read_plan(None).monitor.control_key is None
    home.mkdir(parents=True)
    key.make_own(PoolSettings(user=USER))
    assert read_plan(None).monitor.control_key == str(place_of_key)
    before = place_of_key.read_text()
    key.make_own(PoolSettings(user=USER))
    assert place_of_key.read_text() == before


@for_root
def test_a_control_key_that_the_user_of_consumers_cannot_read_is_not_kept(home):
    home.mkdir(parents=True)
    home.parent.chmod(0o700)
    with pytest.raises(ConfigError, match="expected a directory that nobody can enter, found another one"):
        key.make_own(PoolSettings(user="nobody"))
    assert not (home.parent / "control.key").exists()

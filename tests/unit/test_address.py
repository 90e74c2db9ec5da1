"""The sources of the broker's address; nobody sees its password on the way."""

import os
from pathlib import Path

import pytest
from support.configs import SECRET

from taskqueue import address
from taskqueue.address import Source, config_path
from taskqueue.cli import options
from taskqueue.config import AmqpSettings
from taskqueue.errors import ConfigError

ADDRESS = AmqpSettings((("rabbit", 5672),), "joe", SECRET, "/x", 5)
URL = f"amqp://joe:{SECRET}@rabbit/%2Fx"


@pytest.fixture
def stored():
    descriptor = address.store(ADDRESS)
    yield descriptor
    os.close(descriptor)


def test_a_stored_address_is_found_again_as_often_as_wanted(stored):
    assert address.stored(stored) == address.stored(stored) == ADDRESS


def test_a_stored_address_has_no_name_and_reaches_the_process_that_is_executed(stored):
    assert Path(f"/proc/self/fd/{stored}").readlink().name.startswith("memfd:")
    assert os.get_inheritable(stored)


def test_who_has_taken_over_a_stored_address_hands_it_to_nobody(stored):
    assert Source(None, None, stored).find() == ADDRESS
    options.hide_address(Source(None, None, stored), [])
    assert not os.get_inheritable(stored)


def test_without_an_address_in_sight_nothing_is_hidden():
    options.hide_address(Source(None), [])


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(monkeypatch, write):
    path = write("[amqp]\nhost: from-file\n")
    assert Source(path).find().hosts[0][0] == "from-file"
    monkeypatch.setenv("TASKQUEUE_AMQP", "amqp://from-environment")
    assert Source(path).find().hosts[0][0] == "from-environment"
    assert Source(path, URL).find().hosts[0][0] == "rabbit"


def test_a_daemon_reads_the_stored_address_or_else_the_file(stored, write):
    path = write("[amqp]\nhost: from-file\n")
    assert Source(path, None, stored).read() == ADDRESS
    assert Source(path).read().hosts[0][0] == "from-file"
    with pytest.raises(ConfigError, match="no broker: expected --amqp"):
        Source(write("")).read()


def test_the_environment_that_is_passed_on_has_no_address(monkeypatch):
    monkeypatch.setenv("TASKQUEUE_AMQP", URL)
    monkeypatch.setenv("OTHER", "x")
    passed = options.environment()
    assert "TASKQUEUE_AMQP" not in passed
    assert passed["OTHER"] == "x"


@pytest.mark.parametrize(
    ("given", "found"), [("../config.ini", "config.ini"), ("config.ini", "private/config.ini")]
)
def test_the_way_to_a_configuration_leads_through_no_directory_that_it_is_not_in(
    tmp_path, monkeypatch, given, found
):
    (tmp_path / "private").mkdir()
    monkeypatch.chdir(tmp_path / "private")
    assert config_path(given) == str(tmp_path / found)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become a user who may not look")
def test_a_system_configuration_that_may_not_be_looked_for_holds_up_nobody_who_gives_the_address(
    tmp_path, monkeypatch
):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(address, "SYSTEM_CONFIG", str(closed / "config.ini"))
    os.seteuid(65534)
    try:
        assert address.config_path(None) == address.SYSTEM_CONFIG
        assert address.find_address("amqp://somewhere", address.SYSTEM_CONFIG).hosts == (("somewhere", 5672),)
        with pytest.raises(ConfigError, match="Permission denied"):
            address.find_address(None, address.SYSTEM_CONFIG)
    finally:
        os.seteuid(0)

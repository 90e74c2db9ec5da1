"""The token of `taskqueue up`'s monitor, as it is kept."""

import stat

import pytest

from taskqueue.errors import ConfigError
from taskqueue.monitor.own_token import OwnToken


def test_the_token_and_its_port_are_kept_where_only_their_owner_reads_them(tmp_path):
    path = tmp_path / "state/taskqueue/monitor.token"
    made = OwnToken.of(path)
    assert made.port == 0
    made.at("https://[::1]:4711")
    kept = OwnToken.of(path)
    assert (kept.secret, kept.port) == (made.secret, 4711)
    assert path.read_text().splitlines()[0] == made.secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["", "tq_short\n\n", "tq_" + "a" * 43, "\xff\n", "x" * 5000])
def test_a_damaged_file_is_replaced(tmp_path, text):
    path = tmp_path / "monitor.token"
    path.write_text(text)
    path.chmod(0o600)
    assert OwnToken.of(path).secret not in (text.strip(), "")
    assert OwnToken.of(path).secret == OwnToken.of(path).secret


def test_a_token_that_others_could_read_is_replaced(tmp_path):
    path = tmp_path / "monitor.token"
    old = OwnToken.of(path)
    path.chmod(0o644)
    assert OwnToken.of(path).secret != old.secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_address_without_a_port_has_none(tmp_path):
    kept = OwnToken.of(tmp_path / "monitor.token")
    assert [kept.at(url).port for url in ("http://127.0.0.1:x", "http://h:70000", "nothing")] == [0, 0, 0]


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"the monitor's token .*file/monitor\.token: Not a directory"):
        OwnToken.of(tmp_path / "file/monitor.token")

"""`make bench` starts what is for nobody else on the machine; rows of it that no other test looks after."""

import importlib
import shutil
import socket

import pytest
from stage import ROOT
from support.processes import command, pids


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is installed by make bench")
def test_the_redis_of_the_benchmarks_takes_a_password_that_no_command_line_shows(
    rabbitmq: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    with importlib.import_module("benchmarks.ground").Ground() as ground:
        password = ground.redis_url.partition("//:")[2].partition("@")[0]
        assert len(password) == 32
        assert asked(ground.redis_port, "GET x").startswith("-NOAUTH")
        assert asked(ground.redis_port, f"AUTH {password}") == "+OK"
        assert not [words for words in map(command, pids()) if password in words]


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is installed by make bench")
@pytest.mark.parametrize(
    ("row", "measures"),
    [
        ("limiting.rates", ["starts in a second, 40 allowed"]),
        ("uniqueness.unique", ["relay, unique", "relay and drain, unique"]),
        ("flows.chains", ["chain of 20", "chain of 20, in a header"]),
        ("flows.groups", ["group of 200 with a join"]),
        ("flows.workflows", ["20 workflows of 20 steps", "database, a step"]),
        ("flows.keeping", ["flow process, 1,500 small workflows"]),
    ],
)
def test_a_row_of_the_benchmarks_finds_figures(
    rabbitmq: None, monkeypatch: pytest.MonkeyPatch, row: str, measures: list[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    rows, racing, plugins, ground, module = (
        importlib.import_module(f"benchmarks.{name}")
        for name in ("rows", "racing", "plugins", "ground", row.partition(".")[0])
    )
    with ground.Ground() as prepared:
        plugins.install(prepared.directory / "plugins")
        scale = rows.Scale(
            rounds=1, messages=5000, killing=5.0, chain=20, group=200, workflows=20, small=1500
        )
        bench = rows.Bench(prepared, scale, racing.Race(prepared, 0, wanted=False))
        found = list(getattr(module, row.partition(".")[2])(bench))
    assert [each.measure for each in found] == measures
    assert all(each.ours > 0 for each in found)


def asked(port: int, words: str) -> str:
    """Return the line that Redis answers a command."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"{words}\r\n".encode())
        return client.makefile().readline().strip()

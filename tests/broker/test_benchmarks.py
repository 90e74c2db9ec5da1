"""What `make bench` starts is for nobody else on the machine."""

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


def asked(port: int, words: str) -> str:
    """Return the line that Redis answers a command."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"{words}\r\n".encode())
        return client.makefile().readline().strip()

"""A host that loses its name service goes on as soon as the broker's name is known again."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.site import AS_ROOT
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="only root can give a process another /etc")

NAME = "broker.example"
SILENT = "127.0.0.153"  # a name server that never answers; loopback has many addresses

# The mounts are seen by the command alone.
MOUNTS = 'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'


class Names:
    """The name service of some processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "resolv.conf").write_text(f"nameserver {SILENT}\noptions timeout:2 attempts:1\n")
        self.give()

    def give(self) -> None:
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()} {NAME}\n")

    def take(self) -> None:
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()}\n")

    def lead(self, command: list[str]) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", MOUNTS, str(self.directory), *command]


@pytest.fixture
def names(site_directory) -> Iterator[Names]:
    directory = site_directory / "names"
    directory.mkdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((SILENT, 53))
        yield Names(directory)
    shutil.rmtree(directory)


def use_name(site, names, sections):
    """Have the site's daemons know the broker by its name alone."""
    site.configure(sections, url=site.url.replace("127.0.0.1", NAME))
    command = site.command
    site.command = lambda *arguments: names.lead(command(*arguments))


def test_daemons_whose_name_service_fails_go_on_when_it_is_back(site, work, names, broker):
    use_name(site, names, "[gated]\nworkers: 1")
    pool, dispatcher = site.pool(), site.dispatcher()
    first = work.dispatch("gated", {"gate": str(site.gate())})
    site.wait_for_run(first)
    names.take()
    os.kill(broker.pid, signal.SIGTERM)  # in order: what is killed forgets acknowledgements
    wait_until(lambda: not broker.alive, 30, "the broker's end")
    broker.start()
    for daemon in (pool, dispatcher):
        daemon.wait_for(f"the broker at {NAME}:", 40)
        assert "cannot be reached: " in daemon.output()
    site.gate().touch()
    wait_until(lambda: site.ends() == 1)
    second = work.dispatch("gated", {"gate": str(site.gate())})
    names.give()
    assert set(work.results(2, 60)) == {first, second}, site.journal.read_text() + pool.output()
    assert site.ends() == 2, site.journal.read_text()
    assert (pool.stop(), dispatcher.stop()) == (0, 0)
    assert "Traceback" not in pool.output() + dispatcher.output()


def test_a_pool_that_waits_for_a_silent_name_server_stops_in_time(site, names):
    names.take()
    use_name(site, names, "[good]\nworkers: 1")
    pool = site.pool(ready="waits for the broker")
    assert pool.stop(10) == 0

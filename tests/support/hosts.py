"""Pools on several hosts: processes of this machine with other names for it (uts_namespaces(7))."""

import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from stage import ROOT
from support.processes import Daemon
from support.site import Site
from support.waiting import wait_until

from taskqueue.config import AmqpSettings
from taskqueue.control import key
from taskqueue.control.answers import Answers
from taskqueue.control.client import Command
from taskqueue.errors import NoPool


def on_host(name: str, words: Iterable[str]) -> list[str]:
    """Return a command line that runs another one, by which this machine has another name; root's alone."""
    return ["unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh", *words]


class Hosts:
    """Hosts with a worker pool each, on one site; root alone can make them."""

    def __init__(self, site: Site) -> None:
        """Make a control key for all of them."""
        self.site = site
        site.configure("")
        done = site.run("control", "key", "-c", str(site.config))
        assert done.returncode == 0, done
        self.key = site.directory / "control.key"

    def pool(
        self,
        host: str,
        sections: str | None = None,
        ready: str = "ready:",
        *,
        answers: bool = True,
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Daemon:
        """Start the pool of a host, and wait until it works and, unless it cannot, answers commands."""
        if sections is not None:
            self.site.configure(sections, **settings)
        words = self.site.command("workerpool", "-f", "-c", str(self.site.config))
        started = self.site.launch(on_host(host, words), **env or {})
        started.wait_for(ready)
        if answers:
            wait_until(lambda: host in self._answering(), 20, f"an answer of {host}")
        return started

    def _answering(self) -> list[str]:
        try:
            return [pool["host"] for pool in self.ask(timeout=0.5).pools]
        except NoPool:
            return []

    def other_release(self, release: str, version: int) -> dict[str, str]:
        """Install another release beside this one; return the environment in which it is used.

        version -- of its commands to pools
        """
        place = self.site.directory / release
        shutil.copytree(ROOT / "taskqueue", place / "taskqueue")
        seal = place / "taskqueue/control/seal.py"
        seal.write_text(re.sub("(?m)^(VERSION: Final = ).*$", rf"\g<1>{version}", seal.read_text()))
        metadata = place / f"taskqueue-{release}.dist-info/METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: taskqueue\nVersion: {release}\n")
        return {"PYTHONPATH": f"{place}:{self.site.plugins}"}

    def run(self, *words: str, status: int = 0, **env: str) -> str:
        """Run a command; return what it prints."""
        done = self.site.run(*words, "-c", str(self.site.config), **env)
        assert done.returncode == status, done
        return done.stdout + done.stderr

    def ask(self, timeout: float = 5) -> Answers:
        """Return the answers of all pools."""
        return Command(AmqpSettings.from_url(self.site.url), key.read(self.key), timeout=timeout).ask()

    def states(self) -> dict[str, list[str]]:
        """Return the states of the groups of each host."""
        return {pool["host"]: [group["state"] for group in pool["groups"]] for pool in self.ask().pools}


@pytest.fixture
def hosts(site: Site) -> Hosts:
    return Hosts(site)

"""The project's Debian packages: built as README.md says, and installed as README.md says."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stage import ROOT, project_files
from support.debian import Chroot, new_tree, online
from support.documentation import example
from support.machine import Machine
from support.waiting import wait_until

DAEMONS: Final = ("dispatcher", "workerpool", "monitor")
_PROGRAM: Final = ROOT / "tests/debian/load.py"
LICENSE: Final = "/usr/share/common-licenses/GPL-3"


def readme_commands() -> list[str]:
    """Return the code blocks of README.md's section about installing, each a shell script."""
    return [example("README.md", "make deb"), example("README.md", "apt install ./dist/")]


def build(release: str, directory: Path) -> Path:
    """Build the packages in a new tree as README.md says; return the checkout in that tree."""
    tree = directory / "builder"
    tree.mkdir()
    new_tree(release, tree)
    checkout = tree / "root/taskqueue"
    for file in project_files():
        (checkout / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, checkout / file, follow_symlinks=False)
    with online(tree) as chroot:
        chroot.shell("apt-get update; apt-get install make")
        chroot.shell(f"cd taskqueue; {readme_commands()[0]}")
    return checkout


def fetched(release: str, dist: Path, directory: Path, *, extra: str = "") -> Path:
    """Return a new base system in which all is at hand that installing the packages takes.

    extra: Debian packages that are installed already
    """
    tree = directory / "fetched"
    tree.mkdir()
    new_tree(release, tree)
    shutil.copytree(dist, tree / "root/dist")
    with online(tree) as chroot:
        chroot.shell(f"apt-get update; apt-get install {extra}" if extra else "apt-get update")
        chroot.shell(
            "apt-get install --download-only ./dist/*.deb rabbitmq-server logrotate python3-amqp curl"
        )
    return tree


class Host(Machine):
    """A machine that taskqueue is installed on, or will be."""

    def daemon(self, name: str, action: str, status: int | None = 0) -> str:
        """Call an init script; return what it says."""
        return self.run(f"/etc/init.d/python-taskqueue-{name}", action, status=status).stdout

    def broker(self, action: str) -> None:
        """Call the broker's init script; it returns when the broker answers."""
        self.run("/etc/init.d/rabbitmq-server", action, timeout=90)

    def main_process(self, name: str) -> int:
        """Return the process that a daemon began with, which wrote its pid file."""
        return int(self.shell(f"cat /run/taskqueue/{name}.pid"))

    def load(self, rate: float) -> "Load":
        """Begin to submit workitems, `rate` a second, to the broker on this host."""
        self.shell("apt install python3-amqp")
        return Load(self.led_in(["/usr/bin/python3", "-", str(rate), "enough"]), self.tree / "root")

    def submit(self, timeout: float = 30) -> str:
        """Have a file digested; return the result."""
        return self.shell(f"taskqueue submit digest {LICENSE} --wait --timeout {timeout}")

    def configure(self, text: str) -> None:
        """Write another config.ini; owner and mode stay."""
        (self.tree / "etc/taskqueue/config.ini").write_text(text)


class Load:
    """A producer that runs on a host (tests/debian/load.py); its output goes to a file."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        """Start it; `command` reads the program, and is run in the directory."""
        self._output = output = directory / "output"
        self._enough = directory / "enough"
        with _PROGRAM.open("rb") as program, output.open("wb") as file:
            self._process = subprocess.Popen(command, stdin=program, stdout=file, stderr=file)

    def output(self) -> str:
        return self._output.read_text()

    def arrived(self) -> int:
        """Return how many results have arrived; fail where the producer has."""
        assert self._process.poll() in (None, 0), self.output()
        return len(self.output().splitlines())

    def next_from(self, count: int, timeout: float = 60) -> Counter[str]:
        """Wait for so many more results; return how many of them came from each "host group"."""
        before = self.arrived()
        self.wait_for(before + count, timeout)
        lines = self.output().splitlines()[before : before + count]
        return Counter(line.partition(" ")[2] for line in lines)

    def wait_for(self, count: int, timeout: float = 60) -> None:
        """Wait until so many results have arrived."""
        wait_until(lambda: self.arrived() >= count, timeout, self.output)

    def finish(self, timeout: float) -> None:
        """Have it submit no more; fail unless all results arrive."""
        self._enough.touch()
        assert self._process.wait(timeout) == 0, self.output()


def digest_of_license(chroot: Chroot) -> str:
    """Return what sha256sum says of the file that is submitted."""
    return chroot.shell(f"sha256sum {LICENSE}").split()[0]

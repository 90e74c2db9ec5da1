"""What `make test-trixie` runs: `make demo` and `make test` of this checkout on a machine with Debian 13.

The machine is a copy of a base system on which scripts/setup.sh has installed what the checkout needs. The
base is kept for a week under ~/.cache/taskqueue; a run adds what is missing there. The machine has namespaces
and a loopback network of its own. It is removed, with all that runs on it, when the command ends.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stage import ROOT, project_files
from support.debian import cache_directory, is_recent, new_tree, online
from support.machine import Machine, namespaces_refused

RELEASE: Final = "trixie"
CHECKOUT: Final = Path("root/taskqueue")
#: How pip reaches its index here; new_tree() does the same for apt.
SETTINGS: Final = (Path("/etc/pip.conf"), Path("/usr/local/share/ca-certificates"))


def main() -> int:
    """Run a shell command, the argument, in the checkout on the machine; return its exit status."""
    if os.geteuid() != 0:
        sys.exit("debian13: root is needed to make a machine")
    if refused := namespaces_refused():
        sys.exit(f"debian13: this machine allows no namespaces, which another machine takes: {refused}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machine is removed then, too
    _, command = sys.argv
    with machine() as debian13:
        variables = [f"CI={os.environ['CI']}"] if os.environ.get("CI") else []
        words = ["env", *variables, "sh", "-c", f"cd /{CHECKOUT} && {command}"]
        return subprocess.call(debian13.led_in(words))


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """Yield a running machine with the checkout on it; remove it at the end."""
    with prepared() as tree:
        debian13 = Machine(tree, "debian13")
    try:
        debian13.start()
        yield debian13
    finally:
        debian13.remove()


@contextlib.contextmanager
def prepared() -> Iterator[Path]:
    """Yield the base, made ready for this checkout; other runs wait meanwhile."""
    tree = cache_directory() / f"checkout-{RELEASE}"
    with tree.with_name(f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_recent(tree):
            make_base(tree)
        copy_checkout(tree / CHECKOUT)
        clients = ["clients"] if (ROOT / ".clients").is_dir() else []
        with online(tree) as chroot:
            subprocess.run(chroot.led_in([f"/{CHECKOUT}/scripts/setup.sh", *clients]), check=True)
        yield tree


def make_base(tree: Path) -> None:
    """Make a base in which scripts/setup.sh and make can run."""
    print("debian13: making the base system", flush=True)
    shutil.rmtree(tree, ignore_errors=True)
    new = Path(tempfile.mkdtemp(dir=tree.parent))
    try:
        new_tree(RELEASE, new)
        with online(new) as chroot:
            chroot.shell("apt-get -q update; apt-get -q install ca-certificates git make", timeout=600)
            for each in SETTINGS:
                if each.exists():
                    subprocess.run(["cp", "-a", each, new / each.relative_to("/").parent], check=True)
            chroot.shell("update-ca-certificates")
        new.chmod(0o755)
        new.rename(tree)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def copy_checkout(place: Path) -> None:
    """Bring the project's files up to date; what setup.sh has made there stays."""
    for old in place.iterdir() if place.exists() else []:
        if not old.name.startswith((".venv", ".clients")):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for file in project_files():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, place / file)
    if (ROOT / ".clients").is_dir():
        shutil.copytree(ROOT / ".clients", place / ".clients", symlinks=True, dirs_exist_ok=True)
    git = ["git", "-C", place, "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)  # tests ask git for the project's files


if __name__ == "__main__":
    sys.exit(main())

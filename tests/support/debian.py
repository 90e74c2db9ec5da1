"""The base system of a Debian release: what debootstrap makes, kept between runs where that is possible."""

import atexit
import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

#: Releases by their code names.
RELEASES: Final = {"bookworm": 12, "trixie": 13}

# Read when this is imported: the tests' own variable hides the user's directory later.
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taskqueue"
PATIENCE: Final = 600.0  # seconds for a command; hundreds of packages are installed by some
LONGEST_KEPT: Final = 7 * 86400  # seconds; then the release has had its updates

# There is nobody to ask. What is only recommended must not be needed.
_APT: Final = 'APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "false";\n'

#: What a command on a machine has of an environment, and no more.
ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


def cache_directory() -> Path:
    """Return the directory for what is kept between runs; /var/tmp where that cannot be made."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path("/var/tmp")
    return CACHE if os.access(CACHE, os.W_OK) else Path("/var/tmp")


def is_recent(kept: Path) -> bool:
    """Tell whether something is kept there that need not be made anew."""
    return kept.exists() and time.time() - kept.stat().st_mtime < LONGEST_KEPT


def mirror() -> str:
    """Return where this machine gets Debian from."""
    listing = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    listed = _said(*listing, "Label: Debian") or _said(*listing)  # fetched lists have labels
    assert listed, "apt knows of no place to get packages from"
    return listed.splitlines()[0].rstrip("/")


def apt_settings() -> str:
    """Return this machine's settings of apt for proxies and certificates, for apt on another one."""
    dump = _said("apt-config", "dump", "Acquire::http", "Acquire::https").splitlines()
    return "".join(
        f"{line}\n" for line in dump if any(word in line for word in ("Proxy", "CaInfo", "Verify"))
    )


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def new_tree(release: str, directory: Path) -> None:
    """Fill a directory with the base system of a release, which can reach the mirror as this machine can."""
    subprocess.run(["tar", "-xpf", _base(release), "-C", directory], check=True)
    shutil.copy("/etc/resolv.conf", directory / "etc/resolv.conf")
    (directory / "etc/apt/apt.conf.d/90host").write_text(_APT + apt_settings())
    (directory / "etc/dpkg/dpkg.cfg.d/90host").write_text("force-unsafe-io\n")  # nothing has to outlive this


@cache
def _base(release: str) -> Path:
    kept = CACHE / f"{release}.tar"
    # Processes that need it at the same time make it once.
    with (cache_directory() / f"tq-{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return kept if is_recent(kept) else _make_base(release, kept)


def _make_base(release: str, kept: Path) -> Path:
    directory = Path(tempfile.mkdtemp(dir=cache_directory()))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    made = directory / "base.tar"
    proxy = _said("apt-config", "dump", "--format", "%v", "Acquire::http::Proxy")
    variables = {**os.environ, "http_proxy": proxy} if proxy else os.environ
    command = ["debootstrap", "--variant=minbase", release, directory / "tree", mirror()]
    _run(command, variables)
    _run(["tar", "-cf", made, "-C", directory / "tree", "."], os.environ)
    shutil.rmtree(directory / "tree")
    return made.rename(kept) if directory.parent == CACHE else made


def _run(command: Sequence[str | Path], variables: Mapping[str, str]) -> None:
    ran = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ran.returncode == 0, f"{command[0]} ended with {ran.returncode}:\n{ran.stdout[-3000:]}{ran.stderr}"


@contextlib.contextmanager
def online(tree: Path) -> Iterator["Chroot"]:
    """Give access to a tree by chroot(2) alone, on this machine's network: to fetch and install packages."""
    proc = tree / "proc"
    mounted = subprocess.run(["mount", "-t", "proc", "proc", proc], capture_output=True, check=False)
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # nothing is started here
    policy.chmod(0o755)
    try:
        yield Chroot(tree)
    finally:
        policy.unlink()
        if mounted.returncode == 0:
            subprocess.run(["umount", proc], check=True)


class Chroot:
    """Runs commands in a tree."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def enter(self) -> list[str]:
        """Return the words that lead a command into the tree."""
        return ["chroot", str(self.tree)]

    def led_in(self, command: Sequence[str]) -> list[str]:
        """Return a command as it is run from outside."""
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return [*self.enter(), "env", "-i", "--chdir=/root", *variables, *command]

    def run(
        self, *command: str, status: int | None = 0, timeout: float = PATIENCE, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, stdout and stderr in one; fail where its status is not the given one.

        status: None for any
        """
        ran = subprocess.run(
            self.led_in(command),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if status is not None:
            assert ran.returncode == status, f"{command} ended with {ran.returncode}:\n{ran.stdout[-6000:]}"
        return ran

    def shell(self, script: str, **options: int | None) -> str:
        """Run a shell script that stops at the first failure; return what it says."""
        return self.run("sh", "-ec", script, **options).stdout

"""RabbitMQ of another Debian release, for nodes that serve tests outside of it.

A node sees the release's /usr in place of this machine's, in a mount namespace of its own; everything else,
the network and its state directory included, is this machine's. So it takes root, and nothing is left of it.
"""

import fcntl
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from support.debian import cache_directory, is_recent, mirror, new_tree, online

#: Where each choice of `--rabbitmq` comes from: 4.0 is Debian 13's, 4 the newest that Debian has.
RELEASES: Final = {"4.0": "trixie", "4": "sid"}

_HOME: Final = "usr/lib/rabbitmq/lib"

_START: Final = """#!/bin/sh
exec unshare --mount sh -c 'mount --bind "{tree}/usr" /usr && exec /usr/lib/rabbitmq/bin/rabbitmq-server'
"""


@cache
def server(version: str) -> Path:
    """Return a start script for nodes of a version of RELEASES; the first call of a week installs it."""
    if os.geteuid() != 0:
        pytest.exit("--rabbitmq takes root: RabbitMQ runs in a mount namespace")
    tree = cache_directory() / f"rabbitmq-{version}"
    with tree.with_name(f"{tree.name}.lock").open("w") as lock:  # pytest-xdist's processes share it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_recent(tree):
            _install(RELEASES[version], tree)
    (home,) = (tree / _HOME).iterdir()
    return home / "sbin/rabbitmq-server-outside"


def _install(release: str, tree: Path) -> None:
    """Make a tree whose /usr has RabbitMQ from a release, on the base of Debian 13."""
    shutil.rmtree(tree, ignore_errors=True)
    new = Path(tempfile.mkdtemp(dir=tree.parent))
    new_tree("trixie", new)
    # A mirror may lag behind, and sid's lists are valid for days; their signatures are checked all the same.
    source = f"deb [check-valid-until=no] {mirror()} {release} main\n"
    (new / "etc/apt/sources.list").write_text(source)
    with online(new) as chroot:
        chroot.run("apt-get", "-q", "update", timeout=600)
        chroot.run("apt-get", "-q", "-y", "install", "rabbitmq-server", timeout=600)
    (home,) = (new / _HOME).iterdir()
    script = home / "sbin/rabbitmq-server-outside"
    script.write_text(_START.format(tree=tree))
    new.chmod(0o755)
    script.chmod(0o755)
    new.rename(tree)

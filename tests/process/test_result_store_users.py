"""A directory of large results that workers of several Unix users share, made as docs/workflows.md says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.documentation import example

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")

#: In a copy of /etc, which only these processes see.
MAKE = """set -e
mount --bind "$1" /etc
mount -t tmpfs none /var/lib
mkdir /var/lib/taskqueue
adduser --system --quiet --no-create-home mailer
adduser --system --quiet --no-create-home stranger
"""
ACT = """
import os, pathlib, sys
from taskqueue.errors import StoreFailed
from taskqueue.process import privileges
from taskqueue.worker.store import DirectoryStore

PATH = "/var/lib/taskqueue/results"

def act(user, action):
    if (child := os.fork()) == 0:
        privileges.become(user)
        try:
            store = DirectoryStore(PATH, keep=60)
            print(user, action(store), flush=True)
        except (OSError, StoreFailed) as error:
            print(user, error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)

def age():
    for each in pathlib.Path(PATH).iterdir():
        os.utime(each, (1, 1))

first, second = "1" * 32, "2" * 32
act("taskqueue-worker", lambda store: store.put(first, b"data"))
act("mailer", lambda store: store.get(first))
act("mailer", lambda store: os.unlink(f"{PATH}/{first}"))
act("stranger", lambda store: store.get(first))
age()
act("mailer", lambda store: store.put(second, b"more"))
print(sorted(os.listdir(PATH)) == [first, second], flush=True)
act("taskqueue-worker", lambda store: store.put("3" * 32, b"last"))
print(first in os.listdir(PATH), flush=True)
"""


@as_root
def test_users_of_a_group_share_results_and_remove_only_their_own(tmp_path: Path) -> None:
    shutil.copytree("/etc", tmp_path / "etc", symlinks=True)
    commands = MAKE + example("docs/workflows.md", "addgroup --system taskqueue-results")
    script = f'{commands}exec "$2" -P -c "$3"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "etc"), sys.executable, ACT]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    said = done.stdout.partition("taskqueue-worker None\n")[2].splitlines()
    assert said == [
        "mailer b'data'",
        f"mailer [Errno 1] Operation not permitted: '/var/lib/taskqueue/results/{'1' * 32}'",
        "stranger store /var/lib/taskqueue/results: Permission denied",
        "mailer None",
        "True",  # the other user's old file is still there
        "taskqueue-worker None",
        "False",
    ]

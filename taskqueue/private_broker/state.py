"""The directory in which a private broker keeps everything, and who owns it.

password       the AMQP user's password, made once
address        the URL, while the node is ready
owner.lock     locked by the process that started the node; holds its id
node.lock      locked by the node itself, so that the lock's end is the node's end
broker.log     what the node logged since its start (broker.log.1: in its life before)
data/          queues and messages
"""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from taskqueue.config.places import state_home
from taskqueue.errors import AlreadyRunning, BrokerUnavailable


def default_state_dir() -> Path:
    """Return where a user's private broker keeps its data (XDG base directory specification)."""
    return state_home("a private broker") / "taskqueue" / "broker"


class PrivateState:
    """A state directory; only the process that has claimed it may change what is there."""

    def __init__(self, path: Path) -> None:
        """Name the directory; nothing is made or read yet."""
        self.path = path
        self.log = path / "broker.log"
        self.address_file = path / "address"
        self._owner_lock: int | None = None

    @property
    def claimed(self) -> bool:
        """Whether this object has claimed the directory."""
        return self._owner_lock is not None

    def claim(self) -> None:
        """Make the directory, readable by its owner only, and become the one process that uses it.

        Raises AlreadyRunning when another process has claimed it, and BrokerUnavailable when it is
        another user's or holds something else.
        """
        if self.claimed:
            return
        self._make()
        lock = _open_lock(self.path / "owner.lock")
        if not _try_lock(lock, fcntl.LOCK_EX):
            owner = os.read(lock, 20).decode()
            os.close(lock)
            raise AlreadyRunning(f"process {owner} already runs a private broker on the data in {self.path}")
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        self._owner_lock = lock

    def release(self) -> None:
        """Let other processes claim the directory."""
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    def lock_for_node(self) -> int | None:
        """Return a new, locked file descriptor for the node to inherit; None while a node still lives."""
        lock = _open_lock(self.path / "node.lock")
        if _try_lock(lock, fcntl.LOCK_EX):
            return lock
        os.close(lock)
        return None

    def password(self) -> str:
        """Return the AMQP user's password; the first call makes it."""
        path = self.path / "password"
        if not path.exists():
            self.write("password", secrets.token_hex(16))
        return path.read_text(encoding="ascii")

    def address(self) -> str | None:
        """Return the URL, password included, of the node that is ready now, or None."""
        try:
            url = self.address_file.read_text(encoding="ascii")
            lock = os.open(self.path / "node.lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            # A file that a killed node left behind is not to be believed.
            return None if _try_lock(lock, fcntl.LOCK_SH) else url
        finally:
            os.close(lock)

    def forget_address(self) -> None:
        """Say that no node is ready."""
        self.address_file.unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Write a file that only its owner may read, and that others see whole or not at all."""
        new = self.path / f"{name}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        new.replace(self.path / name)

    def keep_old_log(self) -> None:
        """Make room for a new log; one old one is kept."""
        with contextlib.suppress(FileNotFoundError):
            self.log.replace(self.path / "broker.log.1")

    def _make(self) -> None:
        if not _is_usable(self.path):
            expected = "expected a path in UTF-8 that RabbitMQ takes, without ' and :"
            found = f"found {str(self.path)!r}"
            raise BrokerUnavailable(
                f"no place for a private broker: {expected}, {found}; XDG_STATE_HOME names another"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BrokerUnavailable(
                f"no place for a private broker: {self.path}: {error.strerror}; XDG_STATE_HOME names another"
            ) from None
        owner = self.path.stat().st_uid
        if owner != os.geteuid():
            raise BrokerUnavailable(f"{self.path} belongs to another user (user id {owner})")
        if any(self.path.iterdir()) and not (self.path / "owner.lock").exists():
            raise BrokerUnavailable(f"{self.path} holds something else than a private broker's data")
        self.path.chmod(0o700)


def _is_usable(path: Path) -> bool:
    """Tell whether RabbitMQ runs on a directory: its scripts put ' around paths, Erlang divides them at :."""
    try:
        return not {"'", ":"}.intersection(str(path).encode().decode())
    except UnicodeEncodeError:  # bytes that Python has as surrogates
        return False


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int, kind: int) -> bool:
    """Lock an open file without waiting; return whether that was possible."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""A private node's files: its state directory, and the settings of RabbitMQ's start script.

password       the AMQP user's password, generated once
address        the URL, while the node is ready
owner.lock     locked by the process that started the node; holds its id
node.lock      locked by the node itself, so that the lock ends with the node
broker.log     the node's log since its start (broker.log.1: since the previous one)
data/          queues and messages
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from taskqueue.errors import AlreadyRunning, BrokerUnavailable
from taskqueue.process.startup import state_home

HOST = "127.0.0.1"
USER = "taskqueue"

# Debian's. The one in /usr/sbin is a wrapper that refuses all users but root and rabbitmq.
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

# The part after @ must resolve, also on a machine without a network. The name is used on this machine only.
NODE = "taskqueue@localhost"

# A workitem on a private node may run for a year before RabbitMQ requeues its delivery.
# The unit is milliseconds: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
CONSUMER_TIMEOUT = "31622400000"

# Erlang prints whole call stacks on one line.
COMPLAINT_LENGTH = 300

_COMPLAINT = re.compile(
    r"\[(?:error|critical)\] <[\d.]+> +(\S.*)|^(\S*:\d+: .*|.*[Ee]rror: .*)", re.MULTILINE
)


def installed_home(server: Path) -> Path:
    """Return the tree (sbin, escript, plugins) of the start script `server`.

    Raises BrokerUnavailable if the script does not exist.
    """
    if not server.exists():
        raise BrokerUnavailable("RabbitMQ is not installed: apt-get install rabbitmq-server")
    return server.resolve().parent.parent


def scripts_dir(server: Path, small_home: Path) -> Path:
    """Return the value for RABBITMQ_SCRIPTS_DIR: that of a new tree at `small_home` if possible.

    Erlang looks for every module in every directory of the tree's plugins. Most of those plugins stay
    disabled; a tree of links to the others saves a third of the start.
    Raises BrokerUnavailable if RabbitMQ is not installed.
    """
    home = installed_home(server)
    applications = {ebin.parent.name.rsplit("-", 1)[0]: ebin.parent for ebin in home.glob("plugins/*/ebin")}
    # RabbitMQ's scripts do not quote this path.
    if "rabbit" not in applications or re.search(r"\s", str(small_home)):
        return home / "sbin"
    shutil.rmtree(small_home, ignore_errors=True)
    (small_home / "plugins").mkdir(parents=True)
    for name in ("sbin", "escript"):
        (small_home / name).symlink_to(home / name)
    for name in _needed(applications):
        (small_home / "plugins" / applications[name].name).symlink_to(applications[name])
    return small_home / "sbin"


def _needed(applications: Mapping[str, Path]) -> set[str]:
    """Return the names of those `applications` that `rabbit` needs, directly or indirectly.

    Other names belong to Erlang's library. The format is https://www.erlang.org/doc/man/app.html's.
    """
    needed: set[str] = set()
    pending = ["rabbit"]
    while pending:
        name = pending.pop()
        if name in applications and name not in needed:
            needed.add(name)
            text = (applications[name] / "ebin" / f"{name}.app").read_text(encoding="utf-8")
            for names in re.findall(r"\w*applications\s*,\s*\[(.*?)\]", text, re.DOTALL):
                pending += re.findall(r"\w+", names)
    return needed


def advanced_config(password: str, settings: Mapping[str, str]) -> str:
    """Return the contents of RABBITMQ_ADVANCED_CONFIG_FILE.

    password: of the only user, which has all permissions.
    settings: additional settings of the application `rabbit`, name to Erlang term.
    The format is https://www.rabbitmq.com/docs/configure#advanced-config-file's.
    """
    terms = {
        "default_user": f'<<"{USER}">>',
        "default_pass": f'<<"{password}">>',
        "loopback_users": "[]",
        "consumer_timeout": CONSUMER_TIMEOUT,
        **settings,
    }
    pairs = ", ".join(f"{{{name}, {term}}}" for name, term in terms.items())
    return f"[{{rabbit, [{pairs}]}}].\n"


def environment(state_dir: Path, scripts: Path, port: int, control_port: int | None) -> dict[str, str]:
    """Return the complete environment of a node with all its files under `state_dir`.

    scripts: the value of scripts_dir().
    port: the AMQP port.
    control_port: the port of Erlang's own protocol; None: none.
    The names are https://www.rabbitmq.com/docs/configure#supported-environment-variables's. Paths of missing
    files replace the files under /etc/rabbitmq, which are the system broker's.
    """
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(state_dir),  # for Erlang's cookie
        "RUNNING_UNDER_SYSTEMD": "true",  # makes the script exec the node instead of watching it
        "RABBITMQ_SCRIPTS_DIR": str(scripts),
        "RABBITMQ_CONF_ENV_FILE": str(state_dir / "none"),
        "RABBITMQ_CONFIG_FILE": str(state_dir / "none.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(state_dir / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(state_dir / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(state_dir / "data"),
        "RABBITMQ_LOG_BASE": str(state_dir),  # for the log of upgrades
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG": "warning",
        "RABBITMQ_NODENAME": NODE,
        "RABBITMQ_NODE_IP_ADDRESS": HOST,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-sname {NODE}",
        "ERL_FLAGS": _erlang_flags(control_port),
        "ERL_CRASH_DUMP_SECONDS": "0",  # a dump of the memory would contain the password
    }


def _erlang_flags(control_port: int | None) -> str:
    """Return flags for every Erlang machine of the node; without them it would start epmd, which stays."""
    if control_port is None:
        # A port must be named, though it is never opened.
        return "-start_epmd false -erl_epmd_port 1 -dist_listen false"
    return f"-start_epmd false -erl_epmd_port {control_port} -kernel inet_dist_use_interface {{127,0,0,1}}"


def complaint(log: str) -> str:
    """Return the line of a node's log with the cause of a failed start: the first error, else the last line.

    A node that refuses the data of a much older RabbitMQ names feature flags as the cause
    (https://www.rabbitmq.com/docs/upgrade#rabbitmq-version-upgradability).
    """
    if "required feature flag not enabled" in log:
        return (
            "the data is of an older RabbitMQ, which this one cannot read: finish what is queued with the "
            "older one, or move the directory away"
        )
    found = _COMPLAINT.search(log)
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["nothing"]
    line = (found[1] or found[2]).strip() if found else lines[-1]
    return line[:COMPLAINT_LENGTH]


def default_state_dir() -> Path:
    """Return the state directory of a user's private broker (XDG base directory specification)."""
    return state_home("a private broker") / "taskqueue" / "broker"


class PrivateState:
    """A state directory; only the process that has claimed it may change its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "broker.log"
        self.address_file = path / "address"
        self._owner_lock: int | None = None

    @property
    def claimed(self) -> bool:
        """Whether this object has claimed the directory."""
        return self._owner_lock is not None

    def claim(self) -> None:
        """Create the directory, readable by its owner only, and claim it for this process.

        Raises AlreadyRunning if another process has claimed it, and BrokerUnavailable if it belongs to
        another user or has other contents.
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
        """Allow other processes to claim the directory."""
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    def lock_for_node(self) -> int | None:
        """Return a new, locked file descriptor for the node to inherit; None while a node holds the lock."""
        lock = _open_lock(self.path / "node.lock")
        if _try_lock(lock, fcntl.LOCK_EX):
            return lock
        os.close(lock)
        return None

    def password(self) -> str:
        """Return the AMQP user's password; the first call generates it."""
        path = self.path / "password"
        if not path.exists():
            self.write("password", secrets.token_hex(16))
        return path.read_text(encoding="ascii")

    def address(self) -> str | None:
        """Return the URL, with password, of a node that is ready, or None."""
        try:
            url = self.address_file.read_text(encoding="ascii")
            lock = os.open(self.path / "node.lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            # A killed node leaves its file behind.
            return None if _try_lock(lock, fcntl.LOCK_SH) else url
        finally:
            os.close(lock)

    def forget_address(self) -> None:
        """Remove the address: no node is ready."""
        self.address_file.unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Write a file atomically, readable by its owner only."""
        new = self.path / f"{name}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        new.replace(self.path / name)

    def keep_old_log(self) -> None:
        """Rename the log; one old log is kept."""
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
    """Return whether RabbitMQ can use a path: its scripts quote paths with ', and Erlang splits them at :."""
    try:
        return not {"'", ":"}.intersection(str(path).encode().decode())
    except UnicodeEncodeError:  # bytes that are not UTF-8; Python has them as surrogates
        return False


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int, kind: int) -> bool:
    """Lock an open file without waiting; return whether that succeeded."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""What RabbitMQ's own start script wants to be told for a node that is private to one user."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from taskqueue.errors import BrokerUnavailable

HOST = "127.0.0.1"
USER = "taskqueue"

# Debian's. The one in /usr/sbin is a wrapper that refuses every user but root and rabbitmq.
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

# The part after @ must resolve, on a machine without a network too. Nobody else sees the name.
NODE = "taskqueue@localhost"

# A private node's workitems may run for a year before RabbitMQ takes them back.
# The unit is milliseconds: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
CONSUMER_TIMEOUT = "31622400000"

# Erlang prints whole call stacks on one line.
COMPLAINT_LENGTH = 300

_COMPLAINT = re.compile(
    r"\[(?:error|critical)\] <[\d.]+> +(\S.*)|^(\S*:\d+: .*|.*[Ee]rror: .*)", re.MULTILINE
)


def installed_home(server: Path) -> Path:
    """Return the tree (sbin, escript, plugins) that the start script `server` belongs to.

    Raises BrokerUnavailable when the script is not there.
    """
    if not server.exists():
        raise BrokerUnavailable("RabbitMQ is not installed: apt-get install rabbitmq-server")
    return server.resolve().parent.parent


def scripts_dir(server: Path, small_home: Path) -> Path:
    """Return the value for RABBITMQ_SCRIPTS_DIR: that of a new tree at `small_home` if possible.

    Erlang looks for every module in every directory of the tree's plugins. Most of those belong to
    plugins that stay disabled; a tree of links to the others saves a third of the start.
    Raises BrokerUnavailable when RabbitMQ is not installed.
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
    """Return the names of those `applications` that `rabbit` needs, directly or not.

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
    """Return a file for RABBITMQ_ADVANCED_CONFIG_FILE.

    password: that of the only user, who may do everything.
    settings: more settings of the application `rabbit`, name to Erlang term.
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
    """Return the whole environment of a node that keeps everything under `state_dir`.

    scripts: as scripts_dir() returned it.
    port: where AMQP is spoken.
    control_port: where Erlang's own protocol is spoken, or None for nowhere.
    The names are https://www.rabbitmq.com/docs/configure#supported-environment-variables's. Files that
    do not exist stand for those under /etc/rabbitmq, which are for the system's broker.
    """
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(state_dir),  # for Erlang's cookie
        "RUNNING_UNDER_SYSTEMD": "true",  # makes the script become the node instead of watching it
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
        "ERL_CRASH_DUMP_SECONDS": "0",  # a dump of the memory would hold the password
    }


def _erlang_flags(control_port: int | None) -> str:
    """Return flags for every Erlang machine of the node, so that none starts epmd, which would stay."""
    if control_port is None:
        # Some port must be named, though it is never opened.
        return "-start_epmd false -erl_epmd_port 1 -dist_listen false"
    return f"-start_epmd false -erl_epmd_port {control_port} -kernel inet_dist_use_interface {{127,0,0,1}}"


def complaint(log: str) -> str:
    """Return the line of a node's log that says why it did not start: the first error, else the last line.

    A node that will not touch the data of a much older RabbitMQ says so in terms of feature flags
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

"""What the commands of the two daemons share: to the background or not, with a log and a pid file."""

import sys
from typing import NoReturn

from taskqueue import logs, startup
from taskqueue.config import LoggingSettings
from taskqueue.daemon import detach, foreground
from taskqueue.keeper import Keeper


def run(
    keeper: Keeper,
    logging: LoggingSettings,
    *,
    stay: bool,
    pidfile: str | None,
    amqp_fd: int | None,
) -> NoReturn:
    """Run a daemon and exit with its status.

    Args:
        keeper: the daemon.
        logging: the section [logging]; what would go to stderr goes to syslog once there is no terminal.
        stay: in the foreground.
        pidfile: the path of the pid file, or None.
        amqp_fd: an open file that must stay open, or None.
    """
    keeper.in_background = not stay
    if words := logs.detour(logging, in_background=not stay):
        startup.complain(f"taskqueue: warning: {words}\n")
    kept = [amqp_fd] if amqp_fd is not None else []
    with foreground(pidfile) if stay else detach(pidfile, kept) as readiness:
        status = keeper.run(readiness)
    sys.exit(status)

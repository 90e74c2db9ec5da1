"""What the commands of the two daemons share: to the background or not, with a log and a pid file."""

import sys
from dataclasses import replace
from typing import NoReturn

from taskqueue import logs
from taskqueue.config import LoggingSettings
from taskqueue.daemon import detach, foreground
from taskqueue.keeper import Keeper


def run(
    keeper: Keeper,
    name: str,
    logging: LoggingSettings,
    *,
    stay: bool,
    pidfile: str | None,
    amqp_fd: int | None,
) -> NoReturn:
    """Run a daemon and exit with its status.

    Args:
        keeper: the daemon.
        name: what it is called in the log.
        logging: the section [logging]; what would go to stderr goes to syslog once there is no terminal.
        stay: in the foreground.
        pidfile: the path of the pid file, or None.
        amqp_fd: an open file that must stay open, or None.
    """
    if not stay and logging.destination == "stderr":
        logging = replace(logging, destination="syslog")
    logs.set_up(logging, name)  # fails where the user still sees it
    if not stay:
        logs.close()
    kept = [amqp_fd] if amqp_fd is not None else []
    with foreground(pidfile) if stay else detach(pidfile, kept) as readiness:
        logs.set_up(logging, name)
        status = keeper.run(readiness)
    sys.exit(status)

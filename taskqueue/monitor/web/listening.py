"""The sockets of the web process, which a daemon opens before it gives up root."""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from tornado.netutil import bind_sockets

from taskqueue.errors import ExitStatus, TaskqueueError

_PROXY_MODE: Final = 0o660
_BACKLOG: Final = 128


class CannotListen(TaskqueueError):
    """The address of the web process is in use, or not this machine's."""

    status = ExitStatus.SYSTEM


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen. Raises CannotListen."""
    try:
        return bind_sockets(port, host)
    except OSError as error:
        reason = str(error.strerror or error)
        advice = "; set another one by listen in [monitor]" if error.errno == errno.EADDRINUSE else ""
        raise CannotListen(f"cannot listen on {host}, port {port}: {reason}{advice}") from None


def listen_for_proxy(path: str) -> socket.socket:
    """Return a Unix socket that listens. Made by root, it has the group of its directory.

    Raises CannotListen, as where another process listens; what a killed one has left is replaced.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_old(path)
        listening.bind(path)
        if os.geteuid() == 0:
            os.chown(path, -1, Path(path).parent.stat().st_gid)
        Path(path).chmod(_PROXY_MODE)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        reason = error.strerror or error
        raise CannotListen(f"cannot listen on {path}, proxy_socket of [monitor]: {reason}") from None
    return listening


def _remove_old(path: str) -> None:
    """Remove the socket of a killed process. Raises OSError for another file, and for a socket in use."""
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise OSError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as sock:
        if sock.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, "another process listens there")
    Path(path).unlink()

"""The owner of the socket at the other end of a loopback port, from the kernel (proc(5), /proc/net/tcp)."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_LISTEN: Final = "0A"  # TCP_LISTEN of the kernel's net/tcp_states.h

#: Addresses that serve 127.0.0.1: itself, and the wildcard addresses, with IPv4 and with IPv6.
_SERVING: Final = ("127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1")  # noqa: S104 -- compared, not bound


class Opened(NamedTuple):
    """A socket with the user who opened it."""

    uid: int
    inode: int  # 0: no process holds it any more, or none yet

    def is_held_in(self, session: int) -> bool:
        """Tell whether a process of a session (setsid(2)) holds it; only for the session's user or root."""
        return any(f"socket:[{self.inode}]" in _open_files(pid) for pid in _processes(session))


class _Row(NamedTuple):
    local: str
    remote: str
    state: str
    opened: Opened


def listener_at(port: int) -> Opened | None:
    """Return the socket that listens at 127.0.0.1 and a port; None if there is none."""
    serving = {f"{_hexadecimal(address)}:{port:04X}" for address in _SERVING}
    rows = (*_rows("tcp"), *_rows("tcp6"))
    return next((row.opened for row in rows if row.state == _LISTEN and row.local in serving), None)


def other_end(connection: socket.socket) -> Opened | None:
    """Return the socket at the other end of a connection on this machine; None if the kernel shows none.

    It is the connection's own peer, and not the present listener, which may have changed in between.
    """
    if connection.family != socket.AF_INET:
        return None
    ours, theirs = (
        f"{_hexadecimal(host)}:{port:04X}"
        for host, port in (connection.getsockname(), connection.getpeername())
    )
    return next((row.opened for row in _rows("tcp") if (row.local, row.remote) == (theirs, ours)), None)


def _rows(table: str) -> Iterator[_Row]:
    """Yield the sockets in a table of the kernel's; none if the table is missing."""
    with contextlib.suppress(FileNotFoundError), Path("/proc/net", table).open() as lines:
        next(lines)
        for line in lines:
            _, local, remote, state, _, _, _, uid, _, inode, *_ = line.split()
            yield _Row(local, remote, state, Opened(int(uid), int(inode)))


def _hexadecimal(address: str) -> str:
    """Return an address in the tables' format: words of 32 bits, each in the machine's byte order."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _processes(session: int) -> Iterator[int]:
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # the process ended
            if path.name.isdigit() and os.getsid(int(path.name)) == session:
                yield int(path.name)


def _open_files(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):  # the process ended, or belongs to another user
        for link in Path(f"/proc/{pid}/fd").iterdir():
            yield str(link.readlink())

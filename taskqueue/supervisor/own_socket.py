"""The socket on which root commands the pool of a host that has no control key.

The supervisor serves it itself: only root can connect, or whoever runs the pool.
"""

import math
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from taskqueue.consumer import control
from taskqueue.control.directives import Directives
from taskqueue.messages.results import HOST
from taskqueue.process.children import Exit
from taskqueue.process.logs import Log
from taskqueue.supervisor.obeying import Obeying

_MOST_CONNECTIONS: Final = 8
_PEER: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class OwnSocket:
    """Takes commands of this host alone; pauses and drains last until the pool ends."""

    name = "commands"
    state = "taken from this host"
    failure = ""
    main_pid = 0
    pids: list[int] = []  # noqa: RUF012 -- never any

    def __init__(self, path: Path, obeying: Obeying) -> None:
        """Prepare to `listen`.

        path -- of the socket
        obeying -- does what the commands say
        """
        self.path, self.is_draining = path, False
        self._obeying = obeying
        self._directives = Directives(hosts={HOST: time.time()})
        self._listening: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._log = Log("supervisor")

    def listen(self) -> None:
        """Make the socket; log the reason if that cannot be: the pool works without."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)  # nobody else may connect, from the first moment on
        try:
            self.path.parent.mkdir(mode=0o755, exist_ok=True)
            if not self._is_served():
                self.path.unlink(missing_ok=True)  # of a pool that was killed
            listening.bind(str(self.path))
            listening.listen(_MOST_CONNECTIONS)
        except OSError as error:
            listening.close()
            reason = error.strerror or str(error)
            self._log.warning("no commands are taken on socket %s: %s", self.path, reason)
        else:
            self._listening = listening
        finally:
            os.umask(before)

    def _is_served(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            try:
                probe.connect(str(self.path))
            except OSError:
                return False
        return True

    def converge(self) -> None:
        """End what is over, and go on with a roll."""
        if not self.is_draining and list(self._obeying.orders.paused) != self._paused():
            self._obey()
        self._obeying.advance()

    def due(self) -> Iterator[float]:
        """Yield when a pause ends, and when a roll goes on."""
        now = time.time()
        end = self._directives.next_end(now)
        yield math.inf if end is None else time.monotonic() + max(0.0, end - now)
        if (due := self._obeying.due()) is not None:
            yield due

    def drain(self) -> None:
        """Take no more commands."""
        if self.is_draining:
            return
        self.is_draining = True
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            self.path.unlink(missing_ok=True)
        for each in tuple(self._open):
            self._close(each)

    def kill(self) -> None:
        """Take no more commands."""
        self.drain()

    def reload(self) -> None:
        """Go on."""

    def reap(self, _end: Exit) -> bool:
        """Return that the process was not of this member."""
        return False

    def files(self) -> Sequence[socket.socket]:
        """Return the sockets."""
        return [*([] if self._listening is None else [self._listening]), *self._open]

    def receive(self) -> None:
        """Receive commands."""
        self._accept()
        for each in tuple(self._open):
            try:
                while message := control.receive(each):
                    self._act_on(each, message.word, message.content)
            except EOFError:
                self._close(each)
            except (ValueError, KeyError, TypeError) as error:
                self._log.error("socket %s received an invalid message: %r", self.path, error)
                self._close(each)

    def _accept(self) -> None:
        while self._listening is not None:
            try:
                peer = self._listening.accept()[0]
            except OSError:
                return
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            _, user, _ = _PEER.unpack(credentials)
            if user not in (0, os.geteuid()) or len(self._open) >= _MOST_CONNECTIONS:
                peer.close()
                continue
            peer.setblocking(False)
            self._open.append(peer)

    def _act_on(self, peer: socket.socket, word: str, content: dict[str, Any]) -> None:
        if word == "directives":
            document = Directives.of_json(content["document"])
            if document.sequence == self._directives.sequence + 1:  # else somebody else was faster
                self._directives = document
                self._obey()
            return
        tell = partial(self._tell, peer)
        if word == "describe":
            orders = {"paused": self._paused(), "drained": self._is_drained, "sizes": {}}
            tell(
                "standing", number=int(content["number"]), register=self._directives.as_json(), orders=orders
            )
        if word in ("scale", "roll", "describe"):
            self._obeying.act_on(word, content, tell)

    def _paused(self) -> list[str]:
        return self._directives.paused(time.time())

    @property
    def _is_drained(self) -> bool:
        return HOST in self._directives.drained

    def _obey(self) -> None:
        self._obeying.obey(self._paused(), is_drained=self._is_drained)

    def described(self, content: dict[str, Any]) -> None:
        """Pass on what a consumer says of its workers."""
        for each in tuple(self._open):
            self._tell(each, "described", **content)

    def _tell(self, peer: socket.socket, word: str, **content: Any) -> None:
        """Send a message; drop who does not read."""
        if peer in self._open and not control.send(peer, word, **content):
            self._close(peer)

    def _close(self, peer: socket.socket) -> None:
        if peer in self._open:
            self._open.remove(peer)
            peer.close()

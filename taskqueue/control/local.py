"""Commands to the pool of this host alone, over its socket: for a host that has no control key."""

import secrets
import socket
from pathlib import Path
from typing import Any

from taskqueue.broker.loop import EventLoop
from taskqueue.consumer import control
from taskqueue.control.answers import Answers
from taskqueue.control.controller import ROLL, SCALE
from taskqueue.control.register import Change
from taskqueue.control.survey import Survey
from taskqueue.errors import CommandRefused, ConfigError, NoPool
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.results import HOST

_Message = tuple[str, dict[str, Any]]


class LocalCommand:
    """One command, as `Command` is one to all pools."""

    def __init__(self, path: Path, timeout: float) -> None:
        """Prepare to `ask` or to `change`.

        path -- of the pool's socket
        timeout -- seconds to wait for the answer
        """
        self._path, self._timeout = path, timeout
        self._number = secrets.randbelow(2**31)  # tells the answers apart from those to others
        self.id = new_id()

    def ask(self, **content: Any) -> Answers:
        """Send a command to the pool; return its answer.

        content -- of the command; without any, it asks what the pool does

        Raises:
            CommandRefused: it is for another host.
            ConfigError: there is no socket, or this user may not use it.
            NoPool: the pool does not answer.
        """
        if content.get("host", "") not in ("", HOST):
            raise CommandRefused(f"without a control key, commands are for this host alone, which is {HOST}")
        return self._exchange(_messages(self.id, self._number, content))

    def change(self, change: Change) -> Answers:
        """Change the pauses and whether the host is drained, until the pool ends; see `ask`.

        change -- returns the new directives

        Raises CommandRefused also by `change`, or for a number of workers that is to be kept.
        """
        found = self.ask().standing
        changed = change(found)
        if changed.sizes != found.sizes:
            raise CommandRefused("without a control key no number of workers is kept: leave --keep out")
        if changed == found:
            return self.ask()
        return self._exchange([("directives", {"document": changed.next_document().as_json()})])

    def _exchange(self, messages: list[_Message]) -> Answers:
        loop = EventLoop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(self._timeout)
            try:
                sock.connect(str(self._path))
            except OSError as error:
                reason = f"socket {self._path} of this host's pool: {error.strerror or error}"
                hint = "`taskqueue control key` makes one"
                raise ConfigError([f"no control key ({hint}), and {reason}"]) from None
            sock.setblocking(False)
            for word, content in (*messages, ("describe", {"number": self._number})):
                control.send(sock, word, **content)
            asking = _Asking(loop, sock, self._number)
            loop.watch(sock, asking.read)
            silent = NoPool(f"the pool at socket {self._path} does not answer within {self._timeout:g} s")
            loop.call_later(self._timeout, lambda: loop.fail(silent))
            try:
                loop.run()
            finally:
                loop.close()
        return Answers([asking.answer])


class _Asking:
    """Collects the answer."""

    def __init__(self, loop: EventLoop, sock: socket.socket, number: int) -> None:
        self.answer: dict[str, Any] = {"host": HOST}
        self._loop, self._sock, self._number = loop, sock, number
        self._survey: Survey | None = None  # begins with the first answer: a pool may be busy before

    def read(self) -> None:
        """Take the messages that have come."""
        try:
            while message := control.receive(self._sock):
                if message.content.get("number") == self._number:
                    self._take(message.word, message.content)
        except EOFError:
            self._loop.fail(NoPool("the pool has ended"))

    def _take(self, word: str, content: dict[str, Any]) -> None:
        if self._survey is None:
            self._survey = Survey(self._loop, self._end)
        if word == "standing":
            self.answer |= {"register": content["register"], "orders": content["orders"]}
        else:
            self._survey.take(word, content)

    def _end(self, groups: list[dict[str, Any]]) -> None:
        if self._survey is not None:
            self.answer |= {"groups": groups, "faults": self._survey.faults, "roll": self._survey.roll}
        self._loop.stop()


def _messages(id_: str, number: int, content: dict[str, Any]) -> list[_Message]:
    """Return what the pool is told, as its controller would tell it."""
    if content.get("verb") == SCALE:
        size = None if content["workers"] is None else [content["workers"], True]
        return [(SCALE, {"number": number, "name": content["name"], "size": size})]
    if content.get("verb") == ROLL:
        return [(ROLL, {"number": number, "name": content["name"], "id": id_})]
    return []

"""The recorder's socket for actions: requests of the web process, their answers, and the audit."""

import contextlib
import json
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from taskqueue.broker.loop import ActionQueue, EventLoop
from taskqueue.deadletters import DeadLetter
from taskqueue.errors import TaskqueueError
from taskqueue.monitor.actions import Actor, Performed, Request
from taskqueue.monitor.asking import KINDS, LONGEST_LINE, ActionFailed
from taskqueue.monitor.letters import fields_of
from taskqueue.monitor.record import Action
from taskqueue.monitor.store.item import Key
from taskqueue.monitor.web.accounts import CHANGES, AccountRequest, account_request_of
from taskqueue.monitor.web.api import ActionRequest, action_of
from taskqueue.monitor.web.bodies import BODY_ACTIONS, BodyRequest
from taskqueue.monitor.web.parameters import BadRequest, json_of
from taskqueue.monitor.web.pools import PoolRequest
from taskqueue.monitor.web.requests import VerbRequest
from taskqueue.monitor.web.schedules import ScheduleRequest
from taskqueue.monitor.web.workflows import WorkflowRequest
from taskqueue.process.logs import Log
from taskqueue.texts import counted

_MOST_CONNECTIONS: Final = 32
_MODE: Final = 0o660  # the web process's user is in the group of the directory


@dataclass(slots=True, eq=False)
class _Connection:
    """A connection of the web process: one request, one answer."""

    sock: socket.socket
    received: bytearray
    is_asked: bool = False
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))  # of the answer


class ActionServer:
    """Answers requests on the recorder's loop; an action runs in a thread, one after the other."""

    def __init__(
        self,
        loop: EventLoop,
        path: Path,
        actor: Actor,
        *,
        write_audit: Callable[[Action], None],
        keep_cancels: Callable[[Collection[Key], float], None],
    ) -> None:
        """Listen at a path.

        loop -- the recorder's
        actor -- performs the actions
        write_audit -- writes a row of the audit; it is called in the loop's thread
        keep_cancels -- keeps the cancels of workitems, broadcast since a time (monotonic); called there, too

        Raises ActionFailed if the socket cannot be made.
        """
        self._loop = loop
        self._path = path
        self._actor = actor
        self._write_audit, self._keep_cancels = write_audit, keep_cancels
        self._log = Log("monitor")
        self._open: set[_Connection] = set()
        self._thread = ThreadPoolExecutor(1, "actions")
        # Requests that do not wait for actions, which take long, or for one another.
        self._others: dict[type, ThreadPoolExecutor] = {
            ScheduleRequest: ThreadPoolExecutor(1, "schedules"),
            PoolRequest: ThreadPoolExecutor(1, "pools"),
            WorkflowRequest: ThreadPoolExecutor(1, "workflows"),
        }
        self._done = ActionQueue()
        self._listening = self._listen()
        loop.watch(self._done, self._done.run_all)
        loop.watch(self._listening, self._accept)

    def _listen(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._path.unlink(missing_ok=True)  # of a recorder that was killed
            listening.bind(str(self._path))
            self._path.chmod(_MODE)
            listening.listen(_MOST_CONNECTIONS)
        except OSError as error:
            listening.close()
            raise ActionFailed(f"socket {self._path}: {error.strerror or error}") from None
        return listening

    def close(self) -> None:
        """Stop listening, and wait for the action that runs."""
        self._loop.unwatch(self._listening)
        self._listening.close()
        self._path.unlink(missing_ok=True)
        for thread in (self._thread, *self._others.values()):
            thread.shutdown(cancel_futures=True)
        self._done.empty()
        self._loop.unwatch(self._done)
        self._done.close()
        for connection in tuple(self._open):
            self._drop(connection)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            sock = self._listening.accept()[0]
            if len(self._open) >= _MOST_CONNECTIONS:
                sock.close()
                return
            sock.setblocking(False)
            connection = _Connection(sock, bytearray())
            self._open.add(connection)
            self._loop.watch(sock, lambda: self._receive(connection))

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.received += data
        if not data or connection.is_asked or len(connection.received) > LONGEST_LINE:
            self._drop(connection)
        elif b"\n" in data:
            connection.is_asked = True
            self._begin(connection, bytes(connection.received).partition(b"\n")[0])

    def _begin(self, connection: _Connection, line: bytes) -> None:
        try:
            user, request = _read(line)
        except TaskqueueError as error:
            self._answer(connection, "", None, {"kind": _kind(error), "error": str(error)})
            return
        self._others.get(type(request), self._thread).submit(self._perform, connection, user, request)

    def _drop(self, connection: _Connection) -> None:
        if connection in self._open:
            self._open.remove(connection)
            self._loop.unwatch(connection.sock)
            connection.sock.close()

    # --- in the thread ---

    def _perform(self, connection: _Connection, user: str, request: Request) -> None:
        performed, began = Performed(0), time.monotonic()
        try:
            performed = self._actor.perform(user, request)
            answer: dict[str, Any] = {"count": performed.count, **_plain(performed.letter), **performed.told}
        except TaskqueueError as error:
            answer = {"kind": _kind(error), "error": str(error)}
        except Exception:  # noqa: BLE001 -- the last line of the thread: its bug must not leave the caller waiting
            self._log.critical("a bug of ours", exc_info=True)
            answer = {"kind": "failed", "error": "a bug of taskqueue; the monitor's log has the traceback"}
        if performed.cancelled:
            self._done.put(lambda: self._keep_cancels(performed.cancelled, began))
        self._done.put(lambda: self._answer(connection, user, request, answer))

    # --- on the loop ---

    def _answer(
        self, connection: _Connection, user: str, request: Request | None, answer: dict[str, Any]
    ) -> None:
        if request is not None and not request.dry_run:
            self._record(user, request, answer)
        if connection in self._open:
            connection.unsent = memoryview(json.dumps(answer).encode() + b"\n")
            self._loop.unwatch(connection.sock)
            send = partial(self._send, connection)
            self._loop.watch(connection.sock, lambda: self._receive(connection), send)

    def _send(self, connection: _Connection) -> None:
        """Send what the socket has room for; drop the connection after the end, or if nobody reads it."""
        if connection not in self._open:
            return
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(connection.unsent)
        connection.unsent = connection.unsent[sent:]
        if not connection.unsent:
            self._drop(connection)

    def _record(self, user: str, request: Request, answer: dict[str, Any]) -> None:
        """Write the audit; what failed is in it, too, as it may be done in part."""
        done, about = _told(request)
        failure = str(answer.get("error") or " ".join(answer.get("complaints", ())))
        action = f"{done}: {failure}" if failure else done
        count = int(answer.get("count", 0))
        try:
            self._write_audit(Action(time.time(), user, action, about, count))
        except TaskqueueError as error:  # as on a full disk; what is done is done, and the log has it
            self._log.error("the audit lacks what follows: %s", error)
        is_of_workitems = isinstance(request, ActionRequest | BodyRequest)
        number = f", {counted(count, 'workitem')}" if is_of_workitems else ""
        self._log.info("user %s: %s%s", user, action, number)


def _told(request: Request) -> tuple[str, str]:
    """Return what the audit says of a request: the action, and what it is about as JSON."""
    if isinstance(request, AccountRequest):
        return request.audit_action, request.about
    if isinstance(request, BodyRequest | VerbRequest):
        return request.action, request.about
    chosen = request.about if request.wanted is None else json_of(request.wanted)
    return request.action, json.dumps(chosen)


def _plain(letter: DeadLetter | None) -> dict[str, Any]:
    if letter is None:
        return {}
    kind = letter.properties.content_type or ""
    return {"body": b64encode(letter.body).decode(), "content_type": kind, "fields": fields_of(letter)}


def _read(line: bytes) -> tuple[str, Request]:
    try:
        content = json.loads(line)
        user, action = content.pop("user"), content.pop("action")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise BadRequest("expected a JSON object with user and action") from None
    if not isinstance(user, str) or not isinstance(action, str):
        raise BadRequest("user and action: expected texts")
    if action in CHANGES:
        return user, account_request_of(action, content)
    if action in BODY_ACTIONS:
        return user, BodyRequest.of(action, content)
    for kind in (ScheduleRequest, PoolRequest, WorkflowRequest):
        if kind.is_action(action):
            return user, kind.of_action(action, content)
    return user, action_of(action, content)


def _kind(error: TaskqueueError) -> str:
    return next((name for name, kind in KINDS.items() if isinstance(error, kind)), "failed")

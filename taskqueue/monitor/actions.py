"""The recorder's side of actions: requests over a Unix socket, the right checked again, the audit written.

The web process has no AMQP password and cannot write the record, so it asks here (`asking.py`).
"""

import contextlib
import json
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from taskqueue import deadletters
from taskqueue.broker.loop import ActionQueue, EventLoop
from taskqueue.broker.topology import FAILED_QUEUE, REJECTED_QUEUE
from taskqueue.config import AmqpSettings
from taskqueue.deadletters import DeadLetter
from taskqueue.errors import TaskqueueError
from taskqueue.messages.recording import tenant_and_labels
from taskqueue.monitor import scheduling
from taskqueue.monitor.asking import KINDS, LONGEST_LINE, ActionFailed
from taskqueue.monitor.cancelling import cancel
from taskqueue.monitor.letters import fields_of, read_letter, retry_with
from taskqueue.monitor.record import Action, Filter
from taskqueue.monitor.store.cancels import broadcast_name
from taskqueue.monitor.store.item import Key
from taskqueue.monitor.store.names import OTHERS
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.web import accounts
from taskqueue.monitor.web.accounts import CHANGES, AccountRequest, account_request_of
from taskqueue.monitor.web.api import ACTION_ROLE, CONCERNED, ActionRequest, action_of
from taskqueue.monitor.web.bodies import BODY_ACTIONS, READ, BodyRequest
from taskqueue.monitor.web.parameters import BadRequest, json_of
from taskqueue.monitor.web.rights import NoRight, Rights
from taskqueue.monitor.web.schedules import ScheduleRequest
from taskqueue.monitor.web.users import UserFile
from taskqueue.monitor.web.view import View
from taskqueue.process.logs import Log
from taskqueue.texts import counted

MOST_AT_ONCE: Final = 100_000  # workitems of one action
_PAGE: Final = 1000
_MOST_CONNECTIONS: Final = 32
_MODE: Final = 0o660  # the web process's user is in the group of the directory

_Request = ActionRequest | AccountRequest | BodyRequest | ScheduleRequest


@dataclass(frozen=True, slots=True)
class Performed:
    """The outcome of an action."""

    count: int  # workitems
    cancelled: frozenset[Key] = frozenset()  # the tenants and ids of those
    letter: DeadLetter | None = None  # whose body was asked for
    told: dict[str, Any] = field(default_factory=dict)  # further members of the answer


class Actor:
    """Performs actions, blocking, in one thread, as far as the user's rights and the record go."""

    def __init__(
        self,
        directory: Path,
        users: UserFile,
        own: Rights | None,
        amqp: Callable[[], AmqpSettings],
        url: str | None = None,
    ) -> None:
        """Open nothing yet.

        directory -- of the record
        url -- of its PostgreSQL database; None: the directory has it
        users -- the file of users, read for each action
        own -- rights of the token that `taskqueue up` has made
        amqp -- returns the broker's address
        """
        self._directory, self._url = directory, url
        self._users = users
        self._own = own
        self._amqp = amqp
        self._record: Record | None = None

    def perform(self, user: str, request: _Request) -> Performed:
        """Perform an action, or count what it concerns; change the users, read a body, act on schedules.

        Raises NoRight, BadRequest, ActionFailed, or another TaskqueueError of the broker or the record.
        """
        rights = self._rights(user)
        if isinstance(request, AccountRequest):
            accounts.change(self._users, rights, request)
            return Performed(0)
        if isinstance(request, ScheduleRequest):
            told = scheduling.perform(self._amqp(), rights, request)
            return Performed(told["count"], told=told)
        rights.need(ACTION_ROLE)
        if self._record is None:
            self._record = Record(self._directory, self._url)
        view = View(self._record, rights)
        if isinstance(request, BodyRequest):
            return self._edit(view, request)
        if request.wanted is not None and request.dry_run:
            chosen = _concerned(request.action, request.wanted)
            return Performed(view.count(chosen) if chosen is not None else 0)
        keys = frozenset(_keys(view, request))
        if request.dry_run or not keys:
            return Performed(len(keys))
        return self._act(request.action, keys, rights)

    def _rights(self, user: str) -> Rights:
        if self._own is not None and user == self._own.user:
            return self._own
        account = self._users.read().by_name.get(user)
        if account is None:
            raise NoRight(f"there is no user {user[:80]!r}")
        return account.rights

    def _edit(self, view: View, request: BodyRequest) -> Performed:
        view.rights.need_bodies()
        found = view.find(request.id, request.tenant)
        if found is None or found.workitem.state not in CONCERNED["retry"]:
            raise BadRequest("there is no failed or rejected workitem of this id")
        wanted = partial(_is_meant, frozenset(((found.workitem.tenant, request.id),)), view.rights)
        if request.action == READ:
            return Performed(1, letter=read_letter(self._amqp(), wanted))
        return Performed(retry_with(self._amqp(), wanted, request.body))

    def _act(self, action: str, keys: frozenset[Key], rights: Rights) -> Performed:
        amqp = self._amqp()
        if action == "cancel":
            return Performed(cancel(amqp, map(broadcast_name, sorted(keys))), keys)
        act = deadletters.retry if action == "retry" else deadletters.purge
        places = (FAILED_QUEUE, REJECTED_QUEUE)
        return Performed(sum(act(amqp, place, partial(_is_meant, keys, rights)) for place in places))


def _is_meant(keys: frozenset[Key], rights: Rights, letter: DeadLetter) -> bool:
    """Whether a letter is one of the workitems; a letter of another tenant or type may have the same id."""
    tenant, _ = tenant_and_labels(letter.properties)
    if not {(tenant, letter.id), (OTHERS, letter.id)} & keys:
        return False
    return not rights.is_limited or rights.sees(letter.worker_type, tenant)


def _concerned(action: str, wanted: Filter) -> Filter | None:
    """Return a filter that selects only workitems that an action concerns; None if that is nothing."""
    states = CONCERNED[action] & wanted.states if wanted.states else CONCERNED[action]
    return replace(wanted, states=states) if states else None


def _keys(view: View, request: ActionRequest) -> Iterator[Key]:
    """Yield tenants and ids of the workitems that the user sees and the action concerns."""
    if request.wanted is None:
        for id_ in request.ids:
            found = view.find(id_, request.tenant)
            if found is not None and found.workitem.state in CONCERNED[request.action]:
                yield found.workitem.tenant, id_
        return
    chosen = _concerned(request.action, request.wanted)
    cursor: str | None = None
    count = 0
    while chosen is not None:
        page = view.page(chosen, cursor, _PAGE)
        count += len(page.workitems)
        if count > MOST_AT_ONCE:
            raise BadRequest(f"filter: it selects more than {MOST_AT_ONCE} workitems; narrow it")
        yield from ((each.tenant, each.id) for each in page.workitems)
        cursor = page.next
        if cursor is None:
            return


# --- the socket ---


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
        self._scheduling = ThreadPoolExecutor(1, "schedules")  # they do not wait for actions, which take long
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
        for thread in (self._thread, self._scheduling):
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
        thread = self._scheduling if isinstance(request, ScheduleRequest) else self._thread
        thread.submit(self._perform, connection, user, request)

    def _drop(self, connection: _Connection) -> None:
        if connection in self._open:
            self._open.remove(connection)
            self._loop.unwatch(connection.sock)
            connection.sock.close()

    # --- in the thread ---

    def _perform(self, connection: _Connection, user: str, request: _Request) -> None:
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
        self, connection: _Connection, user: str, request: _Request | None, answer: dict[str, Any]
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

    def _record(self, user: str, request: _Request, answer: dict[str, Any]) -> None:
        """Write the audit; what failed is in it, too, as it may be done in part."""
        done, about = _told(request)
        failure = str(answer.get("error", ""))
        action = f"{done}: {failure}" if failure else done
        count = int(answer.get("count", 0))
        try:
            self._write_audit(Action(time.time(), user, action, about, count))
        except TaskqueueError as error:  # as on a full disk; what is done is done, and the log has it
            self._log.error("the audit lacks what follows: %s", error)
        is_of_workitems = isinstance(request, ActionRequest | BodyRequest)
        number = f", {counted(count, 'workitem')}" if is_of_workitems else ""
        self._log.info("user %s: %s%s", user, action, number)


def _told(request: _Request) -> tuple[str, str]:
    """Return what the audit says of a request: the action, and what it is about as JSON."""
    if isinstance(request, AccountRequest):
        return request.audit_action, request.about
    if isinstance(request, BodyRequest | ScheduleRequest):
        return request.action, request.about
    chosen = request.about if request.wanted is None else json_of(request.wanted)
    return request.action, json.dumps(chosen)


def _plain(letter: DeadLetter | None) -> dict[str, Any]:
    if letter is None:
        return {}
    kind = letter.properties.content_type or ""
    return {"body": b64encode(letter.body).decode(), "content_type": kind, "fields": fields_of(letter)}


def _read(line: bytes) -> tuple[str, _Request]:
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
    if ScheduleRequest.is_action(action):
        return user, ScheduleRequest.of(action, content)
    return user, action_of(action, content)


def _kind(error: TaskqueueError) -> str:
    return next((name for name, kind in KINDS.items() if isinstance(error, kind)), "failed")

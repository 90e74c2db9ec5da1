"""The recorder's side of actions: the right is checked again, then the action is performed.

The web process has no AMQP password and cannot write the record, so it asks here (`asking.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from taskqueue import deadletters
from taskqueue.broker.topology import FAILED_QUEUE, REJECTED_QUEUE
from taskqueue.config import AmqpSettings
from taskqueue.deadletters import DeadLetter
from taskqueue.messages.recording import tenant_and_labels
from taskqueue.monitor import commanding, flows, scheduling
from taskqueue.monitor.cancelling import cancel
from taskqueue.monitor.letters import read_letter, retry_with
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.cancels import broadcast_name
from taskqueue.monitor.store.item import Key
from taskqueue.monitor.store.names import OTHERS
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.web import accounts
from taskqueue.monitor.web.accounts import AccountRequest
from taskqueue.monitor.web.api import ACTION_ROLE, CONCERNED, ActionRequest
from taskqueue.monitor.web.bodies import READ, BodyRequest
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.pools import PoolRequest
from taskqueue.monitor.web.rights import NoRight, Rights
from taskqueue.monitor.web.schedules import ScheduleRequest
from taskqueue.monitor.web.users import UserFile
from taskqueue.monitor.web.view import View
from taskqueue.monitor.web.workflows import WorkflowRequest

MOST_AT_ONCE: Final = 100_000  # workitems of one action
_PAGE: Final = 1000

#: What the web process may ask.
Request = ActionRequest | AccountRequest | BodyRequest | ScheduleRequest | PoolRequest | WorkflowRequest


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
        *,
        control_key: str | None = None,
    ) -> None:
        """Open nothing yet.

        directory -- of the record
        url -- of its PostgreSQL database; None: the directory has it
        users -- the file of users, read for each action
        own -- rights of the token that `taskqueue up` has made
        amqp -- returns the broker's address
        control_key -- the file with the key that signs commands to pools; None: there are none
        """
        self._directory, self._url = directory, url
        self._users = users
        self._own = own
        self._amqp = amqp
        self._control_key = control_key
        self._record: Record | None = None

    def perform(self, user: str, request: Request) -> Performed:
        """Perform an action, or count what it concerns; change users, read a body, ask another daemon.

        Raises NoRight, BadRequest, ActionFailed, or another TaskqueueError of the broker or the record.
        """
        rights = self._rights(user)
        if isinstance(request, AccountRequest):
            accounts.change(self._users, rights, request)
            return Performed(0)
        if isinstance(request, ScheduleRequest):
            told = scheduling.perform(self._amqp(), rights, request)
            return Performed(told["count"], told=told)
        if isinstance(request, WorkflowRequest):
            told = flows.perform(self._amqp(), rights, request)
            return Performed(told["count"], told=told)
        if isinstance(request, PoolRequest):
            return Performed(0, told=commanding.perform(self._amqp(), self._control_key, rights, request))
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

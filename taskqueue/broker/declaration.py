"""Queue declarations: a passive one first, and an active one only if the queue is missing."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import Queue, declared_arguments

_SETTLED: Final = 1.0  # seconds; a SIGKILL of the broker makes a younger quorum queue unusable
#: Reply codes of AMQP 0-9-1 (section 1.1), as a declaration treats them.
_REFUSALS: Final = {403: "forbidden", 404: "missing", 406: "other"}


def always_allowed(_queue: str) -> str:
    """Allow every queue to be declared."""
    return ""


class Declaration:
    """Declares one queue, and the exchange of the same name if it has one.

    Each is declared passively first: a queue with other arguments is used as it is, and an existing one needs
    no configure permission. Only a missing one is declared. A new quorum queue counts as declared one second
    later: RabbitMQ 3.10 and 4.0 answer before the queue survives a SIGKILL of the broker.
    """

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        queue: Queue,
        *,
        done: Callable[[], None],
        failed: Callable[[str], None],
        may_declare: Callable[[str], str] = always_allowed,
    ) -> None:
        """Begin; `done` or `failed` (with the reason) is called once, or neither if the session is lost.

        may_declare -- returns why a queue of that name must not be declared; "" if it may
        """
        self._loop = loop
        self._session = session
        self._queue = queue
        self._done = done
        self._failed = failed
        self._may_declare = may_declare
        self.is_new = False  # whether the queue was missing
        self._falls_back = False  # whether it is declared with its other arguments
        self._log = logging.getLogger(__name__)
        self._find_exchange() if queue.has_exchange else self._find_queue()

    def _ask(
        self,
        request: Callable[[Any, Callable[[Any], None]], Any],
        answered: Callable[[], None],
        **refused: Callable[[], None],
    ) -> None:
        """Send a request; the refusals named in `refused` have their own callback, others are a failure."""

        def refuse(code: int, text: str) -> None:
            act = refused.get(_REFUSALS.get(code, ""))
            if act is None:
                self._failed(text)
            else:
                act()

        self._session.errands.run(request, lambda _frame: answered(), refuse)

    # --- the exchange ---

    def _find_exchange(self) -> None:
        self._ask(
            lambda channel, answered: channel.exchange_declare(
                self._queue.name, passive=True, callback=answered
            ),
            self._find_queue,
            missing=self._make_exchange,
        )

    def _make_exchange(self) -> None:
        self._ask(
            lambda channel, answered: channel.exchange_declare(
                self._queue.name, "fanout", durable=True, callback=answered
            ),
            self._find_queue,
        )

    def _bind(self) -> None:
        """Bind the queue. Without the permission, an existing queue counts as bound by its creator."""
        self._ask(
            lambda channel, answered: channel.queue_bind(
                self._queue.name, self._queue.name, callback=answered
            ),
            self._finish,
            forbidden=self._failed_to_bind if self.is_new else self._finish,
        )

    def _failed_to_bind(self) -> None:
        self._failed(f"ACCESS_REFUSED - it cannot be bound to the exchange {self._queue.name}")

    # --- the queue ---

    def _find_queue(self) -> None:
        self._ask(
            lambda channel, answered: channel.queue_declare(
                self._queue.name, passive=True, callback=answered
            ),
            self._compare if self._queue.has_exchange else self._finish,
            missing=self._make_queue,
        )

    def _compare(self) -> None:
        """Declare an existing delay queue again, to see whether its arguments are ours."""
        self._ask(self._declare, self._bind, other=self._refused_arguments, forbidden=self._bind)

    def _make_queue(self) -> None:
        refusal = self._may_declare(self._queue.name)
        if refusal:
            self._failed(refusal)
            return
        self.is_new = True
        self._ask(self._declare, self._made, other=self._refused_arguments)

    def _declare(self, channel: Any, answered: Callable[[Any], None]) -> None:
        channel.queue_declare(self._queue.name, durable=True, arguments=self._arguments(), callback=answered)

    def _arguments(self) -> dict[str, Any]:
        queue = self._queue
        if self._falls_back:
            queue = replace(queue, arguments=queue.fallback or {})
        return declared_arguments(queue, self._session.amqp, self._session.broker_major)

    def _refused_arguments(self) -> None:
        """Try the fallback, if the queue has one; else the queue exists and has other arguments."""
        if self._queue.fallback is None or self._falls_back:
            self._use_as_it_is()
            return
        self._falls_back = True
        self._ask(self._declare, self._fell_back, other=self._use_as_it_is, forbidden=self._bind)

    def _fell_back(self) -> None:
        if self.is_new:
            self._log.warning(
                "the broker has no queues of type %s: %s is an ordinary queue, which drops its oldest "
                "messages at its maximum size",
                self._queue.arguments.get("x-queue-type"),
                self._queue.name,
            )
        self._made()

    def _use_as_it_is(self) -> None:
        self.is_new = self._falls_back = False
        self._log.warning("queue %s has other arguments; using it unchanged", self._queue.name)
        self._made()

    def _made(self) -> None:
        if self._queue.has_exchange:
            self._bind()
        else:
            self._finish()

    def _finish(self) -> None:
        if not self.is_new:
            self._done()
            return
        self._log.info("declared queue %s", self._queue.name)
        if self._arguments().get("x-queue-type") != "quorum":
            self._done()
            return
        epoch = self._session.errands.epoch
        self._loop.call_later(
            _SETTLED, lambda: self._done() if epoch == self._session.errands.epoch else None
        )


class Provider(SessionListener):
    """Declares the queues of returned messages: each once, however many messages wait for it.

    All messages of a window may be returned together.
    """

    def __init__(
        self, loop: EventLoop, session: Session, may_declare: Callable[[str], str] = always_allowed
    ) -> None:
        """Declare over `session`. Waiting callers are forgotten if it is lost.

        may_declare -- returns why a queue of that name must not be declared; "" if it may
        """
        self._loop = loop
        self._session = session
        self._may_declare = may_declare
        self._log = logging.getLogger(__name__)
        self._waiting: dict[str, list[tuple[Callable[[], None], Callable[[str], None]]]] = {}
        self._asked: list[Callable[[], None]] = []  # requests made while the session was down
        session.attach(self)

    def provide(self, queue: Queue, *, done: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Declare a queue, now or once the session is up.

        `done` or `failed` (with the reason) is called, or neither if the session is lost.
        """
        if not self._session.is_up:
            self._asked.append(partial(self.provide, queue, done=done, failed=failed))
            return
        waiting = self._waiting.setdefault(queue.name, [])
        waiting.append((done, failed))
        if len(waiting) == 1:
            Declaration(
                self._loop,
                self._session,
                queue,
                done=lambda: self._done(queue.name),
                failed=lambda reason: self._failed(queue.name, reason),
                may_declare=self._may_declare,
            )

    def session_up(self) -> None:
        """Declare the queues that were requested while the session was down."""
        asked, self._asked = self._asked, []
        for ask in asked:
            ask()

    def session_down(self) -> None:
        """Forget all requests."""
        self._asked.clear()
        self._waiting.clear()

    def _done(self, queue: str) -> None:
        for done, _ in self._waiting.pop(queue, []):
            done()

    def _failed(self, queue: str, reason: str) -> None:
        self._log.error("queue %s cannot be declared: %s", queue, reason)
        for _, failed in self._waiting.pop(queue, []):
            failed(reason)

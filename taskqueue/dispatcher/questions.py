"""A dispatcher's questions to the keeper: whether it may route a unique workitem."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Final

from taskqueue.broker.claims import to_log
from taskqueue.broker.connection import RawProperties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.process.logs import Log
from taskqueue.unique.wire import (
    KIND,
    VOID,
    Answer,
    Ask,
    Verdict,
    decode_answers,
    encode,
    encode_asks,
    encode_routed,
)

_AGAIN_DELAY: Final = 2.0  # seconds without any answer after which the questions are asked again
_LONGEST_DELAY: Final = 30.0
_LOOK_DELAY: Final = 0.5  # seconds between two looks for answers that do not come

Answered = Callable[[Answer], None]


@dataclass(slots=True, eq=False)
class _Question:
    ask: Ask
    answered: Answered
    is_answered: bool = False


class Questions(SessionListener):
    """Asks the keeper, in one message for all questions of a round, until it answers.

    The answers come to an exclusive queue on the connection that workitems are published by. If that queue is
    gone, the keeper knows that this dispatcher will route nothing any more of what it was granted.
    """

    def __init__(self, loop: EventLoop, session: Session, outbound: Outbound) -> None:
        """Ask over `session`; nothing is declared before the first question."""
        self._loop, self._session, self._outbound = loop, session, outbound
        self._numbers = count(1)
        self._open: dict[int, _Question] = {}  # until the keeper knows what became of the workitem
        self._new: list[Ask] = []  # of this round
        self._routed: list[_Question] = []  # of this round
        self._then: dict[int, Callable[[], None]] = {}
        self._queue = ""  # for answers; "" while there is none
        self._channel: Any = None
        self._asked = 0.0  # monotonic; when questions were asked, or answered, for the last time
        self._delay = _AGAIN_DELAY
        self._is_looking = False
        self._complaint = ""  # the last one that was logged: the attempts go on
        self._log = Log("dispatcher")
        session.attach(self)

    def ask(self, ask: Ask, answered: Answered) -> int:
        """Ask, and call back with the answer; return the question's number.

        ask -- without a number
        """
        number = next(self._numbers)
        question = _Question(replace(ask, number=number), answered)
        self._open[number] = question
        self._send_later(question.ask)
        self._look_later()
        return number

    def routed(self, number: int, then: Callable[[], None]) -> None:
        """Tell the keeper that the broker has a question's workitem; call back once that is confirmed."""
        question = self._open.get(number)
        if question is None:
            then()
            return
        if not self._routed:
            self._loop.at_round_end(self._send_routed)
        self._then[number] = then
        self._routed.append(question)

    def forget(self, number: int) -> None:
        """Forget a question whose workitem is not routed."""
        self._open.pop(number, None)

    def forget_all(self) -> None:
        """Forget all questions: the broker delivers their workitems again, here or elsewhere."""
        self._open.clear()
        self._new.clear()
        self._routed.clear()
        self._then.clear()

    # --- asking ---

    def _send_later(self, *asks: Ask) -> None:
        if not self._new:
            self._loop.at_round_end(self._send)
        self._new += asks

    def _send(self) -> None:
        if not self._queue:
            self._listen()
            self._new.clear()  # all open ones are asked once there is a queue
        if self._new:
            asks, self._new = self._new, []
            self._asked = time.monotonic()
            self._outbound.send(to_log(encode_asks(self._queue, asks)), _ignore)

    def _send_routed(self) -> None:
        routed, self._routed = self._routed, []
        if routed:
            claims = [(each.ask.scope, each.ask.id) for each in routed]
            numbers = [each.ask.number for each in routed]
            self._outbound.send(to_log(encode_routed(claims)), partial(self._told, numbers))

    def _told(
        self, numbers: list[int], _publication: Publication, _result: PublishResult, _reason: str
    ) -> None:
        """Go on, also if nobody keeps claims: then the workitems' ends free their keys."""
        for number in numbers:
            self._open.pop(number, None)
            if (then := self._then.pop(number, None)) is not None:
                then()

    def _look_later(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_later(_LOOK_DELAY, self._look)

    def _look(self) -> None:
        """Ask again if no answer has come for long: the keeper may have ended after it had read them."""
        self._is_looking = False
        waiting = [each.ask for each in self._open.values() if not each.is_answered]
        if not waiting:
            return
        if self._queue and time.monotonic() - self._asked > self._delay and self._outbound.is_ready:
            self._delay = min(2 * self._delay, _LONGEST_DELAY)
            self._send_later(*waiting)
        self._look_later()

    # --- answers ---

    def session_up(self) -> None:
        """Ask again what was asked over the lost connection."""
        if self._open:
            self._listen()

    def session_down(self) -> None:
        """Forget the queue."""
        self._queue, self._channel = "", None

    def _listen(self) -> None:
        if self._channel is None and self._session.is_up:
            self._channel = "opening"
            self._session.channel(self._opened)

    def _opened(self, channel: Any) -> None:
        guard, self._channel = self._loop.guard, channel
        channel.add_on_close_callback(guard(self._closed))
        declared = guard(lambda frame: self._declared(channel, frame.method.queue))
        channel.queue_declare("", exclusive=True, callback=declared)

    def _declared(self, channel: Any, queue: str) -> None:
        if not channel.is_open:
            return  # the connection is being closed
        guard = self._loop.guard
        consuming = guard(lambda _frame: self._ask_all(queue))
        channel.basic_consume(queue, guard(self._take), auto_ack=True, callback=consuming)

    def _ask_all(self, queue: str) -> None:
        self._queue = queue
        self._send_later(*(each.ask for each in self._open.values() if not each.is_answered))

    def _closed(self, channel: Any, error: BaseException) -> None:
        if channel is not self._channel or not self._session.is_up:
            return
        self._queue, self._channel = "", None
        if str(error) != self._complaint:
            self._complaint = str(error)
            self._log.error("unique workitems wait: no queue for the keeper's answers: %s", error)
        self._loop.call_later(_LONGEST_DELAY, self.session_up)

    def _take(self, _channel: Any, _method: Any, _properties: RawProperties, body: bytes) -> None:
        self._asked, self._delay = time.monotonic(), _AGAIN_DELAY
        for answer in decode_answers(body):
            question = self._open.get(answer.number)
            if question is None and answer.verdict is Verdict.MINE:
                head = {KIND: VOID, "asker": self._queue, "number": answer.number}
                self._outbound.send(to_log(encode(head)), _ignore)
            elif question is not None and not question.is_answered:
                question.is_answered = True
                question.answered(answer)


def _ignore(_publication: Publication, _result: PublishResult, _reason: str) -> None:
    pass

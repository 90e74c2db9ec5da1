"""The keeper process: it stands by until the broker makes it the active one, and then answers dispatchers."""

import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.standby import StandbyProcess
from taskqueue.broker.subscription import Delivery
from taskqueue.config import AmqpSettings
from taskqueue.keeper.commands import listed, releases
from taskqueue.keeper.following import results_for
from taskqueue.keeper.log import RENEW_AFTER, ClaimsLog, LogListener
from taskqueue.messages.content import JSON
from taskqueue.messages.events import KEEPER
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.process.daemon import Signals
from taskqueue.unique.claims import Effect
from taskqueue.unique.wire import KIND, VOID, Answer, Message, decode, encode, encode_answers, scope_of

_LOOK_DELAY: Final = 1.0  # seconds between two looks at the age of entries
_REPLY_TIMEOUT: Final = 2.0  # seconds that a result waits for room in a follower's queue

_PROPERTIES: Final = Properties(content_type=JSON, delivery_mode=1).encode()


class Keeper(StandbyProcess, LogListener):
    """One keeper process. All of them share the log; its single active consumer answers."""

    kind = KEEPER
    blocked = "answers nothing: the broker has an alarm"

    def __init__(
        self,
        amqp: AmqpSettings,
        signals: Signals,
        on_state: Callable[[str], None],
        *,
        renew_after: float = RENEW_AFTER,
        most_entries: int = 5000,
    ) -> None:
        """Prepare to `run`.

        Args:
            amqp: the broker's address.
            signals: the source of SIGTERM and SIGHUP.
            on_state: takes the keeper's state in words.
            renew_after: seconds that an entry of the log is held.
            most_entries: entries of the log that are held before a snapshot replaces them.
        """
        super().__init__(amqp, signals, on_state)
        self._answers: defaultdict[str, list[Answer]] = defaultdict(list)  # of this round
        self._claims_log = ClaimsLog(
            self._loop,
            self._session,
            self._outbound,
            self,
            renew_after=renew_after,
            most_entries=most_entries,
        )
        self._loop.call_later(_LOOK_DELAY, self._look)

    def stand_by(self) -> None:
        """Consume the log."""
        self._claims_log.open()

    def active_state(self) -> str:
        """Return the state without the number of claims, which changes all the time."""
        return "keeps the keys" if self._claims_log.is_leading else ""

    def _look(self) -> None:
        if self._claims_log.is_leading and not self._session.is_blocked:
            self._claims_log.replace_old()
        self._loop.call_later(_LOOK_DELAY, self._look)

    # --- the log ---

    def log_open(self) -> None:
        """Report the state."""
        self.tell_state()

    def log_leads(self) -> None:
        """Send results that nobody has sent. Dispatchers ask again for answers that a dead keeper owed."""
        self.tell_state()
        for message, _ in tuple(self._claims_log.untold.values()):
            self._tell_followers(message)

    def log_lost(self) -> None:
        """Report the state."""
        self._answers.clear()
        self.tell_state()

    def log_entry(self, message: Message, effect: Effect) -> None:
        """Answer dispatchers at the end of the round, and send a result to those that wait for it."""
        for asker, answer in effect.answers:
            if not self._answers:
                self._loop.at_round_end(self._answer)
            self._answers[asker].append(answer)
        if effect.followers:
            self._tell_followers(message)

    def log_command(self, message: Message, delivery: Delivery) -> None:
        """List keys, or free one, and answer."""
        properties = Properties.decode(delivery.properties)
        self._claims_log.done(delivery)
        if not (properties.reply_to or "").startswith(DIRECT_REPLY):
            return
        claims = self._claims_log.claims
        if message.head.get("action") == "release":
            entries = releases(claims, message.head)
            for entry in entries:
                self._claims_log.write(entry)
            released = [decode(entry).head["id"] for entry in entries]
            answer = {"released": released} if released else {"error": "nobody has that key"}
        else:
            answer = listed(claims, message.head)
        said = Properties(content_type=JSON, correlation_id=properties.correlation_id).encode()
        reply = Publication(properties.reply_to or "", said, json.dumps(answer).encode(), mandatory=False)
        self._outbound.send(reply, lambda *_: None)

    def _answer(self) -> None:
        """Send the answers of a round; a dispatcher without its queue has ended."""
        answers, self._answers = self._answers, defaultdict(list)
        for asker, given in answers.items():
            publication = Publication(asker, _PROPERTIES, encode_answers(given), declares=False)
            self._outbound.send(publication, partial(self._answered, asker))

    def _answered(self, asker: str, _publication: Publication, result: PublishResult, _reason: str) -> None:
        if result is not PublishResult.CONFIRMED and self._claims_log.is_leading:
            self._claims_log.write(encode({KIND: VOID, "asker": asker, "number": None}))

    # --- followers ---

    def _tell_followers(self, message: Message) -> None:
        """Send a workitem's result to the callers of its duplicates."""
        key = scope_of(message.head["scope"]), message.head["id"]
        _, followers = self._claims_log.untold[key]
        results = results_for(message, followers)
        unsettled = set(results)

        def settled(publication: Publication, *_: object) -> None:
            unsettled.discard(publication)
            if not unsettled:
                self._claims_log.told(key)

        def give_up() -> None:
            for publication in tuple(unsettled):
                self._outbound.withdraw(publication)
                settled(publication)

        for publication in results:
            self._outbound.send(publication, settled)
        self._loop.call_later(_REPLY_TIMEOUT, give_up)

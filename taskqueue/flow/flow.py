"""The flow process: it takes messages about workflows, applies them in rounds, and publishes steps."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from taskqueue.broker.standby import StandbyProcess
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.topology import SHARDS
from taskqueue.broker.trust import Trust
from taskqueue.config import AmqpSettings, RecordSettings
from taskqueue.errors import BadFlowMessage, ExitStatus, FlowDamaged, FlowUnavailable
from taskqueue.flow.answers import Answers
from taskqueue.flow.aside import Aside
from taskqueue.flow.cancels import Cancels
from taskqueue.flow.in_flight import InFlight, Settled
from taskqueue.flow.ledger import Incoming, Ledger, Round, encoded, joined, parts_of
from taskqueue.flow.pending import Pending, PendingMessages
from taskqueue.flow.reading import read
from taskqueue.flow.receipts import foreign
from taskqueue.flow.retrying import RetryDelay
from taskqueue.flow.routing import Routing
from taskqueue.flow.shard_queue import ShardQueue
from taskqueue.flow.store import Store
from taskqueue.messages.events import FLOW
from taskqueue.process.daemon import Signals
from taskqueue.texts import counted

_TICK: Final = 2.0  # seconds between two looks at whether this process is active
_AWAY: Final = 30.0  # seconds that a shard is left to the process that keeps its workflows
_TIDY: Final = 30.0  # seconds between two looks at what is to be removed
_TIDY_AGAIN: Final = 0.1


class Flow(StandbyProcess):
    """One flow process. All of them share the queues of the shards; the active consumer of each leads it."""

    kind = FLOW
    blocked = "publishes nothing: the broker has an alarm"

    def __init__(
        self,
        amqp: AmqpSettings,
        open_store: Callable[[], Store],
        signals: Signals,
        on_state: Callable[[str], None],
        *,
        keep: float,
        records: Mapping[str, RecordSettings],
        lanes: Mapping[str, int],
        away: float = _AWAY,
    ) -> None:
        """Prepare to `run`.

        Args:
            amqp: the broker's address.
            open_store: opens the database, or raises FlowUnavailable or FlowDamaged.
            signals: the source of SIGTERM and SIGHUP.
            on_state: takes the process's state in words.
            keep: seconds that workflows are kept after their end.
            records: what events contain of bodies, by worker type.
            lanes: the number of lanes, by worker type.
            away: seconds that a shard is left whose workflows another database keeps.
        """
        super().__init__(amqp, signals, on_state)
        self._open_store, self._keep, self._away = open_store, keep, away
        self._trust = Trust(self._outbound, self._log)
        self._ledger: Ledger | None = None
        self._queues = [
            ShardQueue(
                self._loop, self._session, self._outbound, number, on_delivery=self._take, on_lost=self._lost
            )
            for number in range(SHARDS)
        ]
        self._cancels = Cancels(self._loop, self._session, self._outbound, self._log)
        self._pending = PendingMessages(self._read)
        self._answers, self._aside = Answers(self._outbound, self._log), Aside(self._outbound, self._log)
        routing = Routing(self._outbound, self._events, records=records, lanes=lanes)
        self._in_flight = InFlight(self._loop, self._outbound, routing, self._plan_round)
        self._has_round = False  # whether one is planned
        self._retry_delay = RetryDelay()
        self._trouble = ""  # with the database, in words
        self._loop.call_later(_TICK, self._tick)
        self._loop.call_later(_TIDY, self._tidy)

    def active_state(self) -> str:
        """Return how many shards this process leads."""
        if self._trouble:
            return "waits for its database"
        led = 0 if self._ledger is None else len(self._ledger.shards.led)
        return f"keeps workflows of {counted(led, 'shard')} of {SHARDS}" if led else ""

    def stand_by(self) -> None:
        """Open the database, then consume the queues of all shards."""
        if self._trouble:
            return  # a timer opens the database again
        if self._ledger is not None or self._open_ledger():
            for queue in self._queues:
                queue.open()
            self.tell_state()

    # --- messages ---

    def _take(self, queue: ShardQueue, delivery: Delivery) -> None:
        self._pending.add(queue, delivery)
        self._plan_round()

    def _read(self, queue: ShardQueue, delivery: Delivery) -> Pending | None:
        """Read a delivery; None if it is put aside."""
        try:
            database = "" if self._ledger is None else self._ledger.store.id
            message = read(delivery, queue.number, self._trust, database, self._answers.drop)
        except BadFlowMessage as error:
            self._answers.give({"error": f"{error}, in taskqueue_flow_{queue.number}"}, delivery)
            message = None
        except Exception as error:  # noqa: BLE001 -- nobody has foreseen it
            self._aside.put(queue, delivery, delivery.body, error)
            return None
        return Pending(queue, delivery, message)

    def _lost(self, queue: ShardQueue) -> None:
        """Forget the deliveries of a shard: whoever is active gets them."""
        self._pending.forget(queue)
        if self._ledger is not None:
            self._ledger.shards.leave(queue.number)

    # --- rounds ---

    def _plan_round(self) -> None:
        if not self._has_round:
            self._has_round = True
            self._loop.at_round_end(self._round)

    def _round(self) -> None:
        """Apply messages in one transaction; then acknowledge them, and publish what is ready."""
        self._has_round = False
        ledger = self._ledger
        if ledger is None or self._trouble:
            return
        if self._pending.is_single:
            self._apply_singly(ledger)
            return
        batch = self._leave_foreign(ledger, self._pending.take())
        settled: Settled = ([], [])
        try:
            self._lead(ledger, batch)
            settled = self._in_flight.take_settled()
            done = ledger.apply(
                [each.message for each in batch if each.message is not None],
                noted=settled[0],
                refused=settled[1],
                room=0 if self._is_ending else self._in_flight.room,
                besides=self._in_flight.runs,
            )
        except FlowUnavailable as error:
            self._in_flight.put_back(settled)
            self._fail(error)
            return
        except Exception as error:
            if not batch:
                raise
            self._log.error("a round of messages cannot be applied: %r; now one by one", error)
            self._in_flight.put_back(settled)
            self._pending.put_back(batch)
            if self._start_over() is not None:
                self._plan_round()
            return
        self._settle(batch, done)
        self._in_flight.publish(done.drawn, is_more=done.is_more)
        self._cancel(ledger)
        if self._pending:
            self._plan_round()

    def _apply_singly(self, ledger: Ledger | None) -> None:
        """Apply one message, each of its receipts in a transaction of its own; put aside those that fail."""
        each = self._pending.take_one()
        done, failed, cause = Round(), [], None
        try:
            for part in [] if each.message is None else parts_of(each.message):
                if ledger is None:
                    return
                self._lead(ledger, [each])
                found = self._applied(ledger, part)
                if isinstance(found, Round):
                    done.add(found)
                    if found.lost:  # the process that leads the shard now gets the message
                        break
                else:
                    failed.append(part)
                    cause, ledger = found, self._start_over()
        except FlowUnavailable as error:
            self._fail(error)
            return
        if cause is not None:
            self._aside.put(each.queue, each.delivery, encoded(joined(failed)), cause)
        self._settle([] if failed else [each], done)
        self._plan_round()

    @staticmethod
    def _applied(ledger: Ledger, part: Incoming) -> Round | Exception:
        """Return the effects of a message, or the error for which it is put aside."""
        try:
            return ledger.apply([part])
        except FlowUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 -- nobody has foreseen it
            return error

    def _start_over(self) -> Ledger | None:
        """Open the database again after an error that left it in an unknown state; None if that fails."""
        self._close_ledger()
        self._open_ledger()
        return self._ledger

    def _leave_foreign(self, ledger: Ledger, batch: list[Pending]) -> list[Pending]:
        """Leave the shards of receipts that another database is to take; return what is left of a round."""
        for each in batch:
            if each.message is not None:
                for receipt in foreign(each.message.receipts, ledger.store.id):
                    self._log.error(
                        "workflows of shard %d are kept by another database, as workflow %s is: run the "
                        "flow process on one host, or set database in [flow] to a PostgreSQL; trying again "
                        "in %g s",
                        each.queue.number, receipt.workflow, self._away,
                    )  # fmt: skip
                    each.queue.leave()
                    self._loop.call_later(self._away, partial(self._open_again, each.queue))
                    left = [other for other in batch if other.queue is not each.queue]
                    return self._leave_foreign(ledger, left)
        return batch

    def _open_again(self, queue: ShardQueue) -> None:
        if self._session.is_up and not self._trouble:
            queue.open()

    def _lead(self, ledger: Ledger, batch: list[Pending]) -> None:
        """Lead the shards that messages come from: this process is their active consumer."""
        for queue in dict.fromkeys(each.queue for each in batch):
            if queue.number in ledger.shards.led:
                continue
            noted = self._in_flight.noted
            again = ledger.take(queue.number, missing_since=queue.missing_since, noted=noted)
            self._in_flight.is_more = True
            if queue.missing_since is not None:
                queue.missing_since = None
                self._in_flight.noted.clear()  # noted a second time, they would not be published again
                self._in_flight.forget()  # drawn again, too: their receipts may have been in the queue
            if again:
                self._log.warning(
                    "queue taskqueue_flow_%d was missing, and receipts in it are lost: steps that had not "
                    "ended are published again: %d", queue.number, again,
                )  # fmt: skip
            self.tell_state()

    def _settle(self, batch: list[Pending], done: Round) -> None:
        for reason in done.refused:
            self._answers.drop(reason)
        lost = [self._queues[number] for number in done.lost]
        for each in batch:
            if each.queue not in lost:
                each.queue.settle(each.delivery)
        deliveries = {id(each.message): each.delivery for each in batch}
        for answer in done.answers:
            self._answers.give(answer.answer, deliveries[id(answer.to)])
        for queue in lost:
            self._log.warning("another flow process leads shard %d now; this one stands by", queue.number)
            queue.leave()
            queue.open()
            self.tell_state()

    def _cancel(self, ledger: Ledger) -> None:
        """Tell consumers which workitems are cancelled; some in each round."""
        if not ledger.is_cancelling:
            return
        try:
            ids = ledger.cancels()
        except FlowUnavailable as error:
            self._fail(error)
            return

        self._cancels.send(ids)
        if ledger.is_cancelling:
            self._loop.call_later(0, self._plan_round)

    # --- the database ---

    def _fail(self, error: FlowUnavailable) -> None:
        """Acknowledge nothing, and try again later: what is not applied goes back to its queue."""
        if str(error) != self._trouble:
            self._log.error("%s; nothing is acknowledged, trying again", error)
        self._trouble = str(error)
        for queue in self._queues:
            queue.leave()
        self._pending.clear()
        if self._session.is_up:
            self.tell_state()
        self._loop.call_later(self._retry_delay.after_failure(), self._try_again)

    def _try_again(self) -> None:
        """Open the database again, and stand by."""
        self._close_ledger()
        if self._open_ledger():
            self._log.info("the database of workflows can be used again")
            self._trouble = ""
            if self._outbound.is_ready:  # else the next connection does it
                self.stand_by()

    def _close_ledger(self) -> None:
        if self._ledger is not None:
            self._ledger.store.close()
            self._ledger = None

    def _open_ledger(self) -> bool:
        """Open the database; return whether that has worked."""
        try:
            self._ledger = Ledger(self._open_store(), self._session.amqp.signature)
        except FlowUnavailable as error:
            self._fail(error)
        except FlowDamaged as error:
            self._log.critical("%s", error)
            self.failure, self._status = str(error), ExitStatus.SYSTEM
            self._loop.stop()
        return self._ledger is not None

    def _tidy(self) -> None:
        """While nothing else is to be done, remove what has ended long ago, or cancel again what has not."""
        delay = _TIDY
        if self._ledger is not None and not self._trouble and not self._pending:
            try:
                if 0 in self._ledger.shards.led and self._ledger.remove_old(self._keep):
                    delay = _TIDY_AGAIN
                else:
                    self._ledger.cancel_again()
                    self._cancel(self._ledger)
            except FlowUnavailable as error:
                self._fail(error)
        self._loop.call_later(delay, self._tidy)

    def _tick(self) -> None:
        """Find out whether this process is active for more shards, and still for those that it leads."""
        if self._ledger is not None and not self._trouble:
            for queue in self._queues:
                if queue.number not in self._ledger.shards.led:
                    queue.tick()
                elif queue.look():
                    self._log.warning(
                        "taskqueue_flow_%d has lost its consumer; consuming again", queue.number
                    )
        self._loop.call_later(_TICK, self._tick)

    # --- the connection and the end ---

    def session_down(self) -> None:
        """Forget what is not confirmed: it is still in the database."""
        super().session_down()
        self._outbound.forget_all()
        self._in_flight.forget()

    def outbound_progress(self) -> None:
        """End once the broker has what was sent."""
        if self._is_ending:
            self._end_if_idle()

    def end(self) -> None:
        """Take nothing more, and end once it is noted what the broker has: it would be published again."""
        for queue in self._queues:
            queue.leave()
        self._pending.clear()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if not self._in_flight.runs and not self._is_leaving:
            self._round()
            super().end()

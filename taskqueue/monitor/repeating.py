"""Cancels that are kept and broadcast again: a consumer that connects later has not heard of them."""

import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from taskqueue.broker.loop import ActionQueue, EventLoop
from taskqueue.config import AmqpSettings
from taskqueue.errors import TaskqueueError
from taskqueue.monitor.cancelling import cancel
from taskqueue.monitor.store.cancels import KeptCancels, broadcast_name
from taskqueue.monitor.store.item import Key
from taskqueue.process.logs import Log

_RETRY_DELAY: Final = 10.0  # seconds after the broker or the record failed


class Repeater:
    """Keeps cancels in the record, and broadcasts them again once a consumer begins to take work."""

    def __init__(self, loop: EventLoop, cancels: KeptCancels, amqp: AmqpSettings) -> None:
        """Work on the recorder's loop; a broadcast blocks, so it runs in a thread."""
        self._loop = loop
        self._cancels = cancels
        self._amqp = amqp
        self._log = Log("recorder")
        self._thread = ThreadPoolExecutor(1, "cancels")
        self._done = ActionQueue()
        self._is_busy = self._is_wanted = False
        self._came_at = 0.0  # when a consumer began to take work, monotonic
        loop.watch(self._done, self._done.run_all)

    def close(self) -> None:
        """Wait for the broadcasts that are on their way."""
        self._thread.shutdown(cancel_futures=True)
        self._loop.unwatch(self._done)
        self._done.empty()
        self._done.close()

    def keep(self, keys: Collection[Key], since: float) -> None:
        """Keep the cancels of workitems.

        keys -- their tenants and ids

        since -- when their broadcast began, monotonic: consumers that came later may not have received it
        """
        try:
            self._cancels.keep(keys, time.time())
        except TaskqueueError as error:
            self._log.warning("cancels are not kept for consumers that connect later: %s", error)
        if self._came_at >= since:
            self.repeat()

    def consumer_came(self) -> None:
        """Broadcast what is kept: a consumer has begun to take work."""
        self._came_at = time.monotonic()
        self.repeat()

    def repeat(self) -> None:
        """Broadcast what is kept, now or after the broadcast that is on its way."""
        self._is_wanted = True
        if self._is_busy:
            return
        self._is_wanted = False
        try:
            keys = self._cancels.kept(time.time())
        except TaskqueueError as error:
            self._fail(error)
            return
        if keys:
            self._is_busy = True
            self._thread.submit(self._broadcast, keys)

    def _fail(self, error: TaskqueueError) -> None:
        self._log.warning("kept cancels are not broadcast: %s; trying again", error)
        self._loop.call_later(_RETRY_DELAY, self.repeat)

    def _ended(self, error: TaskqueueError | None) -> None:
        self._is_busy = False
        if error is not None:
            self._fail(error)
        elif self._is_wanted:
            self.repeat()

    # --- in the thread ---

    def _broadcast(self, keys: Collection[Key]) -> None:
        error: TaskqueueError | None = None
        try:
            cancel(self._amqp, map(broadcast_name, keys))
        except TaskqueueError as caught:
            error = caught
        except Exception:  # noqa: BLE001 -- the last line of the thread: its bug must not end the broadcasts
            self._log.critical("a bug of ours", exc_info=True)
        self._done.put(lambda: self._ended(error))

"""Replies of a dispatcher to producers, each of which waits for a short time for room in its queue."""

from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult

_REPLY_TIMEOUT: Final = 2.0  # seconds that a reply waits for room in its queue


class Replies:
    """Publishes replies."""

    def __init__(self, loop: EventLoop, outbound: Outbound) -> None:
        self._loop, self._outbound = loop, outbound

    def send(self, reply: Publication, then: Callable[[str], None]) -> None:
        """Publish a reply; call back with "" once it is confirmed, or with the reason why it cannot be."""

        def sent(_reply: Publication, result: PublishResult, reason: str) -> None:
            then("" if result is PublishResult.CONFIRMED else reason or result.value)

        self._outbound.send(reply, sent)
        self._await(reply, then)

    def _await(self, reply: Publication, then: Callable[[str], None]) -> None:
        self._loop.call_later(_REPLY_TIMEOUT, lambda: self._give_up(reply, then))

    def _give_up(self, reply: Publication, then: Callable[[str], None]) -> None:
        """Give up a reply whose queue is full, so that such replies do not fill the dispatcher's window."""
        if not self._outbound.is_open(reply):
            return
        if reply.retries:
            self._outbound.withdraw(reply)
            then(f"queue {reply.queue} accepts no messages")
        else:  # not yet sent, or not yet confirmed
            self._await(reply, then)

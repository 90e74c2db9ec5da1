"""The producer: it publishes each workitem until the broker has confirmed it, under the same id."""

import threading
import time
from collections.abc import Sequence

import amqp
from support.foreign import Foreign

from chaos.flows import Started
from chaos.workload import Workitem

AGAIN_DELAY = 0.1  # seconds after a failure


class Producer(threading.Thread):
    """Publishes workitems one by one, as far as it is allowed to."""

    def __init__(self, url: str, workitems: Sequence[Workitem | Started]) -> None:
        """Allow nothing yet; `url` may lead over a line that is cut."""
        super().__init__(name="producer", daemon=True)
        self.began: dict[str, float] = {}  # when each was published first, in seconds since 1970
        self.doubtful: set[str] = set()  # published again, because a connection was lost before the confirm
        self.confirmed = 0
        self._foreign = Foreign(url)
        self._workitems = workitems
        self._allowed = 0
        self._may_go_on = threading.Condition()

    def allow(self, number: int) -> None:
        """Let the producer publish the first `number` workitems; negative: it must end."""
        with self._may_go_on:
            self._allowed = number
            self._may_go_on.notify()

    def run(self) -> None:
        """Publish; the thread does this."""
        for number, workitem in enumerate(self._workitems):
            with self._may_go_on:
                self._may_go_on.wait_for(lambda number=number: not 0 <= self._allowed <= number)
            if self._allowed < 0:
                break
            self.began[workitem.id] = time.time()
            while not self._publish(workitem) and self._allowed >= 0:
                time.sleep(AGAIN_DELAY)
            self.confirmed += 1
        self._foreign.close()

    def _publish(self, workitem: Workitem | Started) -> bool:
        try:
            self._foreign.connect()
        except (amqp.AMQPError, OSError):
            return False  # nothing was sent
        try:
            self._foreign.publish_once(workitem.body, workitem.queue, **workitem.properties())
        except (amqp.AMQPError, OSError):
            self.doubtful.add(workitem.id)
            return False
        return True

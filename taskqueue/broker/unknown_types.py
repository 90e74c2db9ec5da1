"""The queues that are made for worker types of which nobody had made one: a bounded number."""

from taskqueue.broker.topology import WORKER_PREFIX


class UnknownTypes:
    """Counts the queues that messages had made by naming a type: each name that anybody invents is one."""

    def __init__(self, most: int) -> None:
        """Let at most so many be made."""
        self._most = most
        self._queues: set[str] = set()

    def refusal(self, queue: str) -> str:
        """Return why a queue that is missing must not be made; "" where it may be."""
        is_new = queue.startswith(WORKER_PREFIX) and queue not in self._queues
        if not is_new or len(self._queues) < self._most:
            return ""
        return f"there is no queue {queue}, and max_types ({self._most}) queues have been made for new types"

    def admit(self, queue: str) -> str:
        """Count a queue that is about to be made; return why it must not be, "" where it may."""
        refusal = self.refusal(queue)
        if not refusal and queue.startswith(WORKER_PREFIX):
            self._queues.add(queue)
        return refusal

    def forget(self, queue: str) -> None:
        """Count a queue no longer: it could not be made."""
        self._queues.discard(queue)

"""The tasks that a worker gets from its consumer, and the workers that begin some ahead of their turn."""

import socket
from collections import deque
from collections.abc import Iterator
from typing import Final

from taskqueue.worker import frames
from taskqueue.worker.base import BaseWorker
from taskqueue.worker.channels import granted, granted_now

_CHUNK: Final = 65_536  # bytes read from the consumer at a time


class Tasks:
    """The tasks that a worker may begin, in order; the consumer has taken back the others."""

    def __init__(self, link: socket.socket, credit: socket.socket) -> None:
        """Read frames from `link`, and from `credit` the numbers of the tasks that may be begun."""
        self._link, self._credit = link, credit
        self._reader = frames.FrameReader()
        self._sent: deque[frames.TaskFrame] = deque()  # not begun
        self._ahead: deque[frames.TaskFrame] = deque()

    def __iter__(self) -> Iterator[frames.TaskFrame]:
        """Wait for each task in turn, until the consumer sends no more."""
        numbers = granted(self._credit)
        while True:
            if self._ahead:
                yield self._ahead.popleft()
                continue
            number = next(numbers, None)
            task = None if number is None else self._find(number)
            if task is None:
                return
            yield task

    def begin_ahead(self, most: int) -> list[frames.TaskFrame]:
        """Begin as many tasks as may be begun now, until `most` are ahead of their turn; return all of these.

        The consumer cannot take them back any more. Should this process end, it charges only the first task
        without an outcome, and gives the others to other workers.
        """
        wanted = most - len(self._ahead)
        for number in granted_now(self._credit, wanted) if wanted > 0 else ():
            task = self._find(number)
            if task is not None:
                self._ahead.append(task)
        return list(self._ahead)

    def _find(self, number: int) -> frames.TaskFrame | None:
        """Return a task that may be begun; None if the consumer has closed the link."""
        while True:
            while self._sent:
                task = self._sent.popleft()
                if task.number == number:
                    return task
            data = self._link.recv(_CHUNK)
            if not data:
                return None
            self._sent.extend(frames.TaskFrame.decode(payload) for _, payload in self._reader.feed(data))


class ForesightedWorker(BaseWorker):
    """A worker that may begin tasks before the current one is over."""

    @property
    def is_ahead(self) -> bool:
        """Whether it works on tasks whose turn has not come; until then it is not replaced."""
        raise NotImplementedError

    def look_ahead(self, task: frames.TaskFrame, tasks: Tasks, most: int) -> None:
        """Prepare for `task`, whose turn has come, and begin up to `most` tasks after it."""
        raise NotImplementedError

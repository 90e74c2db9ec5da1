"""BaseWorker, which plugins subclass."""

import logging
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Self

from taskqueue.messages.workitem import Workitem
from taskqueue.worker import frames
from taskqueue.worker.consumer_link import progress


class BaseWorker:
    """Base class of a plugin's worker; its entry point under `worker.plugins` is `Subclass.factory`.

    One instance lives in one process and handles one workitem at a time. A workitem may come more than
    once, after a crash or a lost connection: `handle_task` must be idempotent, and finds in
    `self.workitem` the id and the attempt to be so with.
    """

    #: Content types that `handle_task` takes; "*" stands for any part. Others fail without a run.
    ACCEPT: ClassVar[list[str]] = ["*/*"]

    #: The workitem that is being handled: id, attempt, headers, properties.
    workitem: Workitem

    #: The worker types that it serves, where that is not the one it is installed for.
    services: tuple[frames.Service, ...] = ()

    #: Whether its process is to be replaced after this workitem: a handler sets it where something is left
    #: that would disturb the next one.
    is_spent: bool = False

    #: The options of the plugin's section that are not taskqueue's own, as they are written.
    settings: Mapping[str, str] = MappingProxyType({})

    @cached_property
    def log(self) -> logging.Logger:
        """A logger; its lines reach the daemon's log with group, worker and workitem."""
        return logging.getLogger(type(self).__module__)

    @classmethod
    def factory(cls) -> Self:
        """Return a new worker; the pool calls this once in each worker process."""
        return cls()

    def setup(self) -> None:
        """Prepare for work, once, before the first workitem; `self.settings` is filled by then."""

    def teardown(self) -> None:
        """Clean up, once, before the process ends in an orderly way."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Tell the caller, if there is one who listens, how far the work is: 0 is nothing, 1 is all."""
        progress(fraction, text)

    def handle_task(self, body: Any) -> Any:
        """Do the work; return the result.

        body -- the decoded workitem: what JSON gives, str for text, bytes for everything else
        Returns what JSON can express, or str, or bytes; whatever is raised makes a failure.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define handle_task")

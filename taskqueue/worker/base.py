"""The interface of plugin code: BaseWorker, which plugins subclass, and `progress`."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Self

from taskqueue.messages.workitem import Workitem
from taskqueue.worker import frames

#: Receivers of progress in this process: in a worker, the link to its consumer.
listeners: list[Callable[[float, str], None]] = []


def progress(fraction: float, text: str = "") -> None:
    """Report the progress of the running task to its caller: 0 is nothing, 1 is all.

    No effect outside a worker, and within the first second if the caller wants no progress. Of more than ten
    reports a second the others are dropped. Raises ValueError for NaN; other numbers are limited to the range
    from 0 to 1.
    """
    part = min(max(float(fraction), 0.0), 1.0)
    if math.isnan(part):
        raise ValueError(f"expected progress from 0 to 1, found {fraction}")
    for tell in listeners:
        tell(part, text)


class BaseWorker:
    """Base class of a plugin's worker; its entry point under `worker.plugins` is `Subclass.factory`.

    One instance lives in one process and handles one workitem at a time. A workitem may be delivered more
    than once, after a crash or a lost connection: `handle_task` must be idempotent. `self.workitem` has the
    id and the attempt for that.
    """

    #: Content types that `handle_task` accepts; "*" stands for any part. Others fail without a run.
    ACCEPT: ClassVar[list[str]] = ["*/*"]

    #: The current workitem: id, attempt, headers, properties.
    workitem: Workitem

    #: The worker types that it serves, if other than the one that it is installed for.
    services: tuple[frames.Service, ...] = ()

    #: When workitems for it are submitted: dicts with `name`, with `cron` or `every`, and with other fields.
    #: `body` is a JSON value.
    SCHEDULES: ClassVar[Sequence[Mapping[str, Any]]] = ()

    #: Whether its process is replaced after this workitem. A handler sets it if it left something behind that
    #: would disturb the next workitem.
    is_spent: bool = False

    #: The options of the plugin's section, except taskqueue's own, as strings.
    settings: Mapping[str, str] = MappingProxyType({})

    @cached_property
    def log(self) -> logging.Logger:
        """A logger; its lines reach the daemon's log with group, worker and workitem."""
        return logging.getLogger(type(self).__module__)

    @classmethod
    def factory(cls) -> Self:
        """Return a new worker. It is called once in each worker process."""
        return cls()

    def setup(self) -> None:
        """Prepare for work, once, before the first workitem. `self.settings` is set."""

    def teardown(self) -> None:
        """Clean up, once, before a regular exit of the process."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Report progress to the monitor and, if it wants that, to the caller: 0 is nothing, 1 is all."""
        progress(fraction, text)

    def handle_task(self, body: Any) -> Any:
        """Do the work; return the result.

        body -- the decoded workitem: a JSON value, str for text, bytes for other content types
        Returns a JSON value, str or bytes. An exception makes a failure.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define handle_task")

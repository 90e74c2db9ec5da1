"""A task queue that is installed like any other system service and extended by plugins."""

import importlib
from typing import TYPE_CHECKING, Any, Final

from taskqueue.errors import Reject, Retry, TaskTimeout
from taskqueue.worker import BaseWorker, progress
from taskqueue.workitem import Workitem

if TYPE_CHECKING:
    from taskqueue.errors import (
        BadArguments,
        BrokerRefused,
        BrokerUnavailable,
        CallCancelled,
        CallError,
        CallTimeout,
        ReplyLost,
        TaskFailed,
        UnknownCall,
        UnknownTask,
    )
    from taskqueue.rpc.call import Call
    from taskqueue.rpc.client import AsyncClient, Client
    from taskqueue.rpc.task import Task, task

__all__ = [
    "AsyncClient",
    "BadArguments",
    "BaseWorker",
    "BrokerRefused",
    "BrokerUnavailable",
    "Call",
    "CallCancelled",
    "CallError",
    "CallTimeout",
    "Client",
    "Reject",
    "ReplyLost",
    "Retry",
    "Task",
    "TaskFailed",
    "TaskTimeout",
    "UnknownCall",
    "UnknownTask",
    "Workitem",
    "progress",
    "task",
]

#: What is imported when it is asked for: the daemons have no use for it, and clients bring AMQP along.
_LATER: Final = {
    "AsyncClient": "taskqueue.rpc.client",
    "Client": "taskqueue.rpc.client",
    "Call": "taskqueue.rpc.call",
    "Task": "taskqueue.rpc.task",
    "task": "taskqueue.rpc.task",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(_LATER.get(name, "taskqueue.errors")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

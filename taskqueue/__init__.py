"""A task queue that is installed like any other system service and extended by plugins."""

import importlib
from typing import TYPE_CHECKING, Any, Final

from taskqueue.errors import Reject, Retry, TaskTimeout
from taskqueue.messages.workitem import Workitem
from taskqueue.worker.base import BaseWorker, progress

if TYPE_CHECKING:
    from taskqueue.calls.call import Call
    from taskqueue.calls.client import AsyncClient, Client
    from taskqueue.calls.run import AsyncRun, Run
    from taskqueue.calls.task import Task, task
    from taskqueue.errors import (
        BadArguments,
        BadWorkflow,
        BrokerRefused,
        BrokerUnavailable,
        CallCancelled,
        CallError,
        CallTimeout,
        DuplicateCall,
        FlowRefused,
        NoFlow,
        ReplyLost,
        StoreFailed,
        TaskFailed,
        UnknownCall,
        UnknownTask,
        WorkflowFailed,
    )
    from taskqueue.messages.routing import Route
    from taskqueue.worker.store import DirectoryStore, ResultStore
    from taskqueue.workflows.canvas import chain, group
    from taskqueue.workflows.definition import Batch, Extend, Workflow

__all__ = [
    "AsyncClient",
    "AsyncRun",
    "BadArguments",
    "BadWorkflow",
    "BaseWorker",
    "Batch",
    "BrokerRefused",
    "BrokerUnavailable",
    "Call",
    "CallCancelled",
    "CallError",
    "CallTimeout",
    "Client",
    "DirectoryStore",
    "DuplicateCall",
    "Extend",
    "FlowRefused",
    "NoFlow",
    "Reject",
    "ReplyLost",
    "ResultStore",
    "Retry",
    "Route",
    "Run",
    "StoreFailed",
    "Task",
    "TaskFailed",
    "TaskTimeout",
    "UnknownCall",
    "UnknownTask",
    "Workflow",
    "WorkflowFailed",
    "Workitem",
    "chain",
    "group",
    "progress",
    "task",
]

#: Names that are imported on demand: the daemons have no use for them, and clients bring AMQP along.
_LATER: Final = {
    "AsyncClient": "taskqueue.calls.client",
    "Client": "taskqueue.calls.client",
    "Call": "taskqueue.calls.call",
    "Run": "taskqueue.calls.run",
    "AsyncRun": "taskqueue.calls.run",
    "Task": "taskqueue.calls.task",
    "task": "taskqueue.calls.task",
    "Route": "taskqueue.messages.routing",
    "DirectoryStore": "taskqueue.worker.store",
    "ResultStore": "taskqueue.worker.store",
    "Workflow": "taskqueue.workflows.definition",
    "Batch": "taskqueue.workflows.definition",
    "Extend": "taskqueue.workflows.definition",
    "chain": "taskqueue.workflows.canvas",
    "group": "taskqueue.workflows.canvas",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(_LATER.get(name, "taskqueue.errors")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

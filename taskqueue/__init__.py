"""A task queue that is installed like any other system service and extended by plugins."""

from taskqueue.errors import Reject, Retry, TaskTimeout
from taskqueue.worker import BaseWorker
from taskqueue.workitem import Workitem

__all__ = ["BaseWorker", "Reject", "Retry", "TaskTimeout", "Workitem"]

"""A task queue that is installed like any other system service and extended by plugins."""

from taskqueue.worker import BaseWorker
from taskqueue.workitem import Workitem

__all__ = ["BaseWorker", "Workitem"]

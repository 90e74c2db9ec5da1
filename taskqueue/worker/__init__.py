"""The process that runs plugin code, one workitem at a time. Plugins import BaseWorker from here."""

from taskqueue.worker.base import BaseWorker as BaseWorker

"""The plugin of the chaos suite: each workitem's body says how it behaves."""

import os
import time

from taskqueue import Reject
from taskqueue.worker.base import BaseWorker


class Chameleon(BaseWorker):
    """Behaves well or badly, always or once."""

    def handle_task(self, body):
        how, is_first = body["how"], self.workitem.attempt == 1
        time.sleep(body["seconds"])
        if how == "raising" or (how == "raising once" and is_first):
            raise ValueError("as it was asked to")
        if how == "crashing" or (how == "crashing once" and is_first):
            os._exit(3)
        if how == "rejecting":
            raise Reject("as it was asked to")
        if how == "eating memory":
            eat()
        return {"attempt": self.workitem.attempt}


def eat():
    """Eat memory until there is no more."""
    eaten = []
    while True:
        eaten.append(bytearray(16 * 1024 * 1024))

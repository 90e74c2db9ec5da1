"""Helpers of the tests of the configuration."""

from pathlib import Path

from taskqueue.config import UnixUsers

SEED = Path(__file__).parents[1] / "fixtures" / "seed-config.ini"
PLUGINS = ("worker1", "worker2", "worker3")

#: A password that must never be printed.
SECRET = "k1ngf1sher"


class People(UnixUsers):
    """Users that need not exist on the machine of the test."""

    def __init__(self, own_uid=1000, **uids):
        self.uids = {
            "root": 0,
            "taskqueue": 990,
            "taskqueue-worker": 991,
            "bifh1": 2001,
            "bifh2": 2002,
        } | uids
        self.own = own_uid

    def uid(self, name):
        return self.uids.get(name)

    def own_uid(self):
        return self.own


def groups(settings):
    return {group.name: (group.worker_type, group.workers, group.user) for group in settings.groups}

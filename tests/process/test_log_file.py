"""A log file that root's daemons share with the users they become."""

import signal

import pytest
from support.site import AS_ROOT
from support.waiting import wait_until


@pytest.mark.skipif(not AS_ROOT, reason="only root's consumers are another user")
def test_a_rotated_log_is_written_on_by_consumers_that_cannot_make_a_new_one(site, work):
    directory = site.directory / "log"
    directory.mkdir()
    log, old = directory / "pool.log", directory / "pool.log.1"
    site.configure(f"[logging]\ndestination: {log}\n[flooding]\nworkers: 1")
    pool = site.start("workerpool", "-f", "-c", str(site.config))
    begun = ("ready:", "takes work")  # both, in either order: whoever writes after the rename makes a new log
    wait_until(lambda: log.exists() and all(word in log.read_text() for word in begun), 20, pool.output)
    log.rename(old)
    work.ask("flooding", {"lines": 1})
    wait_until(lambda: "flood 0" in old.read_text())
    assert not log.exists()
    pool.signal(signal.SIGHUP)
    wait_until(lambda: log.exists() and "reloaded" in log.read_text())
    assert log.owner() == "taskqueue"
    work.ask("flooding", {"lines": 2})
    wait_until(lambda: "flood 1" in log.read_text())
    assert pool.stop() == 0

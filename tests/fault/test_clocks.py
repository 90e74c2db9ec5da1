"""The clock of a host jumps by an hour, forward and back, while workitems run, fail and wait."""

import pytest
from support.waiting import wait_until

# Has every Python process that finds it on its path add to its clock what the file says.
MODULE = """
import itertools
import time
from pathlib import Path

_time = time.time
_shift = Path({path!r})
_wavering = itertools.cycle((0, -3600))

def shifted():
    try:
        said = _shift.read_text()
    except OSError:
        return _time()
    return _time() + (next(_wavering) if said == "wavering" else float(said))

time.time = shifted
"""

HOUR = 3600
ITEMS = 20


class Clock:
    """The wall clock of a site's daemons; the monotonic one stays as it is."""

    def __init__(self, site):
        self._shift = site.directory / "shift"
        module = site.directory / "clock" / "sitecustomize.py"
        module.parent.mkdir()
        module.write_text(MODULE.format(path=str(self._shift)))
        for path, mode in ((module.parent, 0o755), (module, 0o644)):
            path.chmod(mode)
        self.variables = {"PYTHONPATH": f"{module.parent}:{site.plugins}"}
        self.jump(0)

    def jump(self, seconds):
        self._set(str(seconds))

    def waver(self):
        """Set the clock back by an hour after every other look at it, and on again after the others."""
        self._set("wavering")

    def _set(self, shift):
        written = self._shift.with_suffix(".new")
        written.write_text(shift)
        written.chmod(0o644)
        written.rename(self._shift)


@pytest.fixture
def clock(site):
    return Clock(site)


@pytest.mark.parametrize(("before", "after"), [(0, HOUR), (0, -HOUR), (-HOUR, HOUR)])
def test_retries_and_leases_come_in_time_when_the_clock_jumps(site, work, clock, before, after):
    clock.jump(before)
    site.configure(
        "[stubborn]\nworkers: 2\nretries: 3\nretry_delay: 1\nretry_jitter: 0\n"
        "[gated]\nworkers: 1\nlease_after: 1\nlease_timeout: 5",
    )
    daemons = [site.start(name, "-f", "-c", str(site.config), **clock.variables) for name in DAEMONS]
    for daemon, ready in zip(daemons, ("ready:", "takes work"), strict=True):
        daemon.wait_for(ready)
    long = work.dispatch("gated", {"gate": str(site.gate())})
    items = [work.dispatch("stubborn", {"times": 2, "error": "ValueError"}) for _ in range(ITEMS)]
    wait_until(lambda: len(site.notes()) >= ITEMS)  # all of them wait for their next run, or have had it
    clock.jump(after)
    results = work.results(ITEMS)
    assert set(results) == set(items)
    assert {result.status for result in results.values()} == {"succeeded"}
    wait_until(lambda: work.foreign.depth("worker_gated") == 0)
    site.gate().touch()
    assert work.result().workitem == long
    assert [daemon.stop() for daemon in daemons] == [0, 0]
    assert "Traceback" not in "".join(daemon.output() for daemon in daemons)


def test_retries_come_in_time_whenever_the_clock_is_set(site, work, clock):
    clock.waver()
    site.configure("[stubborn]\nworkers: 2\nretries: 3\nretry_delay: 1\nretry_jitter: 0")
    daemons = [site.start(name, "-f", "-c", str(site.config), **clock.variables) for name in DAEMONS]
    for daemon, ready in zip(daemons, ("ready:", "takes work"), strict=True):
        daemon.wait_for(ready)
    items = {work.dispatch("stubborn", {"times": 2, "error": "ValueError"}) for _ in range(ITEMS)}
    assert set(work.results(ITEMS)) == items
    assert [daemon.stop() for daemon in daemons] == [0, 0]


DAEMONS = ("workerpool", "dispatcher")

"""Functions that run in a process of their own, forked from the test's."""

import faulthandler
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from support.processes import kill
from support.waiting import wait_until


class Forked:
    """Runs a function in a child; its output goes to a file, its end is waited for with a deadline."""

    def __init__(self, run: Callable[[], int | None], output: Path) -> None:
        self.output_file = output
        self.status: int | None = None  # the exit status, negative for a signal; None while it runs
        self.pid = os.fork()
        if self.pid == 0:
            self._be(run)

    def _be(self, run: Callable[[], int | None]) -> None:
        status = 99
        faulthandler.disable()  # pytest's; a crash that a test wants is nobody's news
        try:
            log = os.open(self.output_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
            status = run() or 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 99
        except BaseException:  # noqa: BLE001 -- nothing may return into the test's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def output(self) -> str:
        return self.output_file.read_text() if self.output_file.exists() else ""

    def wait_for(self, text: str, times: int = 1, timeout: float = 10) -> None:
        """Wait until the output holds `text` as often as `times`."""
        wait_until(
            lambda: self.output().count(text) >= times, timeout, lambda: f"{text!r} in:\n{self.output()}"
        )

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 10) -> int:
        """Return the exit status, negative for a signal; fail after `timeout` seconds."""
        if self.status is None:
            if not self._ends_within(timeout):
                raise AssertionError(f"waited {timeout} s in vain for the end of:\n{self.output()}")
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def _ends_within(self, timeout: float) -> bool:
        descriptor = os.pidfd_open(self.pid)
        try:
            return bool(select.select([descriptor], [], [], timeout)[0])
        finally:
            os.close(descriptor)

    def clean_up(self) -> None:
        """Kill it, if it still runs."""
        if self.status is None:
            kill(self.pid)
            self.wait()

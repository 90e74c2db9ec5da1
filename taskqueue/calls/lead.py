"""Who runs a client's loop: a thread of the client's own, or one that waits for the only call that is out.

To hand a call to another thread and to be woken by it takes longer than all else that a client does for it.
So a thread that waits runs the loop meanwhile (the pattern is called leader/followers, POSA 2).
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop

_REST: Final = 0.25  # seconds that the client's own thread leaves the loop to others, unless it is needed
_LEADER: Final = "leader"


class Lead:
    """Has one thread run a loop at a time.

    That is the client's own until another thread has asked for the lead, and has waited in vain: from then on
    it rests while there is nothing to do but for threads that wait.
    """

    def __init__(self, loop: EventLoop, is_idle: Callable[[], bool]) -> None:
        """Share a loop; `is_idle` tells whether nothing is to be done or to be waited for."""
        self._loop = loop
        self._is_idle = is_idle
        # The thread that runs the loop, if any. No lock: who is interrupted by a signal's handler when he has
        # taken it and does not know that yet, would keep it for ever. `setdefault` is both at once.
        self._turn: dict[str, int] = {_LEADER: -1}  # at first nobody: the loop has not begun
        self._is_wanted = False  # whether another thread has asked for the lead
        self._needed = threading.Lock()  # released when the client's own thread must not rest

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the lead: a callback asks, or a signal's handler that interrupts it."""
        return self._turn.get(_LEADER) == threading.get_ident()

    def serve(self) -> None:
        """Run the loop until it is stopped, but while others do it; for the client's own thread."""
        self._turn[_LEADER] = threading.get_ident()
        try:
            self._loop.begin()
            self._serve()
            self._loop.end()
        finally:
            self._loop.stop()
            self._turn.pop(_LEADER, None)

    def _serve(self) -> None:
        while not self._loop.is_stopped:
            if self._may_rest():
                del self._turn[_LEADER]
                self._rest()
                self._is_wanted = False
            else:
                self._loop.round()

    def _may_rest(self) -> bool:
        if self._is_wanted and self._is_idle():
            self._needed.acquire(blocking=False)
            return self._is_idle()  # still: who has called `recall` before that is answered
        return False

    def _rest(self) -> None:
        """Wait until nobody has the lead and it is needed, or nobody wanted it for a while."""
        me = threading.get_ident()
        while True:
            self._needed.acquire(timeout=_REST)
            if self._turn.setdefault(_LEADER, me) == me:
                return  # otherwise whoever has it calls `recall` if there is more to do

    def recall(self) -> None:
        """See to it that the loop is run, for there is something to do; after that is there to be found."""
        with contextlib.suppress(RuntimeError):  # it is released already
            self._needed.release()

    def take(self, begin: Callable[[], None], is_done: Callable[[], bool], until: float) -> bool:
        """Begin something and run the loop until it is done or stopped; False if somebody else runs it.

        until -- the monotonic time when nobody waits any longer, or infinity
        Raises RuntimeError in a callback, or in a signal's handler that has interrupted the loop at work.
        """
        if self.is_mine:
            self._take_again(begin, is_done, until)
            return True
        me = threading.get_ident()
        try:
            if self._turn.setdefault(_LEADER, me) != me:
                self._is_wanted = True
                return False
            if self._loop.is_stopped:
                return False
            self._run(begin, is_done, until)
        finally:
            # No function is called before the lead is given up: signals' handlers run when one has returned.
            if _LEADER in self._turn and self._turn[_LEADER] == me:
                del self._turn[_LEADER]
            if self._loop.is_stopped or not self._is_idle():
                self.recall()
        return True

    def _take_again(self, begin: Callable[[], None], is_done: Callable[[], bool], until: float) -> None:
        if not self._loop.is_waiting:
            raise RuntimeError(
                "a callback or a signal's handler would wait for the client that it interrupts"
            )
        try:
            self._run(begin, is_done, until)
        finally:
            self._loop.wait_on()  # what was waited for may have come meanwhile

    def _run(self, begin: Callable[[], None], is_done: Callable[[], bool], until: float) -> None:
        timer: object | None = None

        def start() -> None:
            nonlocal timer
            if until != math.inf:
                timer = self._loop.call_later(max(0.0, until - time.monotonic()), self._loop.wake)
            begin()

        try:
            self._loop.perform(start)
            while not (self._loop.is_stopped or is_done() or time.monotonic() >= until):
                self._loop.round()
        except BaseException:  # of a signal's handler, KeyboardInterrupt above all: callbacks raise nothing
            if not self._loop.is_waiting:
                self._loop.stop()  # something is half done, and nobody knows what
            raise
        finally:
            if timer is not None:
                self._loop.cancel(timer)

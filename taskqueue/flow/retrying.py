"""The delay until something is tried again: it grows with each failure, and is short again after a while."""

import time
from typing import Final

_FIRST, _LONGEST = 0.5, 30.0  # seconds
_STEADY: Final = 60.0  # seconds without a failure, after which the next one is tried again soon


class RetryDelay:
    """A delay that doubles with each failure."""

    def __init__(self) -> None:
        self._delay = _FIRST
        self._failed = -_STEADY  # monotonic time of the last failure

    def after_failure(self) -> float:
        """Return the seconds until another try, after one more failure."""
        now = time.monotonic()
        if now - self._failed > _STEADY:
            self._delay = _FIRST
        self._failed = now
        delay, self._delay = self._delay, min(self._delay * 2, _LONGEST)
        return delay

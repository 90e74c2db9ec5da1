"""How many examples a test tries: `make check` tries a fifth of them, others each time."""

import os
from typing import Any

from hypothesis import settings

_SHARE = 1 if os.environ.get("CI") else 5


def share_of(number: int) -> int:
    """Return a number of examples in CI, and a fifth of it elsewhere; at least one."""
    return max(1, number // _SHARE)


def examples(number: int, **others: Any) -> settings:
    """Return settings with which Hypothesis tries `share_of` a number of examples."""
    return settings(max_examples=share_of(number), **others)

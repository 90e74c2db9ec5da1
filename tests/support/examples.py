"""How many examples Hypothesis tries: `make check` tries a fifth of them, others each time."""

import os
from typing import Any

from hypothesis import settings

_SHARE = 1 if os.environ.get("CI") else 5


def examples(number: int, **others: Any) -> settings:
    """Return settings with so many examples in CI, and a fifth of them elsewhere."""
    return settings(max_examples=max(1, number // _SHARE), **others)

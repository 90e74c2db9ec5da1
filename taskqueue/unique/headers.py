"""The headers by which a producer says what makes a workitem unique."""

from dataclasses import dataclass
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.errors import Unroutable
from taskqueue.messages.lanes import tenant_of
from taskqueue.messages.names import CLAIM, DEBOUNCE, DEBOUNCED, UNIQUE, UNIQUE_FOR
from taskqueue.messages.options import LONGEST_KEPT, key_fault
from taskqueue.unique.wire import Scope

#: Seconds for which a workitem has its key at most, unless `unique_for` is longer: a workitem that somebody
#: deletes from its queue never ends.
LONGEST_CLAIM: Final = 86400.0

_LONGEST_TOKEN: Final = 100  # characters
_MARKS: Final = (UNIQUE.encode(), DEBOUNCE.encode())


@dataclass(frozen=True, slots=True)
class Unique:
    """The headers that make a workitem unique.

    Args:
        scope: its worker type, tenant and key.
        unique_for: seconds that the key stays taken from its acceptance on; 0: until it is over.
        debounce: seconds that it waits for a later one; 0 for none.
        is_settled: whether it has waited.
    """

    scope: Scope
    unique_for: float = 0.0
    debounce: float = 0.0
    is_settled: bool = False


def unique_of(properties: Properties, worker_type: str) -> Unique | None:
    """Return what makes a workitem unique; None if nothing does. Raises Unroutable for a wrong value."""
    table = properties.header_table
    if table is None or not any(mark in table for mark in _MARKS):
        return None  # the most frequent case
    key = properties.header(UNIQUE)
    if key is None:
        if properties.header(DEBOUNCE) is not None:
            raise Unroutable(f"{DEBOUNCE} needs {UNIQUE}")
        return None
    if fault := key_fault(key):
        raise Unroutable(f"{UNIQUE}: {fault}")
    unique_for, debounce = _seconds(properties, UNIQUE_FOR), _seconds(properties, DEBOUNCE)
    scope = worker_type, tenant_of(properties), key
    return Unique(scope, unique_for, debounce, is_settled=properties.header(DEBOUNCED) is True)


def scope_in(properties: Properties, worker_type: str) -> Scope | None:
    """Return the scope of a workitem that a dispatcher has routed; None if it is not unique."""
    try:
        unique = unique_of(properties, worker_type)
    except (Unroutable, MalformedProperties):
        return None
    return None if unique is None else unique.scope


def token_in(properties: Properties) -> str:
    """Return the token of a workitem's claim; "" if its dispatcher has set none."""
    try:
        token = properties.header(CLAIM)
    except MalformedProperties:
        return ""
    return token if isinstance(token, str) and len(token) <= _LONGEST_TOKEN else ""


def _seconds(properties: Properties, name: str) -> float:
    value: Any = properties.header(name)
    if value is None:
        return 0.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= LONGEST_KEPT):
        raise Unroutable(f"{name} is {value!r:.60}; expected seconds, from 0 to {LONGEST_KEPT:.0f}")
    return float(value)

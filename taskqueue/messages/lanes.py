"""Priority, tenant, and the lanes that they choose (docs/protocol.md, section "Lanes")."""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.messages.names import TENANT
from taskqueue.messages.recording import LONGEST_TENANT

HIGHEST_PRIORITY: Final = 9

#: Bounds of the number of lanes of a worker type.
FEWEST_LANES: Final = 4
MOST_LANES: Final = 64

_URGENT: Final = 5  # the lowest priority of the highest of three classes; the lowest class is priority 0


def priority_of(properties: Properties) -> int:
    """Return a workitem's priority, 0 to 9: the AMQP property, where more than 9 counts as 9."""
    return min(properties.priority or 0, HIGHEST_PRIORITY)


def tenant_of(properties: Properties) -> str:
    """Return a workitem's tenant, cut to LONGEST_TENANT characters; "" for none, or for what is no text."""
    if properties.header_table is None:
        return ""  # the most frequent case
    try:
        tenant = properties.header(TENANT)
    except MalformedProperties:
        return ""
    return tenant[:LONGEST_TENANT] if isinstance(tenant, str) else ""


@lru_cache(maxsize=4096)
def lanes_of(priority: int, tenant: str, lanes: int) -> tuple[int, int]:
    """Return the numbers of the two lanes of a tenant for a priority; with one lane a class, they are equal.

    Half of the lanes take priority 0, a quarter 1 to 4, a quarter 5 to 9. Two lanes of a class belong to each
    tenant, by a hash that is the same everywhere: few tenants share both (shuffle sharding,
    https://aws.amazon.com/builders-library/workload-isolation-using-shuffle-sharding/).
    """
    quarter = lanes // 4
    if priority == 0:
        start, size = 0, lanes - 2 * quarter
    else:
        start, size = lanes - (quarter if priority >= _URGENT else 2 * quarter), quarter
    number = int.from_bytes(blake2b(tenant.encode(errors="backslashreplace"), digest_size=8).digest(), "big")
    first, step = number % size, number // size % max(1, size - 1) + 1
    return start + first, start + (first + step) % size

"""The addresses of clients, by which connections and failed logins are counted."""

import ipaddress
from typing import Final

_NETWORK: Final = 64  # bits of an IPv6 address that a provider gives to one customer (RFC 6177)
#: The header to which proxies add the address of their client.
FORWARDED: Final = "X-Forwarded-For"
#: The header in which they say whether their client speaks https.
FORWARDED_PROTO: Final = "X-Forwarded-Proto"


def network(address: str) -> str:
    """Return an IPv4 address, or the /64 of an IPv6 one; a text that is no address is returned as it is."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found.packed, _NETWORK), strict=False))


def behind_proxy(forwarded: str | None) -> str:
    """Return the address that a trusted proxy has added to X-Forwarded-For as the last one; "" for none.

    Those before it are what the client sent.
    """
    last = (forwarded or "").rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(last))
    except ValueError:
        return ""

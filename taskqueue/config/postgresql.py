"""The URL of a PostgreSQL database (PostgreSQL's documentation, section "Connection URIs")."""

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

SCHEMES: Final = ("postgresql", "postgres")
_SECRETS: Final = frozenset(("password", "sslpassword"))


def is_url(database: str) -> bool:
    """Whether the option `database` names a PostgreSQL database, and no directory."""
    return database.partition("://")[0] in SCHEMES


def without_password(url: str) -> str:
    """Return a URL that may be logged."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    pairs = [
        (key, value)
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
        if key.lower() not in _SECRETS
    ]
    query = urlencode(pairs, safe="/:,")
    shown = f"{parts.scheme}://{user.partition(':')[0]}{at}{hosts}{parts.path}"
    return f"{shown}?{query}" if query else shown

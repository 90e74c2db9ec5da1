"""The broker's address: the section [amqp], and AMQP URLs."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self
from urllib.parse import quote, unquote

from taskqueue.config.checks import Fault, Refused, refuse
from taskqueue.errors import ConfigError

#: IANA's port numbers for AMQP, and for AMQP over TLS.
PORT: Final = 5672
TLS_PORT: Final = 5671

_URL: Final = re.compile(
    r"(?P<scheme>amqps?)://(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^:@/?#]*))?@)?"
    r"(?P<hosts>[^@/?#]+)(?:/(?P<vhost>[^?#]*))?"
)
_HOST: Final = re.compile(
    r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?"
    r"|(?P<bare>[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)"  # an IPv6 address without port and brackets
)
_IN_URL: Final = ("host", "hosts", "port", "user", "password", "passwd", "vhost", "ssl")
_PASSWORDS: Final = ("password", "passwd", "passwd_file")
_TLS_FILES: Final = ("ca_file", "cert_file", "key_file")
_QUEUE_TYPES: Final = ("queue_type", "shared_queue_type")

#: In `trusted_users`: every message is believed, and none is signed.
ANYBODY: Final = "*"

#: Hosts as they are written: the port is None where none is given.
Hosts = tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class AmqpSettings:
    """A broker's address, and how to speak with it.

    Args:
        hosts: names or addresses with their ports, to be tried in turn; at least one.
        user: the broker's user.
        password: the user's password; in no repr.
        vhost: the virtual host.
        heartbeat: seconds without a sign of life after which a connection is given up; 0 for never.
        ssl: whether to speak TLS.
        ca_file: the authorities to trust (PEM); None for the system's.
        cert_file: our own certificate (PEM).
        key_file: the private key of cert_file (PEM).
        queue_type: the type of internal queues that we make: default, classic or quorum.
        shared_queue_type: the type of all other queues that we make.
        trusted_users: further users whose messages in internal queues are believed; ANYBODY for all.
        owner: the id of the user whose process must be at the other end, on this machine, before the password
            is sent; None for any user's.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    heartbeat: int = 20
    ssl: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    queue_type: str = "default"
    shared_queue_type: str = "default"
    trusted_users: tuple[str, ...] = ()
    owner: int | None = None

    @staticmethod
    def from_url(url: str, owner: int | None = None) -> "AmqpSettings":
        """Read amqp:// and amqps:// URLs (https://www.rabbitmq.com/docs/uri-spec).

        More hosts may follow the first, separated by commas; an empty virtual host is /, as most
        clients have it; there is no query.

        Raises:
            ConfigError: the URL has a fault. The error does not contain the password.
        """
        try:
            return replace(read_url(url), owner=owner)
        except Refused as refused:
            raise ConfigError([Fault("AMQP address", None, None, refused.expected, refused.found)]) from None

    @property
    def is_cluster(self) -> bool:
        """Whether there are several hosts: a queue's node may fail there, and a connection go on."""
        return len(self.hosts) > 1

    @property
    def signature(self) -> str | None:
        """The user_id of messages in internal queues; None for none."""
        return None if ANYBODY in self.trusted_users else self.user

    def url(self, *, masked: bool = True) -> str:
        """Return the address as a URL, its password as *** if masked; the files of TLS are not in it."""
        password = "***" if masked else quote(self.password, safe="")
        hosts = ",".join(f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in self.hosts)
        user, vhost = quote(self.user, safe=""), quote(self.vhost, safe="")
        return f"amqp{'s' if self.ssl else ''}://{user}:{password}@{hosts}/{vhost}"

    def to_json(self) -> str:
        """Return everything, password included, for a child process; it must never be logged."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return what to_json() was made from."""
        fields = json.loads(text)
        hosts = tuple((name, port) for name, port in fields["hosts"])
        return cls(**fields | {"hosts": hosts, "trusted_users": tuple(fields["trusted_users"])})


def read_url(value: str) -> AmqpSettings:
    """Take an AMQP URL; raises Refused without a word of the URL, any of which may be the password."""
    expected = "amqp://user:password@host:port/vhost, or amqps:// for TLS"
    if not value.startswith(("amqp://", "amqps://")):
        raise Refused(expected, "something that begins with neither amqp:// nor amqps://")
    match = _URL.fullmatch(value) if value.isprintable() else None
    if match is None:
        raise Refused(expected, "a part missing, a query, or one of / ? # : @ in a part, not percent-encoded")
    ssl = match["scheme"] == "amqps"
    try:
        hosts = with_ports(read_hosts(match["hosts"]), TLS_PORT if ssl else PORT)
    except Refused:
        raise Refused(expected, "a wrong host or port in it") from None
    user, password = unquote(match["user"] or "guest"), unquote(match["password"] or "guest")
    return AmqpSettings(hosts, user, password, unquote(match["vhost"] or "/"), ssl=ssl)


def read_hosts(value: str, most: str = "") -> Hosts:
    """Take at most `most` hosts separated by commas: names or addresses, each with its :port or not."""
    matches = [_HOST.fullmatch(host.strip()) for host in value.split(",")]
    hosts = tuple(
        (m["address"] or m["name"] or m["bare"], int(m["port"]) if m["port"] else None) for m in matches if m
    )
    ports_exist = all(port is None or 1 <= port <= 65535 for _, port in hosts)
    if not all(matches) or not ports_exist or len(hosts) > int(most or len(hosts)):
        refuse("a host or host:port" if most else "hosts or host:port, separated by commas", value)
    return hosts


def with_ports(hosts: Hosts, port: int) -> tuple[tuple[str, int], ...]:
    """Return the hosts with `port` where they have none of their own."""
    return tuple((name, own or port) for name, own in hosts)


def conflicts(given: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield option, expected and found for what [amqp] says twice or in vain.

    Args:
        given: the options that the file has, as written.
        values: all options, typed.
    """
    beside = [name for name in _IN_URL if name in given]
    if "url" in given and beside:
        yield "url", "no url, or none of " + ", ".join(_IN_URL), "url and " + ", ".join(beside)
    if "url" in given and "passwd_file" in given and has_password(given["url"]):
        yield "url", "a password in one place", "one in the URL and passwd_file"
    if "host" in given and "hosts" in given:
        yield "hosts", "either host or hosts", "both"
    passwords = [name for name in _PASSWORDS if name in given]
    if len(passwords) > 1:
        yield passwords[1], "one of " + ", ".join(_PASSWORDS), " and ".join(passwords)
    if "key_file" in given and "cert_file" not in given:
        yield "key_file", "cert_file beside it", "none"
    # a url that was refused is a fault already, whatever it would have said about TLS
    tls = values["url"].ssl if values["url"] else values["ssl"] or "url" in given
    for name in _TLS_FILES:
        if name in given and not tls:
            yield name, "an amqps URL or ssl: yes beside it", "a connection without TLS"


def has_password(url: str) -> bool:
    """Tell whether an AMQP URL holds a password."""
    match = _URL.fullmatch(url)
    return bool(match and match["password"])


def amqp_settings(values: Mapping[str, Any]) -> AmqpSettings | None:
    """Return the settings that the options of [amqp] come to; None if they name no host."""
    hosts = values["host"] or values["hosts"]
    if not values["url"] and not hosts:
        return None
    default_port = values["port"] or (TLS_PORT if values["ssl"] else PORT)
    password = values["passwd_file"] or values["password"] or values["passwd"]
    address = values["url"] or AmqpSettings(
        with_ports(hosts, default_port), values["user"], vhost=values["vhost"], ssl=values["ssl"]
    )
    others = {name: values[name] for name in ("heartbeat", *_TLS_FILES, *_QUEUE_TYPES, "trusted_users")}
    return replace(address, password=password or address.password, **others)

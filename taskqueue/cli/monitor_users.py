"""`taskqueue monitor user` and `token`: who may read the record."""

import sys
from dataclasses import dataclass
from typing import Final

import click

from taskqueue import config
from taskqueue.cli import options, tables
from taskqueue.monitor import place
from taskqueue.monitor.daemon import make
from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import ROLES, VIEWER, Rights
from taskqueue.monitor.web.users import Account, UserFile
from taskqueue.process import startup

_LONGEST_LINE: Final = 4096  # characters of a password from stdin


@dataclass(frozen=True, slots=True)
class Granted:
    """The options about rights."""

    role: str
    tenant: tuple[str, ...]
    types: tuple[str, ...]
    bodies: bool

    def rights(self, name: str) -> Rights:
        """Return the rights of a user of this name."""
        return Rights(name, self.role, frozenset(self.tenant), tuple(dict.fromkeys(self.types)), self.bodies)


_granted: Final = options.gathered(
    "granted",
    Granted,
    click.option(
        "--role",
        type=click.Choice(ROLES),
        default=VIEWER,
        show_default=True,
        help="A viewer reads, an operator also retries, cancels and purges, an admin also reads the audit.",
    ),
    click.option(
        "--tenant", multiple=True, metavar="T", help="See only workitems of tenant T; may be repeated."
    ),
    click.option(
        "--type",
        "types",
        multiple=True,
        metavar="PATTERN",
        help="See only worker types that match PATTERN, such as image-*; may be repeated.",
    ),
    click.option("--bodies", is_flag=True, help="See bodies and results, too."),
)


def _file(path: str | None, *, writes: bool = False) -> UserFile:
    """Return a configuration's file of users; its directory is made if it is to be written."""
    settings = config.load(path, (), as_root=False)
    directory = place.directory_to_manage(settings.monitor)
    if writes:
        make(directory, settings.workerpool.user, settings.monitor.user)
    return UserFile(place.users_file(directory))


@click.group()
def user() -> None:
    """Add, list or remove users, who log in with a password."""


@click.group()
def token() -> None:
    """Add, list or remove tokens, by which programs log in."""


@user.command("add")
@click.argument("name")
@_granted
@click.option("--no-password", is_flag=True, help="The user logs in at a proxy (proxy_socket) only.")
@options.config_option
def add_user(name: str, path: str | None, granted: Granted, *, no_password: bool) -> None:
    """Add a user, whose password is asked for.

    Without a terminal, the password is the first line of standard input.
    """
    file = _file(path, writes=True)
    file.add(users.user(granted.rights(name), None if no_password else _password()))
    startup.complain(f"user {name} is added to {file.path}\n")


def _password() -> str:
    if sys.stdin.isatty():
        entered: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return entered
    return sys.stdin.readline(_LONGEST_LINE).rstrip("\r\n")


@token.command("add")
@click.argument("name")
@_granted
@options.config_option
def add_token(name: str, path: str | None, granted: Granted) -> None:
    """Add a token and print it, once: only its hash is kept."""
    file = _file(path, writes=True)
    account, secret = users.token(granted.rights(name))
    file.add(account)
    startup.complain(f"token {name} is added to {file.path}\n")
    click.echo(secret)


def _remover(kind: click.Group, *, is_token: bool) -> None:
    @kind.command("remove", help=f"Remove a {kind.name}, with effect at once.")
    @click.argument("name")
    @options.config_option
    def remove(name: str, path: str | None) -> None:
        file = _file(path)
        file.remove(name, is_token=is_token)
        startup.complain(f"{kind.name} {name} is removed from {file.path}\n")


def _lister(kind: click.Group, *, is_token: bool) -> None:
    @kind.command("list", help=f"List {kind.name}s and their rights.")
    @tables.format_option
    @options.config_option
    def list_all(path: str | None, style: str) -> None:
        file = _file(path)
        accounts = [each for each in file.read().by_name.values() if each.is_token == is_token]
        if style == "text" and not accounts:
            click.echo(f"There is no {kind.name} in {file.path}.")
            return
        _show(accounts, f"{kind.name}", style)


for _kind, _is_token in ((user, False), (token, True)):
    _remover(_kind, is_token=_is_token)
    _lister(_kind, is_token=_is_token)


def _show(accounts: list[Account], kind: str, style: str) -> None:
    if style == "json":
        tables.show_json([users.listed(each) for each in accounts])
    else:
        rows = [_row(each.rights) for each in accounts]
        tables.show_table(f"{kind.capitalize()}s", ("name", "role", "tenants", "types", "bodies"), rows)


def _row(rights: Rights) -> tuple[str, ...]:
    tenants, types = ", ".join(sorted(rights.tenants)) or "all", ", ".join(rights.types) or "all"
    return rights.user, rights.role, tenants, types, "yes" if rights.bodies else "no"

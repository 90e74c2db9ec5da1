"""Options of several commands, and the start of a command with the broker's address out of sight."""

import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final, NoReturn

import click

from taskqueue import address
from taskqueue.address import Source
from taskqueue.errors import LONGEST_DELAY

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


class Seconds(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """A number of seconds, up to ten years."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; click reports any other value."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= LONGEST_DELAY:
            self.fail(
                f"expected a number of seconds from 0 to {LONGEST_DELAY:.0f}, found {value!r}.", param, ctx
            )
        return seconds


class Word(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """A text without blanks."""

    name = "word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word; click reports any other value."""
        if [value] != value.split():
            self.fail(f"expected a word without blanks, found {value!r:.60}.", param, ctx)
        return str(value)


class WholeNumber(click.IntRange):
    """A whole number in a range."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; click reports any other value."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            allowed = f"of {self.min} or more" if self.max is None else f"from {self.min} to {self.max}"
            self.fail(f"expected a whole number {allowed}, found {value!r}.", param, ctx)


def number(
    *names: str, meaning: str, least: int = 1, most: int | None = None, default: int | None = None
) -> Decorator:
    """Return an option that takes a whole number from `least` to `most`."""
    kind, is_shown = WholeNumber(least, most), default is not None
    return click.option(*names, type=kind, metavar="N", default=default, show_default=is_shown, help=meaning)


def together(*options: Decorator) -> Decorator:
    """Return several options as one decorator."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


def gathered(name: str, kind: type[Any], *options: Decorator) -> Decorator:
    """Return several options as one decorator; the command gets a `kind`, a dataclass of them, as `name`."""

    def add(command: Command) -> Command:
        @functools.wraps(command)
        def gathering(**values: Any) -> Any:
            made = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            return command(**values, **{name: made})

        return together(*options)(gathering)

    return add


def as_words(**values: object) -> list[str]:
    """Return options as the words of a command line; True is a flag, and None and False are left out."""
    words: list[str] = []
    for name, value in values.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


#: Labels of workitems; `taskqueue list --label` finds them by these.
tag_option: Final = click.option(
    "--tag",
    "--label",
    "tags",
    type=Word(),
    metavar="WORD",
    multiple=True,
    help="A word to find workitems by; may be repeated.",
)

#: -c FILE; the command gets its path, or None where there is no file at all.
config_option: Final = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    callback=lambda _context, _option, value: address.config_path(value),
    help=f"The configuration file; default {address.SYSTEM_CONFIG}, if that exists.",
)


def hide_address(source: Source, arguments: Sequence[str]) -> None:
    """Replace this process by `taskqueue` with these arguments, if an address is visible.

    Every user of the machine can read a process's arguments. The environment that a process was started
    with stays in its memory and in that of all its children.
    """
    if source.descriptor is not None:
        os.set_inheritable(source.descriptor, False)
    elif found := source.given():
        execute(arguments, address.store(found))


def need_address(source: Source, arguments: Sequence[str], *, is_configured: bool) -> None:
    """Replace this process by `taskqueue` with the address of a private broker, if no other is given."""
    if source.descriptor is None and not is_configured:
        execute(arguments, address.store(address.private_address()))


broker_options: Final = gathered(
    "source",
    Source,
    config_option,
    click.option(
        "--amqp",
        metavar="URL",
        help="The broker, as amqp://user:password@host:port/vhost. Others on this machine can see a password "
        f"that is given so; the variable {address.VARIABLE} or the configuration file keeps it to yourself.",
    ),
    click.option("--amqp-fd", "descriptor", type=int, hidden=True),
)


def execute(arguments: Sequence[str], descriptor: int) -> NoReturn:
    """Execute `taskqueue` in this process's place, with arguments and a stored address.

    -P keeps the current directory out of the modules' path.
    """
    command, *others = arguments
    words = [sys.executable, "-P", "-m", "taskqueue", command, "--amqp-fd", str(descriptor), *others]
    os.execve(sys.executable, words, environment())  # noqa: S606 -- no shell is wanted


def environment() -> dict[str, str]:
    """Return the environment without the address."""
    return {name: value for name, value in os.environ.items() if name != address.VARIABLE}

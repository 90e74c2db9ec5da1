"""Writes the manual pages, from the commands, the table of options and the table of exit statuses.

``manual.py DIRECTORY`` makes taskqueue.1, a page a command, and taskqueue-config.ini.5 there, in the man(7)
macros. Building the Debian packages calls it, so that no page can say anything else than the code.
"""

import inspect
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from reference import sections

from taskqueue import cli
from taskqueue.cli import taskmaster

ROOT = Path(__file__).resolve().parents[1]
COMMANDS, FORMATS = 1, 5  # of the manual's sections


def main() -> None:
    """Write all pages into the directory that the command line names."""
    directory = Path(sys.argv[1])
    for name, page in pages():
        (directory / name).write_text(page, encoding="utf-8")


def pages() -> Iterator[tuple[str, str]]:
    """Yield file name and content of every page."""
    context = click.Context(cli.taskqueue, info_name="taskqueue", **cli.taskqueue.context_settings)
    commands = list(subcommands(context))
    names = [f"taskqueue-{each.info_name}(1)" for each in commands]
    everywhere = [("EXIT STATUS", exit_statuses()), ("FILES", FILES)]
    yield page(context, COMMANDS, [*everywhere, see_also([*names, "taskqueue-config.ini(5)"])])
    for each in commands:
        yield page(each, COMMANDS, [*everywhere, see_also(["taskqueue(1)", "taskqueue-config.ini(5)"])])
    for name, command in TASKMASTER.items():
        yield page(
            click.Context(command, info_name=name), COMMANDS, [*everywhere, see_also(["taskqueue(1)"])]
        )
    yield configuration()


#: Commands beside taskqueue itself, by the names under which pyproject.toml installs them.
TASKMASTER = {
    "tm-master": taskmaster.master,
    "tm-slave": taskmaster.slave,
    "tm-spawn": taskmaster.spawn,
    "tm-run": taskmaster.run,
}

FILES = """\
.TP
.I /etc/taskqueue/config.ini
The configuration of this host.
.TP
.I /usr/share/doc/python-taskqueue-common
More documentation: plugins, operation, the AMQP messages.
"""


def subcommands(context: click.Context) -> Iterator[click.Context]:
    """Yield a context for each command of a group."""
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is not None and not command.hidden:
                yield click.Context(command, parent=context, info_name=name)


def page(context: click.Context, section: int, rest: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return the file name and the content of a command's page; `rest` are the sections at its end."""
    name = context.command_path.replace(" ", "-")
    summary = context.command.get_short_help_str(limit=200).rstrip(".")
    content = [
        heading(name, section),
        f".SH NAME\n{roff(name)} \\- {roff(summary[:1].lower() + summary[1:])}\n",
        f".SH SYNOPSIS\n{usage(context)}",
        f".SH DESCRIPTION\n{prose(context.command.help or '')}",
        options(".SH OPTIONS\n", context),
        "".join(command_entries(context)),
    ]
    content += [f".SH {title}\n{text}" for title, text in rest]
    return f"{name}.{section}", "".join(content)


def heading(name: str, section: int) -> str:
    """Return the first line of a page."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return f'.TH {roff(name.upper())} {section} "" "taskqueue {version}" "taskqueue"\n'


def usage(context: click.Context) -> str:
    """Return a command's line, as its help begins."""
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return f".B {roff(context.command_path)}\n{roff(pieces)}\n"


def options(title: str, context: click.Context) -> str:
    """Return a command's options with their meanings."""
    records = [parameter.get_help_record(context) for parameter in context.command.get_params(context)]
    return title + "".join(item(*record) for record in records if record)


def command_entries(context: click.Context) -> Iterator[str]:
    """Yield the commands of a group: on the first page in a line each, on others with all there is to say."""
    is_first = context.parent is None
    for number, each in enumerate(subcommands(context)):
        yield "" if number else ".SH COMMANDS\n"
        if is_first:
            yield item(f"taskqueue-{each.info_name}(1)", each.command.get_short_help_str(limit=200))
        else:
            yield from entry(each)


def entry(context: click.Context) -> Iterator[str]:
    """Yield all there is to say of a command, and of those below it."""
    words = context.command_path.split()[2:]  # after "taskqueue" and the page's own command
    yield f".SS {roff(' '.join(words))}\n{usage(context)}{prose(context.command.help or '')}"
    yield options("", context)
    for each in subcommands(context):
        yield from entry(each)


def see_also(names: Iterable[str]) -> tuple[str, str]:
    """Return the section that names other pages."""
    return "SEE ALSO", ",\n".join(f".BR {name.replace('(', ' (')}" for name in names) + "\n"


def exit_statuses() -> str:
    """Return the table of docs/operations.md as a list."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = text.partition("## Exit statuses")[2].partition("## ")[0]
    return "".join(item(*row) for row in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE))


def configuration() -> tuple[str, str]:
    """Return the page of config.ini."""
    name = "taskqueue-config.ini"
    content = [
        heading(name, FORMATS),
        f".SH NAME\n{name} \\- configuration of taskqueue's daemons\n",
    ]
    for title, meaning, rows in sections():
        content.append(f".SH {roff(title)}\n{roff(meaning)}\n")
        content += [
            item(row.name, f"{row.meaning} Expected: {row.expected}. Default: {row.default}.") for row in rows
        ]
    content += [".SH FILES\n", FILES, ".SH SEE ALSO\n.BR taskqueue (1)\n"]
    return f"{name}.{FORMATS}", "".join(content)


def item(term: str, text: str) -> str:
    """Return an entry of a list: a term, and what it means."""
    return f".TP\n.B {roff(term)}\n{roff(text)}\n"


def prose(help_text: str) -> str:
    r"""Return a help text as paragraphs; one that begins with click's sign "\b" keeps its lines."""
    return "".join(map(paragraph, inspect.cleandoc(help_text).split("\n\n")))


def paragraph(text: str) -> str:
    """Return one paragraph."""
    if not text.startswith("\b"):
        return f".PP\n{roff(text)}\n"
    return ".PP\n.nf\n" + "\n".join(roff(line) for line in text.split("\n")[1:]) + "\n.fi\n"


def roff(text: str) -> str:
    """Escape what roff would take for a command; what stands between backticks becomes bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


if __name__ == "__main__":
    main()

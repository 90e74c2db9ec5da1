"""docs/configuration.md, made from configspec.ini."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.config.checks import Refused
from taskqueue.config.specification import GROUP, specification, validator

_INTRODUCTION: Final = """\
# Configuration

Dispatcher and worker pool read `/etc/taskqueue/config.ini`, or the file given with `-c`. An empty file
will do: everything has a default. `taskqueue config` checks a file, prints every fault at once and what
the file comes to; a process does not start on a file with faults.

```ini
[DEFAULT]
workers: 1

; Workers
[worker1]
workers: 3

[worker2]
workers: bifh1, bifh2

[worker2_bifh1]
workers: 1
user: bifh1

[worker2_bifh2]
workers: 1
user: bifh2
```

- A line is `option: value` or `option = value`; an indented line continues the value of the one before it.
  A line that begins with `;` or `#` is a comment; behind a value there is none. Option names have no case.
- `[amqp]`, `[dispatcher]`, `[workerpool]` and `[logging]` are about taskqueue itself and inherit nothing.
  Every other section is named after a worker type, that is, after an installed plugin.
- `[DEFAULT]` is inherited by all worker types, and is all there is for a plugin that has no section.
- Where `workers` lists subgroups, each has a section of its own, `[TYPE_SUBGROUP]`, which inherits
  `[DEFAULT]` and then everything but `workers` from `[TYPE]`.
- Options of `[DEFAULT]` and worker sections that are not listed here reach the plugin as `self.settings`.

This page is made from `taskqueue/configspec.ini` by `make docs`.
"""

_SECTIONS: Final = {
    "amqp": ("[amqp]", "Where the broker is, unless the command line or `TASKQUEUE_AMQP` says so."),
    "dispatcher": ("[dispatcher]", "The daemon that routes workitems to the queues of their worker types."),
    "workerpool": ("[workerpool]", "The daemon that runs the plugins of one host."),
    "logging": ("[logging]", "What the daemons log, and where."),
    GROUP: ("[DEFAULT] and worker sections", "How the workers of a type, or of one of its subgroups, run."),
}

#: No option takes this, so that every one says what it takes.
_IMPOSSIBLE: Final = "\0"


@dataclass(frozen=True, slots=True)
class Option:
    """What there is to say about an option."""

    name: str
    expected: str
    default: str
    meaning: str


def reference() -> str:
    """Return the reference of all options in Markdown: docs/configuration.md."""
    return "\n".join([_INTRODUCTION, *(_section(*section) for section in sections())])


def sections() -> Iterator[tuple[str, str, list[Option]]]:
    """Yield title, meaning and options of every section, in the order of the file."""
    for kind, (title, meaning) in _SECTIONS.items():
        table = specification()[kind]
        yield title, meaning, [_option(name, check, table.comments[name]) for name, check in table.items()]


def _section(title: str, meaning: str, options: list[Option]) -> str:
    head = ["| option | value | default | meaning |", "| --- | --- | --- | --- |"]
    rows = [f"| `{each.name}` | {each.expected} | {each.default} | {each.meaning} |" for each in options]
    return "\n".join([f"## {title}", "", meaning, "", *head, *rows, ""])


def _option(name: str, check: str, comments: list[str]) -> Option:
    meaning = " ".join(line.removeprefix("#").strip() for line in comments).strip()
    return Option(name, _expected(check), _default(check), meaning)


def _expected(check: str) -> str:
    try:
        validator().check(check, _IMPOSSIBLE)
    except Refused as refused:
        return refused.expected
    raise AssertionError(f"{check} takes anything")


def _default(check: str) -> str:
    value: Any = validator().get_default_value(check)
    match value:
        case None | ():
            return "none"
        case bool():
            return "`yes`" if value else "`no`"
        case float():
            return f"`{value:.10g}`"
        case _:
            return f"`{value}`"

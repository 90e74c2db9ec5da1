"""Prints docs/configuration.md, made from configspec.ini: `make docs`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.config.checks import Refused
from taskqueue.config.settings import GROUP, LIMIT, SCHEDULE, specification, validator

_INTRODUCTION: Final = """\
# Configuration

Dispatcher, worker pool, monitor and flow process read `/etc/taskqueue/config.ini`, or the file given with
`-c`. The file may be empty: every option has a default. `taskqueue config` checks the file and prints all
faults, or the settings in force. A process does not start if the file has faults.

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

- A line is `option: value` or `option = value`. An indented line continues the value of the line before.
  Option names are not case-sensitive.
- A line that begins with `;` or `#` is a comment. A comment cannot follow a value.
- `[amqp]`, `[dispatcher]`, `[workerpool]`, `[monitor]`, `[flow]` and `[logging]` configure taskqueue itself
  and inherit nothing. Neither do the sections `[schedule NAME]` and `[limit NAME]`. Every other section is
  named after a worker type, which is the name of an installed plugin, or of the section's own choice if it
  has a `command`.
- All worker sections inherit `[DEFAULT]`. A plugin without a section uses `[DEFAULT]` alone.
- If `workers` lists subgroups, each has a section `[TYPE_SUBGROUP]`, which inherits `[DEFAULT]` and then
  everything except `workers` from `[TYPE]`.
- Options of `[DEFAULT]` and worker sections that are not listed here are passed to the plugin as
  `self.settings`.

`make docs` generates this page from `taskqueue/configspec.ini`.
"""

_SECTIONS: Final = {
    "amqp": ("[amqp]", "The broker, unless `--amqp` or the variable `TASKQUEUE_AMQP` names another."),
    "dispatcher": ("[dispatcher]", "The daemon that routes workitems to the queues of their worker types."),
    "workerpool": ("[workerpool]", "The daemon that runs the plugins of one host."),
    "monitor": ("[monitor]", "The daemon that records what became of every workitem."),
    "flow": (
        "[flow]",
        "The process that keeps workflows, of dispatcher daemons with this section, and of `taskqueue flow`.",
    ),
    "logging": ("[logging]", "The log of the daemons."),
    SCHEDULE: ("[schedule NAME]", "Workitems that are submitted at given times."),
    LIMIT: ("[limit NAME]", "A limit over the whole cluster, which worker sections name by `limits`."),
    GROUP: ("[DEFAULT] and worker sections", "The workers of a worker type, or of one of its subgroups."),
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
    if check.startswith(("duration", "size")) and "=None" not in check:  # as it is written: 7d, not 604800
        return f"`{check.rpartition('=')[2].rstrip(')')}`"
    value: Any = validator().get_default_value(check)
    match value:
        case None | ():
            return "none"
        case 0 if check.startswith("lanes"):
            return "`none`"
        case bool():
            return "`yes`" if value else "`no`"
        case float():
            return f"`{value:.10g}`"
        case _:
            return f"`{value}`"


if __name__ == "__main__":
    print(reference(), end="")

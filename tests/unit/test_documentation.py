"""The pages: every block is run by a test or says why not, and what they name is there."""

import ast
import builtins
import re
import shlex
import sys
from functools import cache

import chaos.__main__
import click
import pytest
from support.configs import PLUGINS, SEED, People, groups
from support.documentation import PAGES, PROJECT, blocks, commands, example, has

import taskqueue as package
from taskqueue.broker import session
from taskqueue.calls import client, named
from taskqueue.calls.call import Status
from taskqueue.cli import taskqueue
from taskqueue.config import GroupSettings
from taskqueue.consumer import admission, callers, judge, settlement
from taskqueue.errors import ExitStatus
from taskqueue.feed import chunk_publisher, feeder
from taskqueue.messages import jsonrpc
from taskqueue.messages.routing import _MOST_MEMBERS, LARGEST_READ
from taskqueue.messages.workitem import LARGEST_DECOMPRESSED
from taskqueue.process import children
from taskqueue.worker import executing

MEBIBYTE = 1024 * 1024
DEFAULT = GroupSettings("any", "any")
EVERY_PAGE = (*PAGES, "CONTRIBUTING.md", "ARCHITECTURE.md")


@cache
def run_by_tests():
    """Return what the tests call `example()` with: (page, beginning of a line)."""
    texts = [path.read_text(encoding="utf-8") for path in (PROJECT / "tests").rglob("*.py")]
    nodes = [node for text in texts if "example(" in text for node in ast.walk(ast.parse(text))]
    return [
        tuple(ast.literal_eval(argument) for argument in node.args)
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "example"
        and len(node.args) == 2
    ]


def is_run(block):
    return any(page == block.page and has(block, line) for page, line in run_by_tests())


def test_every_block_is_run_by_a_test_or_says_why_not():
    found = [each for page in PAGES for each in blocks(page)]
    assert len(found) > len(PAGES)
    neither = [f"{each.page}:{each.line}" for each in found if not is_run(each) and not each.reason]
    assert neither == [], "no test calls example() for them, and no mark is before them"
    both = [f"{each.page}:{each.line}" for each in found if is_run(each) and each.reason]
    assert both == [], "a test runs them, and they are marked"


def test_every_fence_belongs_to_a_block():
    for page in PAGES:
        assert (PROJECT / page).read_text(encoding="utf-8").count("```") == 2 * len(blocks(page)), page


def spans(page):
    """Return the commands of a page: what stands between backticks, and the lines of its shell blocks."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    lines = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)) + [
        line.partition(" #")[0].strip() for line in lines
    ]


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_no_line_ends_within_backticks(page):
    """The checks of commands and grep find a code span only if it is on one line."""
    text = re.sub(r"^```.*?^```$", "", (PROJECT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in text.splitlines() if line.count("`") % 2] == []


def commands_of(program):
    """Return the calls of a program on all pages, each as (page, words)."""
    start = re.compile(rf"(?:\S*/)?{program} (.+)")
    return [
        (page, found[1].split())
        for page in EVERY_PAGE
        for span in spans(page)
        if (found := start.fullmatch(span)) is not None
    ]


def test_every_command_and_option_that_a_page_names_is_there():
    called = commands_of("taskqueue")
    assert {page for page, _ in called} > {"README.md", "docs/operations.md"}
    for page, words in called:
        check_command(page, words)


def check_command(page, words):
    # With the group's settings: a command keeps the help option that the first context gave it.
    context, command = click.Context(taskqueue, **taskqueue.context_settings), taskqueue
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = [command.get_command(context, each) for each in name.split("|")]
        assert all(found), f"{page}: there is no command {name}"
        command = found[0]
    known = {option for each in command.get_params(context) for option in (*each.opts, *each.secondary_opts)}
    used = {
        word.strip("[]").partition("=")[0]
        for word in words
        if word.strip("[").startswith("-") and word != "-"
    }
    assert used <= known, f"{page}: {used - known} of {command.name}"


@pytest.mark.parametrize(
    "words", ["status", "list", "logs", "cancel", "top", "monitor user add", "monitor rebuild"]
)
def test_the_page_of_the_monitor_names_each_option_of_its_commands(words):
    text = (PROJECT / "docs/monitor.md").read_text()
    command = taskqueue
    for word in words.split():
        command = command.get_command(click.Context(command), word)
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    for option in options:
        named = [re.search(rf"(?<![\w-]){re.escape(name)}\b", text) for name in option.opts]
        assert any(named), f"{words}: {option.opts}"
    assert options


def test_every_chore_that_a_page_names_is_in_the_makefile():
    chores = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    called = commands_of("make")
    assert {page for page, _ in called} > {"README.md", "CONTRIBUTING.md"}
    assert [(page, words[0]) for page, words in called if words[0] not in chores] == []


@pytest.mark.parametrize("command", ["feed", "run"])
def test_the_options_of_a_feed_have_the_defaults_that_the_page_says(command):
    table = (PROJECT / "docs/feeding.md").read_text().partition("| option of `feed` and `run` |")[2]
    rows = re.findall(r"^\| `([^|]+)` \| ([^|]*)\|", table.partition("\n\n")[0], re.MULTILINE)
    options = {each.opts[0]: each for each in taskqueue.get_command(None, command).params}
    said = {option: default.strip() for names, default in rows for option in re.findall(r"--[\w-]+", names)}
    assert len(said) > 8
    for option, default in said.items():
        assert option in options
        if re.fullmatch(r"[\d,]+", default):
            assert options[option].default == int(default.replace(",", "")), option


def test_the_exit_statuses_that_the_pages_list_are_those_of_the_code():
    page = (PROJECT / "docs/operations.md").read_text().partition("## Exit statuses")[2].partition("\n## ")[0]
    said = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert said >= {0} | set(map(int, ExitStatus)) - {ExitStatus.OK}


# --- blocks that take no broker ---


def test_the_readmes_configuration_says_what_it_seems_to(read, tmp_path):
    password = tmp_path / "password"
    password.write_text("secret\n")
    text = example("README.md", "host: rabbit.example.org").replace("/etc/taskqueue/password", str(password))
    settings = read(text, ("digest", "thumbnail"), as_root=True, people=People(images=2003), mode=0o640)
    assert groups(settings) == {"digest": ("digest", 4, None), "thumbnail": ("thumbnail", 2, "images")}
    assert [group.results_routing_key for group in settings.groups] == ["results", "thumbnails"]
    assert (settings.amqp.hosts, settings.amqp.user) == ((("rabbit.example.org", 5672),), "taskqueue")
    assert settings.amqp.password == "secret"
    assert settings.warnings == ()


def test_the_configuration_of_a_cluster_says_what_it_seems_to(read):
    amqp = read(example("docs/operations.md", "hosts: rabbit1, rabbit2, rabbit3")).amqp
    assert [host for host, _ in amqp.hosts] == ["rabbit1", "rabbit2", "rabbit3"]
    assert (amqp.queue_type, amqp.shared_queue_type) == ("quorum", "quorum")


def test_the_configuration_that_the_page_begins_with_is_read(read):
    assert example("docs/configuration.md", "[DEFAULT]") == SEED.read_text()
    settings = read(example("docs/configuration.md", "[DEFAULT]"), PLUGINS, as_root=True)
    assert settings.warnings == ()
    assert len(settings.groups) == 4


def test_the_options_of_the_chaos_suite_are_as_the_page_has_them(monkeypatch):
    plain, chosen = commands(example("docs/reliability.md", "make chaos"))
    said = re.fullmatch(r"make chaos +# seed (\d+), ([\d,]+) workitems, (\d+) faults", plain)
    for typed, expected in [
        ([], [int(number.replace(",", "")) for number in said.groups()]),
        (shlex.split(chosen)[2].partition("OPTIONS=")[2].split(), [7, 5000, 75]),
    ]:
        monkeypatch.setattr(sys, "argv", ["chaos", *typed])
        options = chaos.__main__.parse()
        assert [options.seed, options.workitems, options.faults] == expected


def column(page, heading):
    """Return the names in the first column of a table, which stand between backticks there."""
    table = (PROJECT / page).read_text(encoding="utf-8").partition(f"| {heading} |")[2].partition("\n\n")[0]
    return [
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split(" | ")[0])
    ]


def test_the_errors_of_calls_that_the_page_lists_are_in_the_package():
    listed = column("docs/calling.md", "exception")
    assert "CallTimeout" in listed
    assert all(isinstance(getattr(package, name, getattr(builtins, name, None)), type) for name in listed)
    errors = {name for name in package.__all__ if isinstance(getattr(package, name), type)}
    errors = {name for name in errors if issubclass(getattr(package, name), package.CallError)}
    assert errors - {"CallError"} <= set(listed)
    assert set(listed[: len(errors) - 1]) == errors - {"CallError"}  # the upper part


def test_the_statuses_of_a_call_that_the_page_lists_are_all_there_are():
    assert sorted(column("docs/calling.md", "status")) == sorted(Status)


(LIMIT,) = [
    each
    for each in taskqueue.get_command(None, "failed").get_command(None, "list").params
    if each.name == "limit"
]
#: What the pages promise in numbers: a page, words around a number on it, and the number in the code.
NUMBERS = [
    ("docs/commands.md", "its last {} KiB are the text", executing._LONGEST_ERROR / 1024),
    ("docs/commands.md", "in mode `stream`, {} MiB by default", DEFAULT.max_result / MEBIBYTE),
    ("docs/calling.md", "at most {} calls out", client._WINDOW),
    ("docs/calling.md", "`broker_timeout` ({} seconds)", client.BROKER_TIMEOUT),
    ("docs/calling.md", "At most {} of its calls may be out", named._MOST_OPEN),
    (
        "docs/feeding.md",
        "receipts have waited for more than {} days",
        chunk_publisher._RECEIPTS_EXPIRE / 86_400_000,
    ),
    ("docs/feeding.md", "{} seconds after the connection is back", feeder._SILENCE),
    ("docs/operations.md", "growing pauses of up to {} seconds", session._LONGEST_DELAY),
    ("docs/operations.md", "growing pause of up to {} seconds", children._LONGEST_DELAY),
    ("docs/operations.md", "`lease_after` seconds ({} minutes)", DEFAULT.lease_after / 60),
    ("docs/operations.md", "`lease_timeout` seconds ({} minutes)", DEFAULT.lease_timeout / 60),
    ("docs/operations.md", "the oldest {}, or `--limit N`", LIMIT.default),
    ("docs/plugins.md", "up to {} times, whatever `retries` is", judge.MOST_REQUESTS),
    ("docs/protocol.md", "its JSON may have at most {} MiB", LARGEST_READ / MEBIBYTE),
    ("docs/protocol.md", "decompressed, {} values", jsonrpc.MOST_VALUES),
    ("docs/protocol.md", "and {} members at the top", _MOST_MEMBERS),
    ("docs/protocol.md", "A worker decompresses up to {} MiB", LARGEST_DECOMPRESSED / MEBIBYTE),
    ("docs/protocol.md", "a body of more than {} KiB whose worker", settlement._LARGEST_QUOTED / 1024),
    ("docs/protocol.md", "A workitem of more than {} KiB whose worker", settlement._LARGEST_QUOTED / 1024),
    ("docs/protocol.md", "never more than {} s earlier", admission._EARLY),
    ("docs/protocol.md", "({} of them), and drop the call", callers._REMEMBERED),
]


@pytest.mark.parametrize(("page", "words", "number"), NUMBERS, ids=lambda value: str(value)[:40])
def test_the_numbers_of_the_pages_are_those_of_the_code(page, words, number):
    text = re.sub(r"\s+", " ", (PROJECT / page).read_text(encoding="utf-8"))
    before, _, after = words.partition("{}")
    (said,) = re.findall(f"{re.escape(before)}([0-9.,]+[0-9]|[0-9]){re.escape(after)}", text)
    assert float(said.replace(",", "")) == number


# --- links ---


def anchors(page):
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", (PROJECT / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_link_leads_somewhere():
    history = [f"docs/history/{path.name}" for path in (PROJECT / "docs/history").glob("*.md")]
    assert len(history) > 0
    for page in (*EVERY_PAGE, *history):
        check_links(page)


def check_links(page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (PROJECT / page).parent / path if path else PROJECT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(PROJECT)), f"{page}: {target}"

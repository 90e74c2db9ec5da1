"""The code is as the documentation describes it; packages import only those of lower layers."""

import ast
import re
import signal
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "taskqueue"

#: Who may import whom: a package, or a module beside the packages, imports what stands before it here.
LAYERS = [
    *["errors", "texts", "amqp", "messages", "unique", "schedules", "limits", "workflows", "config"],
    *["plugins", "process", "broker", "private_broker", "address", "worker", "consumer", "control"],
    *["supervisor", "scheduler", "keeper", "gate", "postgresql", "flow", "dispatcher", "deadletters"],
    *["monitor", "doctor", "feed", "calls", "testing", "cli", "node"],
]
LAYER_OF = {name: number for number, name in enumerate(LAYERS)}

#: Who alone may import a library.
OWNERS = {"pika": "broker", "stevedore": "plugins", "daemon": "process", "configobj": "config",
          "click": "cli", "rich": "cli", "tornado": "monitor", "psycopg": "postgresql",
          "prometheus_client": "monitor"}  # fmt: skip


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def text_of(name):
    return FILES[name].read_text()


@cache
def tree_of(name):
    return ast.parse(text_of(name))


def statements(node):
    """Yield a node and the statements, handlers and cases in it, but no expressions: they take most time."""
    yield node
    for inner in held(node):
        yield from statements(inner)


def held(node):
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        yield from getattr(node, field, ())


@cache
def nodes_of(name):
    return list(statements(tree_of(name)))


@cache
def imports(name):
    """Return what a module imports, also inside functions; names of taskqueue's own without that word."""
    return set(find_imports(name))


def find_imports(name):
    for node in nodes_of(name):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("taskqueue.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("taskqueue.")
                is_module = f"{node.module}.".startswith("taskqueue.") and inner in FILES
                yield inner if is_module else node.module.removeprefix("taskqueue.")


def place(name):
    """Return a module's package, or the module itself beside the packages."""
    return name.partition(".")[0]


# --- arrows ---


def test_every_module_has_its_layer():
    assert {place(name) for name in FILES} - {"", "__main__"} == set(LAYER_OF)


def test_arrows_point_down():
    arrows = [
        (name, imported)
        for name in FILES
        for imported in imports(name)
        if place(name) in LAYER_OF and imported in FILES and place(imported) != place(name)
    ]
    assert len(arrows) > len(FILES)
    assert [arrow for arrow in arrows if LAYER_OF[place(arrow[1])] >= LAYER_OF[place(arrow[0])]] == []


def libraries(nodes):
    """Return what a module imports that is not ours, also inside functions: names of top-level packages."""
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - {"taskqueue"}


def test_each_library_is_imported_in_one_place():
    seen = set()
    for name in FILES:
        for library in libraries(nodes_of(name)) & OWNERS.keys():
            seen.add(library)
            assert place(name) == OWNERS[library], f"{name} imports {library}"
    assert seen == OWNERS.keys()


def test_only_the_broker_package_and_the_benchmarks_limit_import_pika():
    if not (PROJECT / ".git").exists():
        pytest.skip("not in a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    importing = re.compile(rb"(?:import|from)\s+pika\b")
    files = [name for name in listed if name and (PROJECT / name).is_file()]
    found = {name for name in files if importing.search((PROJECT / name).read_bytes())}
    assert found
    allowed = "taskqueue/broker/", "benchmarks/", "tests/clients/client_pika.py"  # the last is a user's
    assert all(name.startswith(allowed) for name in found), found


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("taskqueue.worker.process", "pika stevedore configobj click rich"),
        ("taskqueue.supervisor", "pika stevedore"),
    ],
)
def test_processes_near_root_or_plugins_do_not_load_what_is_not_theirs(module, unwanted):
    code = f"import sys, {module}; print(*set({unwanted.split()!r}) & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=PROJECT
    )
    assert done.stdout.split() == []


# --- bounds ---

LONGEST_FILE, LONGEST_FUNCTION = 300, 40  # lines of code


def code_lines(text, nodes):
    """Return the numbers of the lines that hold code: no blank line, comment or docstring."""
    stripped = enumerate(map(str.lstrip, text.splitlines()), 1)
    lines = {number for number, line in stripped if line and not line.startswith("#")}
    owners = [node for node in nodes if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docstrings = [node.body[0] for node in owners if ast.get_docstring(node, clean=False) is not None]
    return lines - {line for each in docstrings for line in range(each.lineno, each.end_lineno + 1)}


def sizes(lines, tree, prefix=""):
    """Yield each function by its dotted name, with how many of the lines are its own."""
    for node in held(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{prefix}{node.name}", len(lines.intersection(range(node.lineno, node.end_lineno + 1)))
        is_named = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        yield from sizes(lines, node, f"{prefix}{node.name}." if is_named else prefix)


def test_no_file_and_no_function_is_longer_than_they_may_be():
    larger, longer = set(), set()
    for name in FILES:
        lines = code_lines(text_of(name), nodes_of(name))
        if len(lines) > LONGEST_FILE:
            larger.add(name)
        found = sizes(lines, tree_of(name), f"{name}.")
        longer |= {function for function, size in found if size > LONGEST_FUNCTION}
    assert not larger, "each hides a second noun: make that a file of its own"
    assert not longer


COUNTED = '''"""A
docstring."""

x = (
    1,
)

def f():  # why
    """Say it."""
    # why
    return """a

b"""
'''
NESTED = """
class A:
    def f(self):
        def g():
            pass
try:
    pass
except ValueError:
    def h():
        pass
else:
    match 1:
        case _:
            def i():
                pass
"""


def test_what_is_counted_is_code():
    tree, nested = ast.parse(COUNTED), ast.parse(NESTED)
    lines = code_lines(COUNTED, statements(tree))
    assert len(lines) == 6
    assert list(sizes(lines, tree, "m.")) == [("m.f", 3)]
    assert list(sizes(code_lines(NESTED, statements(nested)), nested)) == [
        ("A.f", 3), ("A.f.g", 2), ("h", 2), ("i", 2)
    ]  # fmt: skip


# --- ARCHITECTURE.md ---


def members(node):
    """Yield what a class defines: its names, and the attributes of self that its methods assign."""
    for inner in node.body:
        yield from names(inner)
        if isinstance(inner, ast.FunctionDef):
            yield from (target.attr for target in attributes(inner))


def names(node):
    match node:
        case ast.ClassDef() | ast.FunctionDef():
            yield node.name
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.Assign(targets=[ast.Name(id=name)]):
            yield name


def attributes(method):
    """Yield the attributes of self that a method assigns."""
    for node in ast.walk(method):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node


def is_string(word):
    """Tell whether the code has a word as a value: the name of a queue, an entry point group, a header."""
    trees = [tree_of(name) for name in FILES if f'"{word}"' in text_of(name)]
    return any(
        isinstance(node, ast.Constant) and node.value == word for each in trees for node in ast.walk(each)
    )


@cache
def options():
    return set(re.findall(r"^(\w+) *=", (PACKAGE / "configspec.ini").read_text(), re.MULTILINE))


@cache
def defined(name):
    """Return what a module defines: NAME, function and Class, with their nodes."""
    return {word: node for node in tree_of(name).body for word in names(node)}


def defines(name, word):
    """Tell whether a module defines a NAME, function, Class or Class.member."""
    first, _, member = word.partition(".")
    node = defined(name).get(first)
    return node is not None and (not member or (isinstance(node, ast.ClassDef) and member in members(node)))


@cache
def is_known(word):
    return (
        any(defines(name, word) for name in FILES)
        or word in options()
        or word in signal.Signals.__members__
        or is_string(word)
    )


@cache
def paths():
    """Return the files and directories of the package by the last part of their path."""
    found = defaultdict(list)
    for path in PACKAGE.rglob("*"):
        found[path.name].append(path)
    return found


def files(name):
    """Return the files of the package of this name, or, with slashes, of the project."""
    wanted = name.rstrip("/")
    candidates = [*paths().get(wanted.rpartition("/")[2], []), PROJECT / name]
    return [path for path in candidates if path.match(wanted) and path.exists()]


def unknown(text):
    """Return what stands between backticks, looks like a name of the code, and is none.

    `file.py` and `directory/` must be there; `name`, `name(...)` and `Class.member` must be defined, or
    be a value or an option. In `name` (`file.py`) the file must be the one that defines the name.
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", text)
    paths = [span for span in spans if re.fullmatch(r"[\w/.-]+(\.py|/)", span)]
    words = [span.partition("(")[0] for span in spans if re.fullmatch(r"[A-Za-z_][\w.]*(\([^)]*\))?", span)]
    missing = [path for path in paths if not files(path)]
    missing += [word for word in words if word not in paths and not is_known(word)]
    for word, path in re.findall(r"`([\w.]+)`\s\(`([\w/]+\.py)`\)", text):
        if not any(defines(module_name(file), word) for file in files(path)):
            missing.append(f"{word} ({path})")
    return missing


def test_every_name_in_the_architecture_exists():
    assert unknown((PROJECT / "ARCHITECTURE.md").read_text()) == []


def test_names_that_do_not_exist_are_noticed():
    good = ["broker/", "supervisor/group.py", "Slot.fill", "find_route(body)", "stop_timeout", "taskqueue up",
            "SIGTERM", "worker_<type>", "taskqueue_rejected", "worker.plugins"]  # fmt: skip
    assert unknown(" ".join(f"`{name}`" for name in good) + " `Slot` (`children.py`)") == []
    bad = ["childern.py", "pond/", "Slt", "Slot.fil", "find_root", "stop_timeouts", "broker.nothing"]
    assert unknown(" ".join(f"`{name}`" for name in bad)) == bad
    assert unknown("`Slot` (`plugins.py`)") == ["Slot (plugins.py)"]
    assert unknown("```\n`nothing`\n```") == []

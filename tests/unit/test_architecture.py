"""What the documentation says about the code, and who may import whom."""

import ast
import re
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "taskqueue"

#: Who may import whom: modules import what stands above them, and what stands on their own line only
#: inside a package. "pool" stands for what of it is not named by itself.
LAYERS = """
errors escaping encodings log_file
startup
places
headers
properties
rpc.jsonrpc
workitem
wear
config
broker
address
plugins processes daemon results
formats passage logs pool.labels
pool.frames pool.control pool.limits pool.output pool.permits pool.privileges pool.surroundings
worker keeper
rpc.calls
pool dispatcher formats submission kept feed
fleet
rpc
testing
cli
node
"""
LAYER_OF = {name: number for number, line in enumerate(LAYERS.split("\n")) for name in line.split()}

#: Who alone may import a library.
OWNERS = {"pika": "broker", "stevedore": "plugins", "daemon": "daemon", "configobj": "config", "click": "cli",
          "rich": "cli"}  # fmt: skip


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(name):
    return ast.parse(FILES[name].read_text())


@cache
def nodes_of(name):
    return list(ast.walk(tree_of(name)))


def is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(name, *, types=True):
    """Yield what a module imports, also inside functions; names of taskqueue's own without that word."""
    nodes = nodes_of(name)
    if not types:
        hidden = {id(inner) for node in nodes if is_for_types(node) for inner in ast.walk(node)}
        nodes = [node for node in nodes if id(node) not in hidden]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("taskqueue.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("taskqueue.")
                is_module = f"{node.module}.".startswith("taskqueue.") and inner in FILES
                yield inner if is_module else node.module.removeprefix("taskqueue.")


def place(name):
    """Return a module's entry among the layers."""
    return name if name in LAYER_OF else name.partition(".")[0]


# --- arrows ---


def test_every_module_has_its_layer():
    assert {place(name) for name in FILES} - {"", "__main__"} == set(LAYER_OF)


@pytest.mark.parametrize("name", [name for name in FILES if place(name) in LAYER_OF])
def test_arrows_point_down(name):
    for imported in imports(name, types=False):
        other = place(imported)
        if imported in FILES and other != place(name):
            assert LAYER_OF[other] < LAYER_OF[place(name)], f"{name} imports {imported}"


def test_the_broker_package_knows_errors_workitems_properties_and_types_of_the_configuration():
    for name in FILES:
        if place(name) == "broker":
            ours = {place(other) for other in imports(name, types=False) if other in FILES}
            assert ours <= {"broker", "errors", "places", "workitem", "properties", "headers"}
            types = {place(other) for other in imports(name) if other in FILES}
            assert types - ours <= {"config"}


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
        ("taskqueue.worker", "pika stevedore configobj click rich"),
        ("taskqueue.pool.supervisor", "pika stevedore"),
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
#: Files that are longer, and wait for being divided.
LARGER = {"workitem"}
#: Functions that are longer: each of them puts the parts of a process together.
LONGER = {
    "broker.subscription.Subscription.__init__",
    "dispatcher.Dispatcher.__init__",
    "pool.link.WorkerLink.__init__",
    "pool.workload.Workload.__init__",
}


def code_lines(text, nodes):
    """Return the numbers of the lines that hold code: no blank line, comment or docstring."""
    lines = {number for number, line in enumerate(text.splitlines(), 1) if re.match(r"\s*[^\s#]", line)}
    owners = [node for node in nodes if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docstrings = [node.body[0] for node in owners if ast.get_docstring(node, clean=False) is not None]
    return lines - {line for each in docstrings for line in range(each.lineno, each.end_lineno + 1)}


def sizes(lines, tree, prefix=""):
    """Yield each function by its dotted name, with how many of the lines are its own."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{prefix}{node.name}", len(lines.intersection(range(node.lineno, node.end_lineno + 1)))
        is_named = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        yield from sizes(lines, node, f"{prefix}{node.name}." if is_named else prefix)


@pytest.mark.parametrize("name", FILES)
def test_no_file_and_no_function_is_longer_than_they_may_be(name):
    tree = tree_of(name)
    lines = code_lines(FILES[name].read_text(), nodes_of(name))
    assert len(lines) <= LONGEST_FILE or name in LARGER, "it hides a second noun: make that a file of its own"
    too_long = {each for each, size in sizes(lines, tree, f"{name}.") if size > LONGEST_FUNCTION}
    assert too_long <= LONGER


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
"""


def test_what_is_counted_is_code():
    tree, nested = ast.parse(COUNTED), ast.parse(NESTED)
    lines = code_lines(COUNTED, ast.walk(tree))
    assert len(lines) == 6
    assert list(sizes(lines, tree, "m.")) == [("m.f", 3)]
    assert list(sizes(code_lines(NESTED, ast.walk(nested)), nested)) == [("A.f", 3), ("A.f.g", 2)]


# --- ARCHITECTURE.md ---


def definitions(tree):
    """Yield what a module defines: NAME, function, Class, and Class.member."""
    for node in tree.body:
        yield from names(node)
        if isinstance(node, ast.ClassDef):
            methods = [inner for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)]
            own = [target.attr for method in methods for target in attributes(method)]
            yield from (f"{node.name}.{member}" for inner in node.body for member in names(inner))
            yield from (f"{node.name}.{member}" for member in own)


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
            and ast.unparse(node.value) == "self"
        ):
            yield node


def strings():
    """Return the words that the code has as values: names of queues, entry point groups, headers."""
    nodes = [node for name in FILES for node in nodes_of(name)]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def options():
    return set(re.findall(r"^(\w+) *=", (PACKAGE / "configspec.ini").read_text(), re.MULTILINE))


@cache
def defined(name):
    return set(definitions(tree_of(name)))


@cache
def known():
    return set().union(*map(defined, FILES)) | strings() | options() | set(signal.Signals.__members__)


@cache
def paths():
    return list(PACKAGE.rglob("*"))


def files(name):
    """Return the files of the package of this name, or, with slashes, of the project."""
    return [path for path in (*paths(), PROJECT / name) if path.match(name.rstrip("/")) and path.exists()]


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
    missing += [word for word in words if word not in paths and word not in known()]
    for word, path in re.findall(r"`([\w.]+)`\s\(`([\w/]+\.py)`\)", text):
        if not any(word in defined(module_name(file)) for file in files(path)):
            missing.append(f"{word} ({path})")
    return missing


def test_every_name_in_the_architecture_exists():
    assert unknown((PROJECT / "ARCHITECTURE.md").read_text()) == []


def test_names_that_do_not_exist_are_noticed():
    good = ["pool/", "pool/group.py", "Slot.fill", "find_route(body)", "stop_timeout", "taskqueue up",
            "SIGTERM", "worker_<type>", "taskqueue_rejected", "worker.plugins"]  # fmt: skip
    assert unknown(" ".join(f"`{name}`" for name in good) + " `Keeper` (`keeper.py`)") == []
    bad = ["keepr.py", "pond/", "Keepr", "Slot.fil", "find_root", "stop_timeouts", "pool.nothing"]
    assert unknown(" ".join(f"`{name}`" for name in bad)) == bad
    assert unknown("`Slot` (`keeper.py`)") == ["Slot (keeper.py)"]
    assert unknown("```\n`nothing`\n```") == []

"""The code blocks of the pages, so that tests run what a reader would run.

A block is run by the test that calls `example()` for it, or a mark in the line before it says why none does:
`<!-- not run: it takes an hour -->`. tests/unit/test_documentation.py holds every block to that.
"""

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    reason: str  # why no test runs it; "" without a mark


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in their order."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("text")),
            found["language"],
            found["text"],
            found["reason"] or "",
        )
        for found in _BLOCK.finditer(text)
    ]


def example(page: str, line: str) -> str:
    """Return the one block of a page that has a line which begins so."""
    (found,) = [each for each in blocks(page) if has(each, line)]
    return found.text


def has(block: Block, line: str) -> bool:
    """Tell whether a block has a line that begins so."""
    return any(each.startswith(line) for each in block.text.splitlines())


def commands(text: str) -> list[str]:
    """Return the commands of a shell block; one that ends in a backslash goes on in the next line."""
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


async def values(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a Python block as a notebook would, `await` included; return what each expression comes to.

    names: what the block finds there; what it defines is added
    """
    found = {}
    for statement in ast.parse(code).body:
        if not isinstance(statement, ast.Expr):
            exec(compile(ast.Module([statement], []), "<example>", "exec"), names)
            continue
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        value = eval(compile(ast.Expression(statement.value), "<example>", "eval", flags), names)
        found[ast.unparse(statement)] = await value if _is_awaited(statement) else value
    return found


def _is_awaited(statement: ast.Expr) -> bool:
    return isinstance(statement.value, ast.Await)

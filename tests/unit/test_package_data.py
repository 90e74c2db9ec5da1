"""Files of the package that are no modules are installed with it."""

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_every_file_that_is_no_module_is_package_data():
    package = PROJECT / "taskqueue"
    listed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    installed = {path for pattern in listed["taskqueue"] for path in package.glob(pattern)}
    others = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others
    assert others == installed

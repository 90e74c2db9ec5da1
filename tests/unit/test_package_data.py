"""What is installed: files of the package that are no modules, and the checkout's path."""

import subprocess
import sys
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


def test_a_script_beside_a_checkout_named_taskqueue_imports_the_package(tmp_path):
    (tmp_path / "taskqueue").mkdir()
    (tmp_path / "script.py").write_text("import taskqueue; print(taskqueue.__file__)")
    command = [sys.executable, "-P", "-c", "import taskqueue; print(taskqueue.__file__)"]
    installed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    script = [sys.executable, "script.py"]
    found = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found == installed != "None\n"

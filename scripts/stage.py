"""Copies this checkout and its environment to a place that every user can read.

Workers that root starts run as a user of their own, who cannot enter a checkout under /root or in a
private home. ``stage(directory)`` makes a copy for them.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Links into the checkout, and tools that the copy can do without.
LEFT_OUT = ("__editable__*", "_pytest", "mypy*", "*__mypyc*", "pip*", "pytest*", "ruff*", "setuptools*")


def stage(directory: Path) -> Path:
    """Copy checkout and environment into a new directory; return the path of its Python interpreter.

    The copy's taskqueue and digest plugin are real files, not links into the checkout; the files of the
    project lie in `directory`/tree. All of it is readable by everybody, as are not its parents: choose
    a directory below /var/tmp.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    # By its real path: what a virtual environment links to must not lie in the checkout.
    subprocess.run(
        [Path(sys.executable).resolve(), "-m", "venv", "--without-pip", directory / "venv"], check=True
    )
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(directory.resolve() / "venv")}))
    shutil.copytree(
        sysconfig.get_path("purelib"), packages, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True
    )
    shutil.copytree(ROOT / "taskqueue", packages / "taskqueue")
    shutil.copy2(ROOT / "examples/digest/digest_plugin.py", packages)
    for file in project_files():
        (directory / "tree" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, directory / "tree" / file)
    subprocess.run(["chmod", "-R", "a+rX", directory], check=True)  # whatever umask and checkout were
    return directory / "venv/bin/python"


def project_files() -> list[Path]:
    """List the files of the project, relative to its root; not what is built or ignored."""
    # The checkout may be another user's, as with sudo.
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]

"""What is in the memory of a process."""

import re
from pathlib import Path

import pytest


def memory(pid: int) -> bytes:
    """Return what a process may read of its own memory; as root, or as its user where ptrace allows."""
    found = b""
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
            for start, end in re.findall(
                r"^(\w+)-(\w+) rw", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE
            ):
                file.seek(int(start, 16))
                found += file.read(int(end, 16) - int(start, 16))
    except PermissionError:
        pytest.skip("this kernel lets nobody but root look into a process")
    assert len(found) > 100_000
    return found

"""A worker type that tells a file's size, line count and SHA-256."""

import hashlib
from pathlib import Path
from typing import Any

from taskqueue.worker.base import BaseWorker

BLOCK = 1 << 20  # bytes read at once: memory stays constant whatever the file's size


class Worker(BaseWorker):
    """Digests the file that a workitem names; running one twice does no harm."""

    def handle_task(self, body: Any) -> Any:
        """Digest a file, given as a path, as ``{"path": ...}``, or as ``fields.path`` of a Ruote workitem.

        Returns the digest; for a Ruote workitem the whole workitem with ``fields.digest`` set.

        Raises:
            ValueError: the body names no path, or what it names is no regular file.
            OSError: the file cannot be read; FileNotFoundError where there is none.
        """
        match body:
            case str(path) | {"path": str(path)}:
                return digest(path)
            case {"fields": {"path": str(path)}}:
                body["fields"]["digest"] = digest(path)
                return body
        raise ValueError('expected a path, {"path": PATH}, or a Ruote workitem with fields.path')


def digest(path: str) -> dict[str, str | int]:
    """Return path, size in bytes, newlines (as wc -l) and SHA-256 (hexadecimal) of a file."""
    if not Path(path).is_file() and Path(path).exists():
        raise ValueError(f"not a regular file: {path}")  # reading a pipe or a device might never end
    size = lines = 0
    sha256 = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK):
            size += len(block)
            lines += block.count(b"\n")
            sha256.update(block)
    return {"path": path, "size": size, "lines": lines, "sha256": sha256.hexdigest()}

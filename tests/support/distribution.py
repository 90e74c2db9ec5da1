"""Distributions as pip leaves them behind, with entry points and nothing else."""

from collections.abc import Mapping
from pathlib import Path


def install(
    directory: Path,
    name: str,
    entry_points: Mapping[str, str],
    group: str = "worker.plugins",
    version: str = "1.0",
) -> None:
    """Make a distribution in a directory of the modules' path, or replace it by one of the same version."""
    info = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{plugin} = {target}" for plugin, target in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))

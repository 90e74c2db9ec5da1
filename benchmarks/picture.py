"""The picture: a panel for each row that has somebody to be compared with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from benchmarks.findings import Finding
from benchmarks.report import shown

mpl.use("Agg")  # no display is needed
from matplotlib import pyplot as plt

_COLUMNS: Final = 3
_OURS, _LIMIT, _PEER = "#1f77b4", "#9aa5b1", "#d9a66c"


def draw(path: Path, findings: Sequence[Finding]) -> None:
    """Draw what can be compared into a PNG file; nothing where nothing can."""
    panels = [finding for finding in findings if finding.limit is not None or finding.peers]
    if not panels:
        return
    rows = -(-len(panels) // _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 2.7 * rows), squeeze=False)
    for axis, finding in zip(axes.flat, panels, strict=False):
        _panel(axis, finding)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, finding: Finding) -> None:
    bars = [("taskqueue", finding.ours, _OURS)]
    if finding.limit is not None:
        bars.append(("bare pika", finding.limit, _LIMIT))
    is_cost = finding.unit in ("ms", "s", "MiB")
    peers = sorted(finding.peers.items(), key=lambda item: item[1], reverse=not is_cost)
    bars += [(name, figure, _PEER) for name, figure in peers]
    names, figures, colours = zip(*bars, strict=True)
    drawn = axis.barh(range(len(bars)), figures, color=colours)
    axis.bar_label(drawn, [shown(each) for each in figures], fontsize=7, padding=2)
    axis.set_yticks(range(len(bars)), names, fontsize=7)
    axis.invert_yaxis()
    axis.tick_params(axis="x", labelsize=6)
    axis.margins(x=0.18)
    less = ", less is better" if is_cost else ""
    axis.set_title(f"{finding.measure} ({finding.unit}{less})", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)

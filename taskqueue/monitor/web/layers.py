"""The layout of a graph without cycles: boxes in layers, and straight lines that go downwards."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 170  # of a box
HEIGHT: Final = 46
_ACROSS: Final = 22  # between two boxes of a row
_DOWN: Final = 18  # between two rows of a layer
_BETWEEN: Final = 48  # between two layers
_MARGIN: Final = 8
_MOST_IN_ROW: Final = 6  # boxes, which fit on a usual screen; a larger layer has several rows
_SWEEPS: Final = 4  # over all layers to order them


@dataclass(frozen=True, slots=True)
class Line:
    """A line from the bottom of a box to the top of another one."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Layout:
    """A picture: its size, the left upper corners of the boxes by name, and the lines."""

    width: float
    height: float
    boxes: Mapping[str, tuple[float, float]]
    lines: Sequence[Line]


def layout(before: Mapping[str, Sequence[str]], last: Collection[str] = ()) -> Layout:
    """Return the layout of a graph; a box stands below all of those before it.

    Args:
        before: by the name of each box, the names of those directly before it.
        last: boxes without lines that stand below all others.

    Raises ValueError if there is a cycle, or a name of no box.
    """
    layer_of = _layers(before)
    depth = max((layer_of[name] for name in before if name not in last), default=-1) + 1
    layers: list[list[str]] = [[] for _ in range(depth + bool(last))]
    for name, layer in layer_of.items():
        layers[depth if name in last else layer].append(name)
    boxes, width, height = _placed(_ordered(layers, before))
    lines = [
        Line(
            boxes[one][0] + WIDTH / 2,
            boxes[one][1] + HEIGHT,
            boxes[other][0] + WIDTH / 2,
            boxes[other][1],
        )
        for other, ones in before.items()
        for one in ones
    ]
    return Layout(width, height, boxes, lines)


def _layers(before: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the layer of each box: the number of lines of the longest path to it."""
    after = _after(before)
    missing = {name: len(ones) for name, ones in before.items()}
    ready = [name for name, count in missing.items() if not count]
    layer_of = dict.fromkeys(ready, 0)
    for name in ready:  # it grows
        for other in after[name]:
            layer_of[other] = max(layer_of.get(other, 0), layer_of[name] + 1)
            missing[other] -= 1
            if not missing[other]:
                ready.append(other)
    if len(ready) < len(before):
        raise ValueError("the graph has a cycle")
    return {name: layer_of[name] for name in before}


def _after(before: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    after: dict[str, list[str]] = {name: [] for name in before}
    for other, ones in before.items():
        for one in ones:
            if one not in after:
                raise ValueError(f"there is no box {one!r}")
            after[one].append(other)
    return after


def _ordered(layers: list[list[str]], before: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Order each layer by the mean place of the neighbours (barycenter), downwards and upwards in turn."""
    after = _after(before)
    place = {name: _place(number, len(layer)) for layer in layers for number, name in enumerate(layer)}

    def mean(name: str, neighbours: Sequence[str]) -> float:
        return sum(place[each] for each in neighbours) / len(neighbours) if neighbours else place[name]

    for sweep in range(_SWEEPS):
        is_down = sweep % 2 == 0
        neighbours: Mapping[str, Sequence[str]] = before if is_down else after
        for layer in layers if is_down else reversed(layers):
            wanted = {name: mean(name, neighbours[name]) for name in layer}
            layer.sort(key=wanted.__getitem__)
            place |= {name: _place(number, len(layer)) for number, name in enumerate(layer)}
    return layers


def _place(number: int, count: int) -> float:
    """Return how far from the left a box stands in its layer, of 1."""
    return (number + 0.5) / count


def _placed(layers: Sequence[Sequence[str]]) -> tuple[dict[str, tuple[float, float]], float, float]:
    """Return the corners of the boxes, and the size of the whole: each row stands in the middle."""
    longest = max((min(len(layer), _MOST_IN_ROW) for layer in layers), default=0)
    width = 2.0 * _MARGIN + max(0, longest * (WIDTH + _ACROSS) - _ACROSS)
    boxes: dict[str, tuple[float, float]] = {}
    y = float(_MARGIN)
    for layer in layers:
        for start in range(0, len(layer), _MOST_IN_ROW):
            row = layer[start : start + _MOST_IN_ROW]
            left = (width - len(row) * (WIDTH + _ACROSS) + _ACROSS) / 2
            for number, name in enumerate(row):
                boxes[name] = (left + number * (WIDTH + _ACROSS), y)
            y += HEIGHT + _DOWN
        y += _BETWEEN - _DOWN
    return boxes, width, max(0.0, y - _BETWEEN) + _MARGIN

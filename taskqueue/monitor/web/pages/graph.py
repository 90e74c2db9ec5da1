"""The graph of a workflow as SVG: a box for each step, or for all elements of a map, and lines."""

from collections.abc import Mapping, Sequence
from typing import Final

from tornado.escape import xhtml_escape

from taskqueue.monitor.web.layers import HEIGHT, WIDTH, Line, layout
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.workflows import StepRow

_NAME: Final = 20  # characters that fit in a box
_STATE: Final = 25
_TITLE: Final = 300


def graph_html(label: str, steps: Sequence[StepRow], addresses: Mapping[str, str]) -> str:
    """Return a picture of steps; callbacks stand below the others.

    label -- says what it shows, for those who do not see it
    addresses -- where each box leads, by the name of its step
    """
    found = layout({each.step: each.after for each in steps}, [each.step for each in steps if each.on])
    lines = "".join(map(_line_html, found.lines))
    boxes = "".join(_box_html(each, *found.boxes[each.step], addresses[each.step]) for each in steps)
    width, height = f"{found.width:.0f}", f"{found.height:.0f}"
    return (
        f'<svg class="graph" role="group" aria-label="{xhtml_escape(label)}" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}">{lines}{boxes}</svg>'
    )


def _line_html(line: Line) -> str:
    return f'<line x1="{line.x1:.1f}" y1="{line.y1:.1f}" x2="{line.x2:.1f}" y2="{line.y2:.1f}"/>'


def _box_html(step: StepRow, x: float, y: float, address: str) -> str:
    middle = f"{x + WIDTH / 2:.1f}"
    state = state_of(step)
    shown = f"{state}, on {step.on}" if step.on else state
    title = ", ".join(filter(None, (step.step, f"type {step.type}", state, on_of(step))))
    is_map = " map" if step.is_map else ""
    return (
        f'<a href="{xhtml_escape(address)}" class="box{is_map} {xhtml_escape(step.state)}">'
        f"<title>{_text_html(title, _TITLE)}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        f'<text x="{middle}" y="{y + 19:.1f}">{_text_html(step.step, _NAME)}</text>'
        f'<text x="{middle}" y="{y + 36:.1f}" class="of">{_text_html(shown, _STATE)}</text></a>'
    )


def _text_html(text: str, longest: int) -> str:
    return xhtml_escape(showing.line(text, longest))


def state_of(step: StepRow) -> str:
    """Return the state of a step in words; of a map with elements, how many have succeeded."""
    count = sum(step.elements.values())
    if step.is_map and count:
        done = showing.number(step.elements.get("succeeded", 0))
        return f"{done} of {showing.number(count)}, {step.state}"
    return step.state + (f", run {step.run}" if step.run > 1 else "")


def on_of(step: StepRow) -> str:
    """Return when a callback runs; "" for other steps."""
    return f"when the workflow has {step.on}" if step.on else ""

"""The layout of a graph: no box over another, lines that go downwards, and a bounded amount of work."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from taskqueue.monitor.web.layers import HEIGHT, WIDTH, Layout, layout


def crossings(found: Layout) -> int:
    """Return how many pairs of lines between the same two rows cross."""
    return sum(
        (one.x1 - other.x1) * (one.x2 - other.x2) < 0
        for one, other in combinations(found.lines, 2)
        if (one.y1, one.y2) == (other.y1, other.y2)
    )


def check(found: Layout) -> None:
    for (x1, y1), (x2, y2) in combinations(found.boxes.values(), 2):
        assert abs(x1 - x2) > WIDTH or abs(y1 - y2) > HEIGHT, "they overlap or touch"
    for x, y in found.boxes.values():
        assert 0 <= x <= found.width - WIDTH
        assert 0 <= y <= found.height - HEIGHT
    assert all(line.y1 < line.y2 for line in found.lines)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Draw a graph whose boxes come after some of those that were drawn before."""
    count = draw(st.integers(0, 40))
    return {
        str(number): draw(st.lists(st.sampled_from([str(each) for each in range(number)]), unique=True))
        if number
        else []
        for number in range(count)
    }


@examples(50)
@given(graphs(), st.data())
def test_boxes_do_not_overlap_and_lines_go_down(graph: dict[str, list[str]], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(graph.items()))))
    found = layout(shuffled)
    check(found)
    assert found.boxes.keys() == graph.keys()
    assert len(found.lines) == sum(map(len, graph.values()))


def test_a_box_stands_below_the_longest_path_to_it() -> None:
    graph = {"a": [], "b": ["a"], "c": ["b"], "d": ["a", "c"], "e": []}
    boxes = layout(graph, last=["e"]).boxes
    assert sorted(graph, key=lambda name: boxes[name][1]) == ["a", "b", "c", "d", "e"]
    assert len({y for _, y in boxes.values()}) == 5, "the last stands alone"


def test_lines_that_need_not_cross_do_not() -> None:
    pairs = {f"b{number}": [f"a{number}"] for number in range(8)}
    graph = {f"a{number}": [] for number in (3, 1, 7, 0, 5, 2, 6, 4)} | pairs
    assert crossings(layout(graph)) == 0


def test_an_empty_graph_has_an_empty_picture() -> None:
    assert layout({}).boxes == {}
    assert layout({}).width > 0


@pytest.mark.parametrize(
    ("graph", "said"),
    [({"a": ["b"], "b": ["a"]}, "cycle"), ({"a": ["a"]}, "cycle"), ({"a": ["x"]}, "no box 'x'")],
)
def test_what_is_no_graph_without_cycles_is_refused(graph: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        layout(graph)


class Counted(list[str]):
    """A list of names that counts how many of them are read."""

    read = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        Counted.read += len(self)
        return super().__iter__()


def test_a_thousand_steps_take_work_in_proportion_to_their_lines() -> None:
    def work(count: int) -> tuple[int, int]:
        Counted.read = 0
        graph = {
            str(number): Counted(str(each) for each in range(max(0, number - 5), number))
            for number in range(count)
        }
        found = layout(graph)
        assert len(found.boxes) == count
        return Counted.read, len(found.lines)

    read, lines = work(1000)
    assert 0 < read <= 8 * lines
    middle = [str(number) for number in range(998)]
    wide = {"a": [], **{name: ["a"] for name in middle}, "z": middle}
    check(layout(wide))

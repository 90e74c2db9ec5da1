"""The header in which the steps of a chain travel: a consumer reads the next one and passes on the others."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from taskqueue.workflows.chains import Link, Remaining

VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
STEPS = st.lists(
    st.builds(lambda params: {"type": "a", "params": params}, st.lists(VALUES)), min_size=1, max_size=5
)


def read(header):
    """Return what consumers read, one after the other."""
    found = []
    while header is not None:
        link = Link.decode(header)
        found.append((link.id, link.number, link.step))
        header = link.rest()
    return found


@examples(100)
@given(st.text(min_size=1, max_size=20), STEPS, st.sampled_from([None, 1]))
def test_each_step_is_read_in_turn_whoever_has_written_the_header(id_, steps, indent):
    own = Remaining(id_, 1, tuple(steps)).encode()
    expected = [(id_, number, each) for number, each in enumerate(steps, 1)]
    assert read(own) == expected
    assert read(json.dumps(json.loads(own), indent=indent)) == expected
    assert read(json.dumps({"steps": steps, "more": [1], "number": 1, "id": id_})) == expected


OWN = '{"id":"a","number":1,"steps":[{"type":"a","params":[]}'


@pytest.mark.parametrize(
    "header",
    [
        OWN, OWN + "]", OWN + "}]}", OWN + "]]}", OWN.replace("a", "a" * 201, 1) + "]}",
        OWN.replace("1", "0") + "]}", OWN.replace("1", "99999") + "]}", '{"id":"a","number":1,"steps":[]}',
        '{"id":"a","number":1,"steps":["a"]}', '{"id":"a","number":1,"steps":[{"a":NaN}]}',
        '{"id":"a","number":1,"steps":[' + "[" * 30_000 + "]}", "[]", "", 5, "x" * 65_537,
    ],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(header):
    with pytest.raises(ValueError, match=r"malformed|expected|Expecting|no JSON|Extra data"):
        Link.decode(header)


def test_a_step_behind_the_next_one_that_is_none_is_refused_in_its_turn():
    link = Link.decode(OWN + ',{"type":]}')
    assert link.step == {"type": "a", "params": []}
    with pytest.raises(ValueError, match="Expecting"):
        Link.decode(link.rest())

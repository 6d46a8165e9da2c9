"""The verifier lets a good graph pass, and names node, op and place for each way to be bad."""

import re

import pytest

from tracejit.ir.text import parse
from tracejit.ir.verify import VerifyError, verify

GOOD = """
graph(x: f32[4, 6], y: f32[6]):
    # model.py:3 in layers.0
    v0: f32[4, 6] = aten.add.Tensor(x, y, alpha=2)
    v1: f32[4], v2: i64[4] = aten.max.dim(v0, 1)
    tj.expect(v1, 3.5)
    v3: f32[4, 6], v4: f32[4, 1], v5: f32[4, 1] = aten.native_layer_norm(v0, (6,), None, None, 1e-5)
    v6: f32[6, 4][1, 6] = aten.permute(v3, (1, 0))
    return v6
    write x <- v0
"""


def test_good():
    verify(parse(GOOD))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("v1: f32[4]", "v1: f32[5]", "aten.max.dim (%v1, %v2) at model.py:3 in layers.0 gives"),
        ("v0: f32[4, 6]", "v0: f16[4, 6]", "its shape rule says (('f32', (4, 6)),)"),
        (
            "y, alpha=2",
            "y, beta=2",
            "aten.add.Tensor (%v0) at model.py:3 in layers.0 has no argument",
        ),
        ("x, y, alpha=2", "x", "lacks argument 'other'"),
        ("x, y, alpha=2", "x, y, other=y", "has no argument 'other', or has it twice"),
        ("x, y, alpha=2", "x, y, 2", "takes 2 positional arguments, not 3"),
        ("aten.add.Tensor", "aten.ad.Tensor", "torch has no such op"),
        ("[1, 6]", "[1]", "has 2 sizes and 1 strides"),
        ("y: f32", "y: f33", "has unknown dtype 'f33'"),
        ("write x <- v0", "write y <- v0", "a write of %v0: f32[4, 6] to %y: f32[6]"),
        ("write x <- v0", "write v0 <- v0", "a write goes to %v0, which is no input"),
        ("write x <- v0", "write x <- v0\n    write x <- v0", "an input is written twice"),
    ],
)
def test_bad_text(old, new, message):
    assert old in GOOD
    with pytest.raises(VerifyError, match=re.escape(message)):
        verify(parse(GOOD.replace(old, new, 1)))


def test_argument_that_no_graph_has():
    graph = parse(GOOD)
    graph.nodes[0].kwargs["alpha"] = slice(1)
    with pytest.raises(VerifyError, match="has an argument of type slice"):
        verify(graph)


def test_use_before_definition():
    graph = parse(GOOD)
    graph.nodes[0], graph.nodes[1] = graph.nodes[1], graph.nodes[0]
    with pytest.raises(VerifyError, match="aten.max.dim .* reads %v0, which is not defined before"):
        verify(graph)


def test_two_values_of_one_name():
    graph = parse(GOOD)
    graph.nodes[1].outputs[0].name = "v0"
    with pytest.raises(VerifyError, match="%v0, made by aten.max.dim .*, is defined twice"):
        verify(graph)


def test_value_of_another_graph():
    graph, other = parse(GOOD), parse(GOOD)
    graph.outputs = other.outputs
    with pytest.raises(VerifyError, match="returns or writes %v6, which is not defined"):
        verify(graph)


def test_value_that_says_another_node_made_it():
    graph = parse(GOOD)
    graph.nodes[0].outputs[0].node = graph.nodes[1]
    with pytest.raises(VerifyError, match="says it was made by another node"):
        verify(graph)


def test_shape_rule_that_fails_is_told_with_the_place():
    graph = parse(
        "graph(x: f32[4, 6], y: f32[5]):\n  # m.py:7\n  v0: f32[4, 6] = aten.add.Tensor(x, y)"
    )
    with pytest.raises(
        VerifyError, match=r"aten.add.Tensor \(%v0\) at m.py:7: its shape rule fails"
    ):
        verify(graph)

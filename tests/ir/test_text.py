"""A graph prints as a person would write it, and reads back."""

import math

import pytest
import torch

from tracejit.ir.graph import Graph, Origin, show
from tracejit.ir.text import ParseError, parse


def round_trip(graph: Graph) -> Graph:
    text = show(graph)
    again = parse(text)
    assert show(again) == text
    return again


def meta(*sizes, dtype="f32", strides=None, device="cpu"):
    return (dtype, sizes, strides, device)


def test_reads_as_written():
    graph = Graph()
    x = graph.add_input("f32", (4, 8), (8, 1), name="x")
    weight = graph.add_input("f32", (8, 8), (1, 8), "cuda:0", name="weight")
    norm = Origin("model.py", 12, "forward", "layers.0.norm")
    added = graph.add("aten.add.Tensor", (x, weight), {"alpha": 2}, [meta(4, 8)], norm)
    high = graph.add("aten.max.dim", (added.out, 1), {}, [meta(4), meta(4, dtype="i64")], norm)
    graph.add("tj.expect", (high.outputs[0], 3.5), origin=Origin("model.py", 13, "forward"))
    graph.outputs, graph.writes = [added.out], [(x, added.out)]
    graph.together = [[x, weight]]
    assert str(graph) == (
        "graph(x: f32[4, 8], weight: f32[8, 8][1, 8]cuda:0):\n"
        "    # model.py:12 in layers.0.norm\n"
        "    v0: f32[4, 8] = aten.add.Tensor(x, weight, alpha=2)\n"
        "    v1: f32[4], v2: i64[4] = aten.max.dim(v0, 1)\n"
        "    # model.py:13 in forward\n"
        "    tj.expect(v1, 3.5)\n"
        "    return v0\n"
        "    write x <- v0\n"
        "    together x, weight"
    )
    again = round_trip(graph)
    assert again.nodes[1].outputs[1].node is again.nodes[1]
    assert again.writes == [(again.inputs[0], again.outputs[0])]
    assert again.together == [again.inputs]
    assert again.fresh() == "v3"


ARGUMENTS = [
    None, True, False, 0, -3, 2**70, 0.1, -0.0, math.inf, -math.inf, 1e-300, complex(1, -0.0),
    "a, b) = ('", "\n#", (), (1,), (1, (2.0, None)), [1, 2], [],
    torch.bfloat16, torch.channels_last, torch.strided, torch.device("cuda", 1),
]  # fmt: skip


@pytest.mark.parametrize("arg", ARGUMENTS, ids=repr)
def test_arguments(arg):
    graph = Graph()
    x = graph.add_input("f32", (), ())
    graph.add("my.op.from", (x, arg), {"k": arg, "from": (x, arg)}, [meta()])
    node = round_trip(graph).nodes[0]
    for found in (node.args[1], node.kwargs["k"], node.kwargs["from"][1]):
        assert type(found) is type(arg) and found == arg
        assert repr(found) == repr(arg)  # -0.0
    assert node.op == "my.op.from"


def test_nan():
    graph = Graph()
    graph.add("aten.full", ((2,), math.nan), {}, [meta(2)])
    assert math.isnan(round_trip(graph).nodes[0].args[1])


@pytest.mark.parametrize(
    "name", ["layers.0.weight", "args[0]['a, b: c = (']", "inf", "lambda", "é"]
)
def test_names_that_are_no_identifier(name):
    graph = Graph()
    x = graph.add_input("f32", (3,), (1,), name=name)
    node = graph.add("aten.cat", ((x, x),), {}, [meta(6)])
    graph.outputs, graph.writes = [x], [(x, x)]
    again = round_trip(graph)
    assert again.inputs[0].name == name and node.op == again.nodes[0].op


@pytest.mark.parametrize(
    "origin",
    [Origin(), Origin("a.py", 3), Origin("a in b:1.py", 3, "f"), Origin(module="m"),
     Origin("C:\\x.py", 1, "f", "layers.0")],
    ids=str,
)  # fmt: skip
def test_origins(origin):
    graph = Graph()
    for where in (origin, Origin("z.py", 9), origin):
        graph.add("aten.full", ((2,), 1), {}, [meta(2)], where)
    assert [str(n.origin) for n in round_trip(graph).nodes] == [str(origin), "z.py:9", str(origin)]


def test_symbolic_sizes():
    import sympy

    n = sympy.Symbol("s0", integer=True, positive=True)
    graph = Graph()
    sizes = (n, 2 * n + 1, sympy.floor(n / 2), sympy.Max(3, n), n**2, sympy.Mod(n, 4))
    x = graph.add_input("f32", sizes, (1,) * 6)
    graph.add("aten.view", (x, (n * 4, -1)), {}, [meta(n * 4, 3)])
    again = round_trip(graph)
    assert again.inputs[0].sizes == sizes
    assert again.nodes[0].args[1] == (n * 4, -1)


def test_many_inputs_go_on_lines_of_their_own():
    graph = Graph()
    for n in range(9):
        graph.add_input("f32", (n, n), (n, 1), name=f"layers.{n}.weight")
    assert max(map(len, show(graph).splitlines())) < 60
    assert len(round_trip(graph).inputs) == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v0 = f(x)", "begins with graph"),
        ("graph(x: f32[2]):\n    v0: f32[2] = aten.neg(x\n", "not a call"),
        ("graph(x: f32[2]):\n    x: f32[2] = aten.neg(x)\n", "x is defined already"),
        ("graph(x: f32[2]):\n    v0: f32 = aten.neg(x)\n", "is not a name and a type"),
        ("graph(x: f32[2]):\n    return y\n", "cannot read 'return y'"),
        ("graph(x: f32[2]):\n    v0: f32[2] = aten.neg(x.y)\n", "x.y has no meaning"),
    ],
)
def test_errors_name_the_line(text, message):
    with pytest.raises(ParseError, match=message):
        parse(text)


def test_foreign_argument_is_refused():
    graph = Graph()
    graph.add("aten.full", ((2,), object()), {}, [meta(2)])
    with pytest.raises(TypeError, match="object has no place in a graph"):
        show(graph)

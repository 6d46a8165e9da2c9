"""Decompositions: by rows, by torch's own for the long tail, and what stays a library call."""

import pytest
import torch

import tracejit.ir.tail as tail
from tracejit.ir.decompose import decompose
from tracejit.ir.execute import call, execute, values_of
from tracejit.ir.graph import map_values, show
from tracejit.ir.rewrite import RewriteError
from tracejit.ir.text import parse
from tracejit.ir.verify import verify
from tracejit.ops.table import OPS, Kind, Op, kind_of


def ops(graph):
    return [n.op for n in graph.nodes]


def inputs_of(graph):
    torch.manual_seed(0)
    return [torch.randn(v.sizes).as_strided(v.sizes, v.strides) for v in graph.inputs]


def check(graph):
    """The decomposed graph: verified, no composite left, and equal to eager."""
    new = decompose(graph)
    verify(new)
    assert all(kind_of(n) is not Kind.DECOMPOSE for n in new.nodes)
    inputs = inputs_of(graph)
    for a, b in zip(execute(graph, inputs)[0], execute(new, inputs)[0], strict=True):
        assert (a.dtype, a.stride()) == (b.dtype, b.stride())
        torch.testing.assert_close(a, b)
    return new


@pytest.fixture
def rows():
    """Rows that a test adds, taken out again."""
    before = dict(OPS)
    yield OPS
    OPS.clear()
    OPS.update(before)


@pytest.mark.parametrize(
    "line",
    [
        "v0: f32[4, 6] = aten._softmax(x, 1, False)",
        "v0: f32[4, 6] = aten._log_softmax(x, 0, False)",
        "v0: f32[4, 6], v1: f32[4, 1], v2: f32[4, 1] = "
        "aten.native_layer_norm(x, (6,), None, None, 1e-5)",
        "v0: f32[4] = aten.mean.dim(x, (1,))",
        "v0: f32[4] = aten.var.correction(x, (1,), correction=1)",
        "v0: f32[6] = aten.linalg_vector_norm(x, 2, (0,))",
    ],
)
def test_rows(line):
    new = check(parse(f"graph(x: f32[4, 6]):\n  # m.py:3 in norm\n  {line}\n  return v0"))
    assert len(new.nodes) > 1
    assert {str(n.origin) for n in new.nodes} == {"m.py:3 in norm"}
    assert new.outputs[0].name == "v0"


def test_strides_of_the_result_are_the_recorded_ones():
    graph = parse(
        "graph(x: f32[4, 6][1, 4]):\n"
        "  v0: f32[4, 6][1, 4] = aten._softmax(x, 1, False)\n  return v0"
    )
    assert check(graph).outputs[0].strides == (1, 4)


def test_result_that_is_an_input_gets_the_strides_too(rows):
    rows["aten.erfc"] = Op(
        "aten.erfc", Kind.DECOMPOSE, lambda x: (x.dtype, x.sizes), decompose=lambda b, x: x
    )
    graph = parse("graph(x: f32[4, 6]):\n  v0: f32[4, 6][1, 4] = aten.erfc(x)\n  return v0")
    new = decompose(graph)
    assert show(new).splitlines()[1].strip() == "v0: f32[4, 6][1, 4] = aten.clone(x)"


def test_unneeded_results_may_be_left_out(rows):
    def max_only(b, x, dim, keep=False):
        return b("aten.amax", x, (dim,), keep), None

    shape = lambda x, dim, keep=False: ((x.dtype, x.sizes[:1]), ("i64", x.sizes[:1]))  # noqa: E731
    rows["aten.max.dim"] = Op("aten.max.dim", Kind.DECOMPOSE, shape, decompose=max_only)
    text = (
        "graph(x: f32[4, 6]):\n  # m.py:8\n  v0: f32[4], v1: i64[4] = aten.max.dim(x, 1)\n  return "
    )
    assert ops(decompose(parse(text + "v0"))) == ["aten.amax"]
    with pytest.raises(RewriteError, match="left out %v1"):
        decompose(parse(text + "v0, v1"))


def test_wrong_sizes_are_told_with_the_place(rows):
    rows["aten.erfc"] = Op(
        "aten.erfc",
        Kind.DECOMPOSE,
        lambda x: (x.dtype, x.sizes),
        decompose=lambda b, x: b("aten.sum", x),
    )
    graph = parse("graph(x: f32[4]):\n  # m.py:8\n  v0: f32[4] = aten.erfc(x)\n  return v0")
    with pytest.raises(RewriteError, match=r"aten.erfc \(%v0\) at m.py:8 gave %v0: f32\[4\]"):
        decompose(graph)


def test_endless_decomposition_is_noticed(rows):
    rows["aten.erfc"] = Op(
        "aten.erfc",
        Kind.DECOMPOSE,
        lambda x: (x.dtype, x.sizes),
        decompose=lambda b, x: b("aten.erfc", x),
    )
    graph = parse("graph(x: f32[4]):\n  v0: f32[4] = aten.erfc(x)\n  return v0")
    with pytest.raises(RewriteError, match="aten.erfc .* still has to be decomposed after"):
        decompose(graph)


def test_op_without_row_is_told(rows):
    rows["aten.erfc"] = Op(
        "aten.erfc",
        Kind.DECOMPOSE,
        lambda x: (x.dtype, x.sizes),
        decompose=lambda b, x: b("aten.ezp", x),
    )
    graph = parse("graph(x: f32[4]):\n  # m.py:2\n  v0: f32[4] = aten.erfc(x)\n  return v0")
    with pytest.raises(RewriteError, match="m.py:2 becomes aten.ezp, which has no row"):
        decompose(graph)


def test_factories_lie_on_the_device_of_the_node(rows):
    rows["aten.erfc"] = Op(
        "aten.erfc",
        Kind.DECOMPOSE,
        lambda x: (x.dtype, x.sizes),
        decompose=lambda b, x: b("aten.full", x.sizes, 1.0),
    )
    graph = parse("graph(x: f32[4]cuda:0):\n  v0: f32[4]cuda:0 = aten.erfc(x)\n  return v0")
    (node,) = decompose(graph).nodes
    assert node.kwargs["device"] == torch.device("cuda:0")


# --- the long tail ---

TAIL = [
    "v0: f32[4, 6] = aten.soft_margin_loss(x, y, 0)",
    "v0: f32[4, 6] = aten.huber_loss(x, y, 0, 0.3)",
    "v0: f32[4, 6] = aten.gelu_backward(x, y)",
    "v0: f32[4, 6] = aten.hardswish_backward(x, y)",
    "v0: f32[6, 4] = aten.rot90(x)",
    "v0: f32[1, 4, 15] = aten.im2col(z, (2, 2), (1, 1), (0, 0), (1, 1))",
]


@pytest.fixture
def without_rows(rows):
    """So that the op is in the long tail also when it gets a row one day."""

    def forget(line):
        rows.pop(line.split(" = ")[1].split("(")[0], None)
        tail._MEMO.clear()

    return forget


@pytest.mark.parametrize("line", TAIL)
def test_long_tail(line, without_rows):
    without_rows(line)
    graph = parse(
        f"graph(x: f32[4, 6], y: f32[4, 6], z: f32[1, 1, 4, 6]):\n  # m.py:3\n  {line}\n  return v0"
    )
    new = check(graph)
    assert graph.nodes[0].op not in ops(new) and len(new.nodes) > 1
    assert all(kind_of(n) is not Kind.EXTERN for n in new.nodes)
    assert {str(n.origin) for n in new.nodes} == {"m.py:3"}


def test_long_tail_is_remembered_but_not_the_place(without_rows, monkeypatch):
    line = "aten.soft_margin_loss"
    without_rows(f"v0 = {line}(x")
    graph = parse(
        f"""graph(x: f32[4], y: f32[4]):
        # m.py:3
        v0: f32[4] = {line}(x, y, 0)
        # m.py:4
        v1: f32[4] = {line}(y, v0, 0)
        # m.py:5
        v2: f32[4] = {line}(v1, v1, 0)
        return v2"""
    )
    made = []
    real = tail._expanded
    monkeypatch.setattr(tail, "_expanded", lambda *given: made.append(given) or real(*given))
    new = check(graph)
    assert len(made) == 2  # the third has one argument twice
    assert {str(n.origin) for n in new.nodes} == {"m.py:3", "m.py:4", "m.py:5"}


CALLS = [
    "v0: f32[4, 4] = aten.mm(x, y)",
    "v0: f32[] = aten.dot(z, z)",
    "v0: f32[4, 4], v1: i64[4, 4] = aten.sort(x)",
    "v0: f32[4, 4] = aten.bernoulli(x)",
    "v0: c64[4, 3] = aten._fft_r2c(x, (1,), 0, True)",
    "v0: f32[4, 4] = aten.normal_functional(x)",
]


@pytest.mark.parametrize("line", CALLS)
def test_library_calls_stay(line, without_rows):
    without_rows(line)
    graph = parse(f"graph(x: f32[4, 4], y: f32[4, 4], z: f32[4]):\n  {line}\n  return v0")
    assert decompose(graph) is graph


def test_what_must_never_be_expanded_is_not_looked_at(without_rows, monkeypatch):
    def looked(op):
        raise AssertionError(f"{op} was looked at")

    monkeypatch.setattr(tail, "_has_decomposition", looked)
    for line in CALLS[:3]:
        without_rows(line)
        decompose(parse(f"graph(x: f32[4, 4], y: f32[4, 4], z: f32[4]):\n  {line}\n  return v0"))


@pytest.mark.parametrize(
    ("op", "never"),
    [
        ("aten.mm", True), ("aten.addmm", True), ("aten._int_mm", True), ("aten.bmm", True),
        ("aten.convolution", True), ("aten._convolution", True), ("aten.conv2d", True),
        ("aten._scaled_dot_product_flash_attention_for_cpu", True), ("aten.topk", True),
        ("aten.sort.stable", True), ("aten._fft_r2c", True), ("aten._linalg_svd", True),
        ("aten.lstm.input", True), ("aten._cdist_forward", True), ("aten.dot", True),
        ("aten.mul.Tensor", False), ("aten.rot90", False), ("aten.add.Tensor", False),
        ("aten.mode", True), ("aten.mod", False), ("aten.special_entr", False), ("aten.var", False),
    ],
)  # fmt: skip
def test_table_of_what_stays(op, never):
    assert bool(tail.NEVER.fullmatch(op)) is never


def test_recorded_calls_match_eager():
    """The tape itself: what it writes down computes what the decomposition computes."""
    graph = parse(f"graph(x: f32[4, 6], y: f32[4, 6]):\n  {TAIL[2]}\n  return v0")
    (node,) = graph.nodes
    tape = tail.Tape(node)
    with torch.no_grad(), tape:
        result = tail._decomposition(tail.function(node.op))(*tape.args, **tape.kwargs)
    inner = tape.finish(result)
    verify(inner)
    inputs = inputs_of(graph)
    env = dict(zip(graph.inputs, inputs, strict=True))
    (expected,) = values_of(call(node.op, map_values(node.args, env.__getitem__), {}))
    torch.testing.assert_close(execute(inner, inputs)[0][0], expected)

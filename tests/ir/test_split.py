"""Long reductions in two stages: the same numbers, in chunks that divide the row."""

import pytest
import torch

from tracejit.compiler import Pipeline
from tracejit.fuse.program import RunKernel
from tracejit.ir.dtypes import TORCH
from tracejit.ir.execute import execute
from tracejit.ir.split import LONG, chunks_of, split_reductions
from tracejit.ir.text import parse
from tracejit.ir.verify import verify

COLUMNS = 1 << 18


def check(text, x):
    """The graph as it was and split; their results are equal."""
    graph = parse(text)
    new = split_reductions(graph)
    verify(new)
    (expected,), _ = execute(graph, [x])
    (found,), _ = execute(new, [x])
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
    torch.testing.assert_close(found, expected, equal_nan=True)
    return new


@pytest.mark.parametrize(
    ("dtype", "call", "result"),
    [
        ("f32", "aten.sum(x)", "f32[]"),
        ("f32", "aten.sum.dim_IntList(x, (1,))", "f32[2]"),
        ("f32", "aten.sum.dim_IntList(x, (-1,), True)", "f32[2, 1]"),
        ("bf16", "aten.sum.dim_IntList(x, (1,))", "bf16[2]"),
        ("bool", "aten.sum.dim_IntList(x, (1,))", "i64[2]"),
        ("i32", "aten.sum(x, dtype=torch.float32)", "f32[]"),
        ("f32", "aten.amax(x, (1,))", "f32[2]"),
        ("f16", "aten.amin(x, (1,), True)", "f16[2, 1]"),
        ("bool", "aten.amax(x)", "bool[]"),
        ("f32", "aten.prod.dim_int(x, 1)", "f32[2]"),
        ("u8", "aten.any.dim(x, 1)", "u8[2]"),
        ("f32", "aten.all(x)", "bool[]"),
    ],
)
def test_two_stages(dtype, call, result):
    torch.manual_seed(0)
    x = (torch.randint(-8, 9, (2, COLUMNS)) / 4).to(TORCH[dtype])
    text = f"graph(x: {dtype}[2, {COLUMNS}]):\n  v0: {result} = {call}\n  return v0"
    new = check(text, x)
    assert len(new.nodes) >= 3 and new.nodes[1].op == new.nodes[2].op


def test_halves_are_rounded_once():
    x = torch.full((1, COLUMNS), 1.0, dtype=torch.bfloat16)
    x[0, ::2] = 1 / 256
    text = f"graph(x: bf16[1, {COLUMNS}]):\n  v0: bf16[1] = aten.sum.dim_IntList(x, (1,))\n"
    new = check(text + "  return v0", x)
    assert [n.out.dtype for n in new.nodes] == ["bf16", "f32", "f32", "bf16"]


def test_nan_stays():
    x = torch.zeros(COLUMNS)
    x[77] = torch.nan
    check(f"graph(x: f32[{COLUMNS}]):\n  v0: f32[] = aten.amax(x)\n  return v0", x)


def test_leading_dims_of_any_layout():
    x = torch.randn(3, COLUMNS // 2, 2).permute(1, 2, 0)
    check(
        f"graph(x: f32[{COLUMNS // 2}, 2, 3][2, 1, {COLUMNS}]):\n"
        "  v0: f32[3] = aten.sum.dim_IntList(x, (0, 1))\n  return v0",
        x,
    )


@pytest.mark.parametrize(
    "line",
    [
        "graph(x: f32[2, 4096]):\n  v0: f32[2] = aten.sum.dim_IntList(x, (1,))",
        "graph(x: f32[512, 262144]):\n  v0: f32[512] = aten.sum.dim_IntList(x, (1,))",
        "graph(x: f32[1024, 2, 1024]):\n  v0: f32[2] = aten.sum.dim_IntList(x, (0, 2))",
        "graph(x: f32[2, 262144]):\n  v0: i64[2] = aten.argmax(x, 1)",
    ],
)
def test_left_whole(line):
    graph = parse(f"{line}\n  return v0")
    assert split_reductions(graph) is graph


def test_chunks_divide_the_row():
    for rows, columns in ((1, 1 << 20), (1, 151936), (7, 3 * 10**6), (100, 1 << 18)):
        chunks = chunks_of(rows, columns)
        assert chunks > 1 and columns % chunks == 0 and columns // chunks >= 512
    assert chunks_of(1, 1000003) == 0  # a prime
    assert chunks_of(1, LONG) == 0


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_gpu_programs_are_many(target):
    graph = parse("graph(x: f32[1048576]):\n  v0: f32[] = aten.sum(x)\n  return v0")
    built = Pipeline(target).build(graph)
    first, second = [s.nest for s in built.program.steps if isinstance(s, RunKernel)]
    assert (first.rows, first.columns, second.rows, second.columns) == (512, 2048, 1, 512)
    assert all(b is not None and b.spills == 0 for b in built.binaries.values())

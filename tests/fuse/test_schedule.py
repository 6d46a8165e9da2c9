"""Fusion: what shares a kernel and what does not, on graphs written by hand, and that the nests
compute the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import tracejit.ops  # noqa: F401  (registers the rows)
from tracejit.fuse.execute import run_program
from tracejit.fuse.finish import finish
from tracejit.fuse.program import Program, RunExtern, RunKernel
from tracejit.ir.decompose import decompose
from tracejit.ir.dtypes import NAME
from tracejit.ir.execute import call
from tracejit.ir.graph import Graph, Value, map_values


class Maker:
    """Writes a graph op by op on example tensors, so that a test can compare with eager."""

    def __init__(self, *examples: torch.Tensor) -> None:
        self.graph = Graph()
        self.real: dict[Value, torch.Tensor] = {}
        self.inputs = []
        self.examples = examples
        for k, tensor in enumerate(examples):
            value = self.graph.add_input(
                NAME[tensor.dtype], tensor.shape, tensor.stride(), name=f"x{k}"
            )
            self.real[value] = tensor
            self.inputs.append(value)

    def __call__(self, op: str, *args: Any, **kwargs: Any) -> Any:
        op = f"aten.{op}"
        real = call(
            op,
            map_values(args, self.real.__getitem__),
            {k: map_values(v, self.real.__getitem__) for k, v in kwargs.items()},
        )
        tensors = [real] if isinstance(real, torch.Tensor) else list(real)
        metas = [(NAME[t.dtype], tuple(t.shape), tuple(t.stride()), "cpu") for t in tensors]
        node = self.graph.add(op, args, kwargs, metas)
        self.real.update(zip(node.outputs, tensors, strict=True))
        return node.out if len(tensors) == 1 else node.outputs

    def check(self, *outputs: Value, kernels: int, externs: int = 0) -> Program:
        self.graph.outputs = list(outputs)
        expected = [self.real[v].clone() for v in outputs]
        program = finish(decompose(self.graph))
        found = run_program(program, self.examples)
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got, want)
            assert got.stride() == want.stride()
        assert _count(program, RunKernel) == kernels, [
            str(s.nest) for s in program.steps if isinstance(s, RunKernel)
        ]
        assert _count(program, RunExtern) == externs
        return program


def _count(program: Program, kind: type) -> int:
    return sum(isinstance(s, kind) for s in program.steps)


def rand(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(sum(sizes)))


def softmax(m: Maker, x: Value, dim: int) -> Value:
    shifted = m("sub.Tensor", x, m("amax", x, (dim,), True))
    e = m("exp", shifted)
    out: Value = m("div.Tensor", e, m("sum.dim_IntList", e, (dim,), True))
    return out


@pytest.mark.parametrize(
    ("sizes", "dim"), [((4, 33), -1), ((4, 33), 0), ((2, 3, 8, 5), -2), ((7,), 0)]
)
def test_softmax_is_one_kernel(sizes: Sequence[int], dim: int) -> None:
    m = Maker(rand(*sizes))
    out = m("mul.Tensor", softmax(m, m("mul.Tensor", m.inputs[0], 0.5), dim % len(sizes)), 3.0)
    program = m.check(out, kernels=1)
    (step,) = program.steps
    assert isinstance(step, RunKernel)
    assert len(step.nest.buffers) == 2  # reads x once, writes the result once


def test_norm_takes_the_residual_and_the_view_in() -> None:
    m = Maker(rand(2, 6, 16), rand(12, 16), rand(16))
    x, projected, weight = m.inputs
    h = m("add.Tensor", x, m("view", projected, (2, 6, 16)))
    mean = m("mean.dim", m("pow.Tensor_Scalar", h, 2), (-1,), True)
    normed = m("mul.Tensor", m("mul.Tensor", h, m("rsqrt", m("add.Tensor", mean, 1e-6))), weight)
    m.check(h, normed, kernels=1)


def test_two_reductions_of_the_same_rows_share_a_pass() -> None:
    m = Maker(rand(5, 40))
    (x,) = m.inputs
    m.check(m("sum.dim_IntList", x, (1,)), m("amax", x, (1,)), kernels=1)


def test_reductions_over_different_dims_stay_apart() -> None:
    m = Maker(rand(5, 40))
    (x,) = m.inputs
    program = m.check(m("sum.dim_IntList", x, (1,)), m("sum.dim_IntList", x, (0,)), kernels=2)
    assert any(not d.fused and d.reason for d in program.decisions)


def test_extern_between_prevents_a_cycle() -> None:
    m = Maker(rand(8, 8))
    (x,) = m.inputs
    a = m("relu", x)
    b = m("mm", a, a)
    m.check(m("add.Tensor", a, b), kernels=2, externs=1)


def test_equal_layers_share_one_nest() -> None:
    m = Maker(rand(8, 8), rand(8), rand(8))
    x, *weights = m.inputs
    for w in weights:
        x = m("mm", m("mul.Tensor", softmax(m, x, 1), w), m.inputs[0])
    program = m.check(x, kernels=2, externs=2)
    nests = {id(s.nest) for s in program.steps if isinstance(s, RunKernel)}
    assert len(nests) == 1


def test_views_reach_an_extern_without_a_copy() -> None:
    m = Maker(rand(6, 24), rand(24, 24))
    x, w = m.inputs
    qkv = m("mm", x, w)
    heads = m("permute", m("view", m("slice.Tensor", qkv, 1, 8, 16), (6, 2, 4)), (1, 0, 2))
    m.check(m("bmm", heads, m("transpose.int", heads, 1, 2)), kernels=0, externs=2)


def test_outputs_do_not_share_memory() -> None:
    m = Maker(rand(4, 4))
    (x,) = m.inputs
    a = m("relu", x)
    program = m.check(a, a, kernels=1)
    first, second = run_program(program, m.examples)
    assert first.data_ptr() != second.data_ptr()


def test_gather_checks_its_index() -> None:
    m = Maker(rand(10, 4), torch.tensor([[1, -2], [9, 0]]))
    table, index = m.inputs
    program = m.check(m("mul.Tensor", m("index.Tensor", table, (index,)), 2.0), kernels=1)
    assert type(program.steps[0]).__name__ == "CheckIndex"


def test_cat_and_pad_are_computed_in_place() -> None:
    m = Maker(rand(3, 4), rand(3, 2))
    a, b = m.inputs
    both = m("cat", (m("exp", a), b, a), 1)
    m.check(m("constant_pad_nd", m("neg", both), (1, 2), 5.0), kernels=1)


def test_channels_last_output_keeps_its_strides() -> None:
    m = Maker(rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
    (x,) = m.inputs
    program = m.check(m("relu", m("add.Tensor", x, 1)), kernels=1)
    (step,) = program.steps
    assert isinstance(step, RunKernel) and len(step.nest.axes) == 1


def test_group_norm_shape_reduces_two_dims_then_returns() -> None:
    m = Maker(rand(2, 6, 4, 4), rand(6))
    x, w = m.inputs
    grouped = m("view", x, (2, 3, 32))
    centred = m("sub.Tensor", grouped, m("mean.dim", grouped, (2,), True))
    back = m("view", centred, (2, 6, 4, 4))
    m.check(m("mul.Tensor", back, m("view", w, (1, 6, 1, 1))), kernels=1)


def test_small_neighbours_of_other_sizes_share_a_launch() -> None:
    """Rotary embedding of grouped queries and keys: one kernel, the smaller tensor masked."""
    m = Maker(rand(2, 8, 6, 4), rand(2, 2, 6, 4), rand(2, 1, 6, 4))
    q, k, cos = m.inputs
    program = m.check(m("mul.Tensor", q, cos), m("mul.Tensor", k, cos), kernels=1)
    (step,) = program.steps
    assert isinstance(step, RunKernel)
    assert [store.mask is None for store in step.nest.stores] == [True, False]


def test_much_larger_neighbours_stay_apart() -> None:
    m = Maker(rand(64, 8), rand(1, 8), rand(8))
    big, small, shared = m.inputs
    m.check(m("mul.Tensor", big, shared), m("mul.Tensor", small, shared), kernels=2)

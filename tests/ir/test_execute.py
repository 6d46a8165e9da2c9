"""The reference executor: values, strides, fresh memory, writes, and leaving."""

import pytest
import torch

from tracejit.ir.execute import Disagrees, Left, execute, storage
from tracejit.ir.text import parse


def test_outputs_and_writes():
    graph = parse(
        """graph(x: f32[2, 3], y: f32[3]):
        v0: f32[2, 3] = aten.add.Tensor(x, y)
        v1: f32[2], v2: i64[2] = aten.max.dim(v0, 1)
        v3: f32[2, 6] = aten.cat((v0, v0), 1)
        return v1, v2
        write x <- v0"""
    )
    x, y = torch.randn(2, 3), torch.randn(3)
    before = x.clone()
    outputs, writes = execute(graph, [x, y])
    assert torch.equal(x, before) and list(writes) == [0]
    assert torch.equal(writes[0], x + y)
    assert torch.equal(outputs[0], (x + y).max(1).values)
    assert torch.equal(outputs[1], (x + y).max(1).indices)


def test_results_share_memory_with_nothing_and_have_their_strides():
    graph = parse(
        """graph(x: f32[2, 3]):
        v0: f32[3, 2][1, 3] = aten.t(x)
        v1: f32[2, 3] = aten.neg(x)
        v2: f32[6] = aten.view(v1, (6,))
        v3: f32[2, 3][1, 2] = aten.clone(v1)
        v4: f32[4, 2, 3][0, 3, 1] = aten.expand(x, (4, -1, -1))
        return v0, v1, v2, v1, v3, v4"""
    )
    x = torch.randn(2, 3)
    outputs, _ = execute(graph, [x])
    assert [o.stride() for o in outputs] == [v.strides for v in graph.outputs]
    assert len({storage(t) for t in (x, *outputs)}) == 7
    for found, expected in zip(
        outputs, [x.t(), -x, -x.view(6), -x, -x, x.expand(4, 2, 3)], strict=True
    ):
        assert torch.equal(found, expected)


def test_nothing_is_recorded_for_gradients_nor_cast():
    graph = parse("graph(x: f32[2, 2]):\n  v0: f32[2, 2] = aten.mm(x, x)\n  return v0")
    x = torch.randn(2, 2, requires_grad=True)
    with torch.autocast("cpu"):
        (out,), _ = execute(graph, [x])
    assert out.dtype == torch.float32 and not out.requires_grad


@pytest.mark.parametrize(
    ("number", "leaves"), [(6.0, False), (6, False), (5.0, True), (float("nan"), True)]
)
def test_expect(number, leaves):
    graph = parse(
        f"graph(x: f32[3]):\n  v0: f32[] = aten.sum(x)\n  tj.expect(v0, {number})\n  return v0"
    )
    x = torch.tensor([1.0, 2.0, 3.0])
    if leaves:
        with pytest.raises(Left, match="a number read from data is 6.0"):
            execute(graph, [x])
    else:
        assert execute(graph, [x])[0][0] == 6


def test_expect_nan():
    graph = parse("graph(x: f32[1]):\n  tj.expect(x, nan)\n  return x")
    execute(graph, [torch.tensor([float("nan")])])
    with pytest.raises(Left):
        execute(graph, [torch.tensor([0.0])])


def test_wrong_sizes_are_told_with_the_place():
    graph = parse("graph(x: f32[3]):\n  # m.py:4\n  v0: f32[4] = aten.neg(x)\n  return v0")
    with pytest.raises(Disagrees, match=r"aten.neg at m.py:4 gave f32\[3\] for %v0"):
        execute(graph, [torch.randn(3)])


def test_ops_that_return_lists():
    graph = parse(
        "graph(x: f32[4]):\n  v0: f32[2], v1: f32[2] = aten.split.Tensor(x, 2)\n  return v1, v0"
    )
    x = torch.randn(4)
    outputs, _ = execute(graph, [x])
    assert torch.equal(torch.cat(outputs[::-1]), x)


def test_constant():
    graph = parse(
        "graph():\n  v0: bf16[2, 2] = tj.constant((1, 2, 3, 4), 'bf16', (2, 2))\n  return v0"
    )
    (out,), _ = execute(graph, [])
    assert torch.equal(out, torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16))

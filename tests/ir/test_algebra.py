"""Each rewrite rule: where it applies, and where it must not."""

import pytest
import torch

from tracejit.ir.algebra import RULES
from tracejit.ir.dtypes import TORCH
from tracejit.ir.execute import execute
from tracejit.ir.passes import simplify
from tracejit.ir.text import parse
from tracejit.ir.verify import verify

X = "x: f32[4, 6]"
V = "v0: f32[4, 6]"

# (rule, inputs, lines before the result, ops that are left)
APPLIES = [
    ("add zero", "x: i64[4]", ["v0: i64[4] = aten.add.Tensor(x, 0)"], []),
    ("add zero", "x: i64[4]", ["v0: i64[4] = aten.add.Tensor(x, 0, alpha=3)"], []),
    ("add zero", X, [f"{V} = aten.add.Tensor(x, -0.0)"], []),
    ("subtract zero", X, [f"{V} = aten.sub.Tensor(x, 0)"], []),
    ("subtract zero", X, [f"{V} = aten.sub.Tensor(x, 0.0)"], []),
    ("multiply or divide by one", X, [f"{V} = aten.mul.Tensor(x, 1)"], []),
    ("multiply or divide by one", X, [f"{V} = aten.div.Tensor(x, 1.0)"], []),
    ("multiply or divide by one", "x: f16[4]", ["v0: f16[4] = aten.mul.Tensor(x, 1.0)"], []),
    ("power of one", X, [f"{V} = aten.pow.Tensor_Scalar(x, 1)"], []),
    ("negate twice", X, [f"{V} = aten.neg(x)", "v1: f32[4, 6] = aten.neg(v0)"], []),
    ("copy", X, [f"{V} = aten.clone(x)"], []),
    ("copy", X, [f"{V} = aten._to_copy(x, dtype=torch.float32)"], []),
    (
        "cast of a cast",
        "x: bf16[4]",
        [
            "v0: f32[4] = aten._to_copy(x, dtype=torch.float32)",
            "v1: bf16[4] = aten._to_copy(v0, dtype=torch.bfloat16)",
        ],
        [],
    ),
    (
        "cast of a cast",
        "x: bf16[4]",
        [
            "v0: f32[4] = aten._to_copy(x, dtype=torch.float32)",
            "v1: f16[4] = aten._to_copy(v0, dtype=torch.float16)",
        ],
        ["aten._to_copy"],
    ),
    (
        "view of a view",
        X,
        ["v0: f32[24] = aten.view(x, (24,))", "v1: f32[3, 8] = aten.view(v0, (3, -1))"],
        ["aten.view"],
    ),
    (
        "view of a view",
        X,
        ["v0: f32[24] = aten.view(x, (24,))", "v1: f32[4, 6] = aten._unsafe_view(v0, (4, 6))"],
        [],
    ),
    (
        "permute of a permute",
        "x: f32[2, 3, 4]",
        [
            "v0: f32[4, 2, 3][1, 12, 4] = aten.permute(x, (2, 0, 1))",
            "v1: f32[2, 4, 3][12, 1, 4] = aten.transpose.int(v0, 0, 1)",
        ],
        ["aten.permute"],
    ),
    (
        "permute of a permute",
        X,
        ["v0: f32[6, 4][1, 6] = aten.t(x)", "v1: f32[4, 6] = aten.transpose.int(v0, -1, 0)"],
        [],
    ),
    ("expand of an expand", X, [f"{V} = aten.expand(x, (4, -1))"], []),
    (
        "expand of an expand",
        "x: f32[1, 1]",
        [
            "v0: f32[4, 1][0, 1] = aten.expand(x, (4, 1))",
            "v1: f32[4, 6][0, 0] = aten.expand(v0, (4, 6))",
        ],
        ["aten.expand"],
    ),
    (
        "read back",
        "x: f32[4, 6], y: f32[6]",
        [
            "v0: f32[4, 6] = aten.select_scatter(x, y, 0, 2)",
            "v1: f32[6] = aten.select.int(v0, 0, 2)",
        ],
        [],
    ),
    (
        "read back",
        "x: f32[4, 6], y: f32[2, 6]",
        [
            "v0: f32[4, 6] = aten.slice_scatter(x, y, 0, 0, 4, 2)",
            "v1: f32[2, 6][12, 1] = aten.slice.Tensor(v0, 0, 0, 4, 2)",
            "v2: f32[2, 6] = aten.neg(v1)",
        ],
        ["aten.neg"],
    ),
    (
        "read beside",
        "x: f32[4, 6], y: f32[6]",
        [
            "v0: f32[4, 6] = aten.select_scatter(x, y, 0, 2)",
            "v1: f32[6] = aten.select.int(v0, 0, -1)",
        ],
        ["aten.select.int"],
    ),
    (
        "read beside",
        "x: f32[4, 6], y: f32[4, 2]",
        [
            "v0: f32[4, 6] = aten.slice_scatter(x, y, 1, 2, 4)",
            "v1: f32[4, 2][6, 1] = aten.slice.Tensor(v0, -1, 4, 9223372036854775807)",
        ],
        ["aten.slice.Tensor"],
    ),
    (
        "read beside",
        "x: f32[4, 6], y: f32[6]",
        [
            "v0: f32[4, 6] = aten.select_scatter(x, y, 0, 3)",
            "v1: f32[2, 6] = aten.slice.Tensor(v0, 0, -4, -2)",
        ],
        ["aten.slice.Tensor"],
    ),
    ("view of everything", X, [f"{V} = aten.alias(x)"], []),
    ("view of everything", X, [f"{V} = aten.slice.Tensor(x, 1)"], []),
    ("view of everything", X, [f"{V} = aten.slice.Tensor(x, 0, 0, 9223372036854775807)"], []),
    (
        "squeeze of an unsqueeze",
        X,
        [
            "v0: f32[4, 1, 6] = aten.unsqueeze(x, -2)",
            "v1: f32[4, 6] = aten.squeeze.dim(v0, 1)",
        ],
        [],
    ),
]
STAYS = [
    ("add zero", X, [f"{V} = aten.add.Tensor(x, 0.0)"]),  # -0.0 becomes 0.0
    ("add zero", X, [f"{V} = aten.add.Tensor(x, 0)"]),
    ("add zero", X, [f"{V} = aten.add.Tensor(x, -0.0, alpha=-1)"]),
    ("add zero", "x: i64[4]", ["v0: f32[4] = aten.add.Tensor(x, 0.0)"]),  # promotes
    ("add zero", "x: bool[4]", ["v0: i64[4] = aten.add.Tensor(x, 0)"]),
    ("subtract zero", X, [f"{V} = aten.sub.Tensor(x, -0.0)"]),
    ("subtract zero", X, [f"{V} = aten.sub.Tensor(x, 0, alpha=-1)"]),
    ("multiply or divide by one", "x: i64[4]", ["v0: f32[4] = aten.div.Tensor(x, 1)"]),
    ("multiply or divide by one", "x: bool[4]", ["v0: i64[4] = aten.mul.Tensor(x, 1)"]),
    ("multiply or divide by one", X, [f"{V} = aten.mul.Tensor(x, -1)"]),
    ("power of one", "x: i64[4]", ["v0: f32[4] = aten.pow.Tensor_Scalar(x, 1.0)"]),
    ("copy", "x: f32[4, 6][1, 4]", [f"{V} = aten.clone(x, memory_format=torch.contiguous_format)"]),
    ("copy", X, ["v0: f64[4, 6] = aten._to_copy(x, dtype=torch.float64)"]),
    (
        "cast of a cast",
        X,
        [
            "v0: f16[4, 6] = aten._to_copy(x, dtype=torch.float16)",
            "v1: f32[4, 6] = aten._to_copy(v0, dtype=torch.float32)",
        ],
    ),
    (
        "cast of a cast",
        "x: i64[4]",
        [
            "v0: f32[4] = aten._to_copy(x, dtype=torch.float32)",
            "v1: i64[4] = aten._to_copy(v0, dtype=torch.int64)",
        ],
    ),
    (  # some of it was written
        "read beside",
        "x: f32[4, 6], y: f32[4, 3]",
        [
            "v0: f32[4, 6] = aten.slice_scatter(x, y, 1, 2, 5)",
            "v1: f32[4, 2][6, 1] = aten.slice.Tensor(v0, 1, 4, 6)",
        ],
    ),
    (  # along another dimension
        "read beside",
        "x: f32[4, 6], y: f32[6]",
        [
            "v0: f32[4, 6] = aten.select_scatter(x, y, 0, 2)",
            "v1: f32[4][6] = aten.select.int(v0, 1, 3)",
        ],
    ),
    (  # the strides of a result are seen
        "read back",
        "x: f32[4, 6], y: f32[4]",
        [
            "v0: f32[4, 6] = aten.select_scatter(x, y, 1, 2)",
            "v1: f32[4][6] = aten.select.int(v0, 1, 2)",
        ],
    ),
    ("view of everything", X, ["v0: f32[4, 3][6, 2] = aten.slice.Tensor(x, 1, 0, 6, 2)"]),
    ("expand of an expand", "x: f32[1, 6]", ["v0: f32[4, 6][0, 1] = aten.expand(x, (4, 6))"]),
    (
        "squeeze of an unsqueeze",
        "x: f32[1, 6]",
        ["v0: f32[1, 1, 6] = aten.unsqueeze(x, 0)", "v1: f32[1, 6] = aten.squeeze.dim(v0, 1)"],
    ),
]  # fmt: skip


def graph_of(inputs, lines):
    last = lines[-1].split(":")[0]
    graph = parse("\n".join([f"graph({inputs}):", *lines, f"return {last}"]))
    verify(graph)
    return graph


def examples(graph):
    """Inputs with every awkward value that their dtype has."""
    found = []
    for value in graph.inputs:
        dtype = TORCH[value.dtype]
        count = max(value.strides[i] * value.sizes[i] for i in range(value.ndim))
        flat = torch.arange(count) - 3
        data = flat.to(dtype)
        if dtype.is_floating_point:
            data = data * 1.37
            awkward = torch.tensor([-0.0, float("nan"), float("inf"), 0.0])
            data[:4] = awkward[: len(data)]
        found.append(data.as_strided(value.sizes, value.strides))
    return found


def bits(tensor):
    return tensor.contiguous().view(torch.uint8) if tensor.dtype != torch.bool else tensor


def check_same(old, new):
    inputs = examples(old)
    (a,), _ = execute(old, inputs)
    (b,), _ = execute(new, inputs)
    assert a.dtype == b.dtype and a.stride() == b.stride()
    assert torch.equal(bits(a), bits(b))


@pytest.mark.parametrize(("name", "inputs", "lines", "left"), APPLIES, ids=lambda v: str(v)[:40])
def test_applies(name, inputs, lines, left):
    old = graph_of(inputs, lines)
    new = simplify(old)
    verify(new)
    assert [n.op for n in new.nodes] == left
    assert len(new.nodes) < len(old.nodes)
    check_same(old, new)


@pytest.mark.parametrize(("name", "inputs", "lines"), STAYS, ids=lambda v: str(v)[:40])
def test_stays(name, inputs, lines):
    old = graph_of(inputs, lines)
    assert simplify(old) is old
    check_same(old, simplify(old))


def test_every_rule_is_tested():
    names = [r.name for r in RULES]
    assert len(set(names)) == len(names)
    assert {case[0] for case in APPLIES} == set(names)

"""Dead code, common subexpressions, and the driver that keeps history."""

import pytest
import torch

from tracejit.ir.execute import execute
from tracejit.ir.graph import identity, show
from tracejit.ir.passes import (
    common_subexpressions,
    dead_code,
    default_passes,
    is_effect,
    run,
    simplify,
    strides_unseen,
)
from tracejit.ir.text import parse
from tracejit.ir.verify import VerifyError, verify


def ops(graph):
    return [n.op for n in graph.nodes]


def test_dead_code_goes_and_effects_stay():
    graph = parse(
        """graph(x: f32[4]):
        v0: f32[4] = aten.neg(x)
        v1: f32[4] = aten.rand((4,))
        v2: f32[4], v3: bool[4] = aten.native_dropout(x, 0.5, True)
        v4: f32[] = aten.sum(x)
        tj.expect(v4, 3.0)
        v5: f32[4] = aten.exp(x)
        v6: f32[4] = aten.cos(x)
        return v5
        write x <- v6"""
    )
    new = dead_code(graph)
    verify(new)
    assert ops(new) == [
        "aten.rand",
        "aten.native_dropout",
        "aten.sum",
        "tj.expect",
        "aten.exp",
        "aten.cos",
    ]
    assert len(graph.nodes) == 7  # the pass changed nothing in place
    assert dead_code(new) is new


def test_write_of_what_is_there_goes():
    graph = parse("graph(x: f32[4]):\n    v0: f32[4] = aten.mul.Tensor(x, 1)\n    write x <- v0")
    assert show(dead_code(simplify(graph))) == "graph(x: f32[4]):\n    return"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("f32[4] = aten.exp(x)", "f32[4] = aten.exp(x)", True),
        ("f32[4] = aten.exp(x)", "f32[4] = aten.exp(y)", False),
        ("f32[4] = aten.mul.Tensor(x, 2)", "f32[4] = aten.mul.Tensor(x, 2.0)", False),
        ("f32[4] = aten.mul.Tensor(x, 0.0)", "f32[4] = aten.mul.Tensor(x, -0.0)", False),
        ("f32[4] = aten.mul.Tensor(x, nan)", "f32[4] = aten.mul.Tensor(x, nan)", True),
        ("f32[4] = aten.add.Tensor(x, y)", "f32[4] = aten.add.Tensor(x, y, alpha=2)", False),
        ("f32[4] = aten.rand((4,))", "f32[4] = aten.rand((4,))", False),
        ("f32[4] = aten.bernoulli(x)", "f32[4] = aten.bernoulli(x)", False),
        ("f32[2, 2] = aten.full((2, 2), 1)", "f32[2, 2][1, 2] = aten.full((2, 2), 1)", False),
    ],
)
def test_common_subexpressions(first, second, same):
    graph = parse(f"graph(x: f32[4], y: f32[4]):\n  v0: {first}\n  v1: {second}\n  return v0, v1")
    new = common_subexpressions(graph)
    assert (len(new.nodes) == 1) is same
    assert (new.outputs[0] is new.outputs[1]) is same
    assert common_subexpressions(new) is new


def test_subexpressions_of_subexpressions():
    graph = parse(
        """graph(x: f32[4]):
        v0: f32[4] = aten.exp(x)
        v1: f32[4], v2: i64[4] = aten.sort(v0)
        v3: f32[4] = aten.exp(x)
        v4: f32[4], v5: i64[4] = aten.sort(v3)
        v6: f32[4] = aten.add.Tensor(v1, v4)
        return v6, v5"""
    )
    new = common_subexpressions(graph)
    verify(new)
    assert ops(new) == ["aten.exp", "aten.sort", "aten.add.Tensor"]
    x = torch.randn(4)
    for a, b in zip(execute(graph, [x])[0], execute(new, [x])[0], strict=True):
        assert torch.equal(a, b)


def test_identity_tells_numbers_apart():
    assert len({identity(v) for v in (0, 0.0, -0.0, False, None, "0")}) == 6
    assert identity((float("nan"),)) == identity((float("nan"),))


def test_strides_unseen():
    graph = parse(
        """graph(x: f32[4, 6]):
        v0: f32[4, 6] = aten.neg(x)
        v1: f32[6, 4][1, 6] = aten.t(v0)
        v2: f32[6, 4] = aten.exp(v1)
        v3: f32[4, 6] = aten.neg(x)
        v4: f32[6, 4][1, 6] = aten.t(v3)
        v5: f32[6, 6] = aten.mm(v4, x)
        v6: f32[4, 6] = aten.neg(x)
        v7: f32[6, 4][1, 6] = aten.t(v6)
        return v2, v5, v7"""
    )
    assert {v.name for v in strides_unseen(graph)} == {"v0", "v1"}


def test_effects():
    graph = parse(
        """graph(x: f32[4]):
        v0: f32[4] = aten.rand((4,))
        v1: f32[4] = aten.exp(x)
        tj.expect(v0, 1)"""
    )
    assert [is_effect(n) for n in graph.nodes] == [True, False, True]


TEXT = (
    "graph(x: f32[4]):\n    v0: f32[4] = aten.neg(x)\n    v1: f32[4] = aten.exp(x)\n    return v1"
)


def test_every_pass_is_verified_when_asked(monkeypatch):
    from tracejit.runtime.config import config

    def wrong(graph):
        new = parse(show(graph))
        new.outputs[0].dtype = "f16"
        return new

    monkeypatch.setattr(config, "verify", True)
    with pytest.raises(VerifyError, match="^after wrong: aten.exp"):
        run(parse(TEXT), [("wrong", wrong)])
    monkeypatch.setattr(config, "verify", False)
    run(parse(TEXT), [("wrong", wrong)])


def test_default_passes():
    graph = parse(
        """graph(x: f32[4, 6], y: f32[4, 6]):
        v0: f32[4, 6] = aten._softmax(x, 1, False)
        v1: f32[4, 6] = aten._softmax(x, 1, False)
        v2: f32[4, 6] = aten.add.Tensor(v0, v1)
        v3: f32[4, 6] = aten.neg(v2)
        return v2"""
    )
    new = run(graph, default_passes())
    assert ops(new).count("aten.exp") == 1 and "aten.neg" not in ops(new)
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(execute(new, [x, y])[0][0], 2 * torch.softmax(x, 1))

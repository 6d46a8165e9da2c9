"""A program that uses torch's own compiler, or operators that do, runs as it does without us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tracejit
from tracejit.api import dispatcher_of

X = torch.linspace(-1, 1, 6).reshape(2, 3)
WEIGHT = torch.linspace(0, 1, 6).reshape(2, 3)


def compiled_inside(x: Any) -> Any:
    return torch.compile(lambda y: y.sin() * 2, backend="eager")(x) + 1


def whole_graph_inside(x: Any) -> Any:
    return torch.compile(lambda y: y.sin() * 2, backend="eager", fullgraph=True)(x) + 1


def cond(x: Any) -> Any:
    return torch.cond(x.sum() > 9, lambda y: y + 1, lambda y: y - 1, (x,)) * 2


def higher_order(x: Any) -> Any:
    branches = (lambda y: y + 1), (lambda y: y - 1)
    return torch.ops.higher_order.cond(x.sum() > 9, *branches, (x,)) * 2


def raising(x: Any) -> Any:
    def fails(y: Any) -> Any:
        raise KeyError("from inside")

    try:
        return torch.compile(fails, backend="eager")(x)
    except KeyError:
        return x + 1


def nested(x: Any) -> Any:
    """Rows of two lengths through operators whose kernels are written in Python."""
    rows = torch.nested.nested_tensor([x, x[:1]], layout=torch.jagged)
    return torch.nn.functional.linear(rows, WEIGHT).values() + 1


@pytest.mark.parametrize(
    "f", [compiled_inside, whole_graph_inside, cond, higher_order, raising, nested]
)
def test_results_are_those_of_eager(f: Callable[[Any], Any]) -> None:
    torch._dynamo.reset()
    compiled = tracejit.compile(f, wait=True)
    with torch.no_grad():
        expected = f(X)
        assert all(compiled(X).equal(expected) for _ in range(3))
        assert dispatcher_of(compiled).reasons
        after = tracejit.compile(lambda x: x * 2 + 1, wait=True)  # nothing is left behind
        assert all(after(X).equal(X * 2 + 1) for _ in range(2))
        assert not dispatcher_of(after).reasons

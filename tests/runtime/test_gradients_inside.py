"""Gradients that a call takes for itself are operations like others: recorded and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import func, nn

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of

NET = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 1))


def loss(w: Any, x: Any) -> Any:
    return torch.tanh(x @ w).sum()


def of_a_copy(w: Any, x: Any) -> Any:
    with torch.enable_grad():
        w = w.detach().clone().requires_grad_(True)
        (found,) = torch.autograd.grad(loss(w, x), w)
    return found * 2


def of_parameters(w: Any, x: Any) -> Any:
    with torch.enable_grad():
        return torch.autograd.grad(NET(x).mean(), list(NET.parameters()))


def penalty(w: Any, x: Any) -> Any:
    """The gradient of a gradient's norm."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(w, x), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
    return second


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad * x * 20


def own_backward(w: Any, x: Any) -> Any:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        return torch.autograd.grad(Doubled.apply(x).sum(), x)[0]


def hooked(w: Any, x: Any) -> Any:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        x.register_hook(lambda grad: grad * 2)
        return torch.autograd.grad(loss(w, x), x)[0]


COMPILED: list[Callable[..., Any]] = [
    of_a_copy,
    of_parameters,
    penalty,
    hooked,
    lambda w, x: func.grad(loss)(w, x) * 2,
    lambda w, x: func.grad_and_value(loss, argnums=1)(w, x),
    lambda w, x: func.jvp(lambda w: loss(w, x), (w,), (torch.ones_like(w),)),
    lambda w, x: func.vjp(lambda w: torch.tanh(x @ w), w)[1](torch.ones(5, 3)),
    lambda w, x: func.vmap(func.grad(lambda row: torch.tanh(row @ w).sum()))(x),
    lambda w, x: func.jacrev(lambda row: torch.tanh(row @ w))(x[0]),
    lambda w, x: func.hessian(lambda row: torch.tanh(row @ w).sum())(x[0]),
]


@pytest.mark.parametrize("number", range(len(COMPILED)))
def test_like_eager_and_compiled(number: int, fresh_cache: Any) -> None:
    function = COMPILED[number]
    compiled = tracejit.compile(function, backend=BACKEND, wait=True)
    with torch.no_grad():
        for _ in range(4):
            w, x = torch.randn(4, 3), torch.randn(5, 4)
            torch.testing.assert_close(compiled(w, x), function(w, x))
    dispatcher = dispatcher_of(compiled)
    assert dispatcher.reasons == [] and [e.check.held > 1 for e in dispatcher.entries] == [True]


def test_with_an_argument_that_requires_gradients(fresh_cache: Any) -> None:
    def f(w: Any, x: Any) -> Any:
        return torch.autograd.grad(loss(w, x), w)[0]

    compiled = tracejit.compile(f, backend=BACKEND, wait=True)
    for _ in range(4):
        w, x = torch.randn(4, 3, requires_grad=True), torch.randn(5, 4)
        found = compiled(w, x)
        torch.testing.assert_close(found, f(w, x))
        assert w.grad is None and not found.requires_grad
    assert [e.check.held > 1 for e in dispatcher_of(compiled).entries] == [True]


def backward(w: Any, x: Any) -> Any:
    with torch.enable_grad():
        loss(w, x).backward()
    return w.grad * 1


def marked(w: Any, x: Any) -> Any:
    x.requires_grad_()
    return w * 2


@pytest.mark.parametrize("function", [backward, marked, own_backward])
def test_what_has_effects_runs_eagerly(function: Any) -> None:
    compiled = tracejit.compile(function, backend=BACKEND, wait=True)
    with torch.no_grad():
        for _ in range(3):
            w, x = torch.randn(4, 3, requires_grad=True), torch.randn(5, 4)
            other = w.detach().clone().requires_grad_(), x.clone()
            torch.testing.assert_close(compiled(w, x), function(*other))
            assert (w.grad is None) == (other[0].grad is None)
            assert x.requires_grad == other[1].requires_grad
    assert dispatcher_of(compiled).reasons and not dispatcher_of(compiled).entries


LAYER, RECURRENT = torch.nn.Linear(4, 4), torch.nn.LSTM(4, 3, 2, batch_first=True)


def without(x: torch.Tensor) -> Any:
    with torch.no_grad():
        found = torch.linalg.solve(LAYER.weight, x[0]), LAYER.weight.sort()[0]
        return *found, LAYER.weight.view(-1), RECURRENT(x)[0]


def test_library_calls_without_gradients_inside() -> None:
    """What is computed under an inner no_grad requires none, whatever the parameters do."""
    compiled = tracejit.compile(without, backend=BACKEND, wait=True)
    for _ in range(3):
        x = torch.randn(2, 4, 4)
        found, wanted = compiled(x), without(x)
        assert [t.requires_grad for t in found] == [t.requires_grad for t in wanted]
        torch.testing.assert_close(found, wanted)
    assert not dispatcher_of(compiled).reasons

"""What a call makes for itself: leaves of autograd and parameters that it returns, modules that it
uses, tensors without values, tangents of forward-mode differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import tracejit
from tests.executors import BACKEND
from tests.semantics.cases import called
from tests.semantics.support import compare
from tracejit.api import dispatcher_of
from tracejit.runtime.aliases import made

Made = Callable[..., Any]


def small() -> tuple[torch.Tensor]:
    return (torch.randn(4),)


def other() -> tuple[torch.Tensor]:
    return (torch.randn(2, 4),)


def trained() -> tuple[torch.Tensor]:
    return (torch.randn(4, requires_grad=True),)


# --- leaves ---


def parameter_of_constant(x: Any) -> Any:
    p = nn.Parameter(torch.ones(3) * 2)
    return p, x + 1


def parameters(x: Any) -> Any:
    one, same = nn.Parameter(x * 2, requires_grad=True), nn.Parameter(x * 2)
    return one, same, one, nn.Parameter((x * 3).int(), requires_grad=False)


def leaves(x: Any) -> Any:
    flags = torch.zeros(3, requires_grad=True), torch.randn(2, 2, requires_grad=True)
    return *flags, (x * 2).requires_grad_(), x.detach().clone().requires_grad_()


def leaves_on_one_memory(x: Any) -> Any:
    y = x * 2
    p = nn.Parameter(y)
    with torch.no_grad():
        p[0] = 3
        part = p[1:]
    return p, y, part, p.detach(), nn.Parameter(y), {"again": p}


def leaves_of_the_input(x: Any) -> Any:
    p = nn.Parameter(x)
    return p, nn.Parameter(x[1:]), x.detach().requires_grad_(), x[1:].detach().requires_grad_(), x


def input_written_through(x: Any) -> Any:
    p = nn.Parameter(x)
    with torch.no_grad():
        p.mul_(2)
        p[0] = 7
    return p, x


def of_other_dtype(x: Any) -> Any:
    z = torch.complex(x, x * 2)
    return nn.Parameter(z.imag), nn.Parameter(z.conj()), nn.Parameter(x.view(torch.int32), False)


def buffers(x: Any) -> Any:
    b = x * 2
    b.scale, b.label = 1.5, "scaled"
    return nn.Buffer(x * 2), nn.Buffer(x + 1, persistent=False), b


def gradients(x: Any) -> Any:
    w = (x * 2).requires_grad_()
    (g,) = torch.autograd.grad((w**3).sum(), w)
    v = x.detach().requires_grad_()
    (h,) = torch.autograd.grad(v.sin().sum(), v)
    return w, g, h


def steps_of_descent(x: Any) -> Any:
    w = torch.zeros(4, requires_grad=True)
    for _ in range(3):
        (g,) = torch.autograd.grad(((w - x) ** 2).sum(), w)
        with torch.no_grad():
            w -= 0.1 * g
    return w


def turned_off(x: Any) -> Any:
    w = (x * 2).requires_grad_()
    w.requires_grad = False
    return w


@pytest.mark.parametrize(
    "function",
    [parameter_of_constant, parameters, leaves, leaves_on_one_memory, leaves_of_the_input]
    + [input_written_through, of_other_dtype, buffers, gradients, steps_of_descent, turned_off],
)
def test_leaves(function: Made) -> None:
    assert compare(called(function, small, other)) == set()


@pytest.mark.parametrize("function", [parameters, leaves, leaves_of_the_input, turned_off])
def test_leaves_without_gradients(function: Made) -> None:
    def program(c: Any) -> Any:
        f = c(function)
        for grad in (False, False, False, True, True):
            x = torch.randn(4)
            with torch.set_grad_enabled(grad):
                yield f(x), x

    assert compare(program) == set()


def test_leaves_of_what_needs_gradients() -> None:
    assert compare(called(leaves_of_the_input, trained, small)) == set()
    kept = lambda x: (x.detach().clone().requires_grad_(), nn.Parameter(x))  # noqa: E731
    assert compare(called(kept, trained, small)) == set()


def with_history(x: Any) -> Any:
    w = torch.zeros(4, requires_grad=True)
    return w, w * x


def with_gradient(x: Any) -> Any:
    w = (x * 2).requires_grad_()
    w.grad = torch.ones_like(w)
    return w


def with_hook(x: Any) -> Any:
    w = (x * 2).requires_grad_()
    w.register_hook(lambda grad: grad * 2)
    return w


def with_tensor(x: Any) -> Any:
    w = x * 2
    w.twin = x + 1
    return w


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        (with_history, {"autograd"}),
        (with_gradient, {"autograd"}),
        (with_hook, {"autograd"}),
        (with_tensor, {"output"}),
        (lambda x: x.requires_grad_().detach() * 2, {"autograd"}),
    ],
)
def test_more_than_a_leaf_is_refused(function: Made, kinds: set[str]) -> None:
    assert compare(called(function, small)) == kinds


def test_no_call_gives_the_parameter_of_another() -> None:
    """Each call's parameter shows that call's input, and none of those before."""
    f = tracejit.compile(lambda x: nn.Parameter(x), backend=BACKEND, wait=True)
    kept = []
    for n in range(4):
        x = torch.full((3,), float(n))
        p = f(x)
        kept.append((x, p))
        assert p is not x and p.data_ptr() == x.data_ptr() and p.is_leaf
    assert all(torch.equal(x, p) for x, p in kept)
    assert dispatcher_of(f).entries[0].run is not None


def test_attributes_and_gradients_of_a_leaf() -> None:
    data = torch.ones(3)
    p = made(data, True, True, {"label": "p"})
    assert type(p) is nn.Parameter and p.requires_grad and p.label == "p"
    with torch.no_grad():
        p.add_(1)
    assert torch.equal(data, torch.full((3,), 2.0)) and not data.requires_grad
    plain = made(data, True, False, {})
    plain.sum().backward()
    assert type(plain) is torch.Tensor and plain.grad is not None


# --- modules ---


def linear(x: Any) -> Any:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        return layer(x)


def stack(x: Any) -> Any:
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, 2)]
    with torch.no_grad():
        return nn.Sequential(*layers)(x)


def normalised(x: Any) -> Any:
    layer = nn.BatchNorm1d(4)
    with torch.no_grad():
        return layer(x), layer.running_mean, layer.num_batches_tracked


def weights(x: Any) -> Any:
    layer = nn.Linear(4, 3)
    return layer.weight, layer.bias, x + 1


def initialised(x: Any) -> Any:
    w, b = nn.Parameter(torch.empty(3, 4)), nn.Parameter(torch.empty(3))
    nn.init.xavier_uniform_(w)
    nn.init.normal_(b)
    return w, b, x.sum()


@pytest.mark.parametrize("function", [linear, stack, normalised, weights, initialised])
def test_modules(function: Made) -> None:
    """With the weights that eager draws, and the generator where eager leaves it."""
    wide = lambda: (torch.randn(5, 4),)  # noqa: E731
    assert compare(called(function, other, wide)) == set()


# --- tensors without values ---


def sizes_only(x: Any) -> Any:
    m = torch.empty(3, 5, device="meta").t() @ torch.empty(3, 2, device="meta")
    m += 1
    m.add_(x.sum().to("meta"))
    return x * m.shape[0] + nn.Linear(3, 7, device="meta").weight.numel()


def leaves_without_values(x: Any) -> Any:
    return x + 1, x.to("meta")


def made_of_sizes(x: Any) -> Any:
    return x + torch.zeros_like(torch.empty(4, device="meta"), device="cpu")


def decided_by_sizes(x: Any) -> Any:
    m = torch.empty_like(x, device="meta").expand(3, *x.shape)
    return x * 2 if m.numel() > 12 else x * 3


def test_meta() -> None:
    assert compare(called(sizes_only, small, other)) == set()
    assert compare(called(decided_by_sizes, small, other)) == set()


@pytest.mark.parametrize("function", [leaves_without_values, made_of_sizes])
def test_meta_that_leaves(function: Made) -> None:
    assert compare(called(function, small)) == {"tensor"}


# --- forward-mode differentiation ---


def pushed(x: Any) -> Any:
    return torch.func.jvp(lambda v: v.cos() * 2.0 + 1, (x,), (torch.ones_like(x),))


def pushed_twice(x: Any) -> Any:
    inner = lambda u: torch.func.jvp(lambda w: w.sin() * 3, (u,), (u,))[1]  # noqa: E731
    return torch.func.jvp(inner, (x,), (torch.ones_like(x),))


def pushed_product(x: Any) -> Any:
    return torch.func.jvp(lambda a, b: a @ b.mT, (x, x + 1), (x, x * 2))


def not_reached(x: Any) -> Any:
    return torch.func.jvp(lambda v: (v.exp(), torch.ones(3)), (x,), (x,))


def hessian(x: Any) -> Any:
    return torch.func.jacfwd(torch.func.jacrev(lambda v: (v**3).sum()))(x)


def scaled_hessian(x: Any) -> Any:
    return torch.func.hessian(lambda v: (v.sin() * v).sum() * 2.0)(x)


def duals(x: Any) -> Any:
    with forward_ad.dual_level():
        d = forward_ad.make_dual(x, torch.ones_like(x))
        y = forward_ad.unpack_dual(d.sin() * 3 + x)
        none = forward_ad.unpack_dual(x).tangent
        picked = forward_ad.unpack_dual(torch.where(x > 0, d, torch.ones_like(x))).tangent
        return y.primal, y.tangent, none, picked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "function",
    [pushed, pushed_twice, pushed_product, not_reached, hessian, scaled_hessian, duals],
)
def test_forward_mode(function: Made, dtype: torch.dtype) -> None:
    makes = [lambda: (torch.randn(2, 4, dtype=dtype),), lambda: (torch.randn(3, 3, dtype=dtype),)]
    assert compare(called(function, *makes)) == set()


def test_tangents_from_outside() -> None:
    """Inside of a level the results carry tangents: no plan runs there."""

    def program(c: Any) -> Any:
        f, doubled = c(lambda x: x.sin() * 2), c(lambda x: forward_ad.make_dual(x * 2, x))
        yield f(torch.ones(3))
        for _ in range(3):
            with forward_ad.dual_level():
                d = forward_ad.make_dual(torch.randn(3), torch.ones(3))
                for dual in (f(d), f(d), doubled(torch.randn(3))):
                    yield forward_ad.unpack_dual(dual).tangent
        yield f(torch.ones(3))

    assert compare(program) == {"outer-tracer"}

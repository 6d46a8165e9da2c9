"""Rows against eager, bit for bit, where kernels go wrong: NaN, infinities, zeros, halves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.ops.rows import Calls, graph_of, rows_used, run, shapes, tensors

inf, nan = math.inf, math.nan
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
INTS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
SPECIAL = [
    nan,
    inf,
    -inf,
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    -2.5,
    3.0,
    6.5,
    -3.25,
    1e-5,
    7e4,
    -1e6,
    0.1,
]


def values(dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.tensor([*SPECIAL, *torch.randn(46).tolist()], dtype=dtype)
    if dtype == torch.bool:
        return torch.tensor([True, False])
    info = torch.iinfo(dtype)
    found = [info.min, info.max, info.min + 1, info.max - 1, 0, 1, 2, 3, 7, 63, -1, -2, -7]
    return torch.tensor([v for v in found if v >= info.min], dtype=dtype)


def pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x = values(dtype)
    return x[:, None], x[None, :].clone()


def check(
    call: Callable[[], Any], zeros: bool = True, rtol: float = 0, decided: bool = True
) -> None:
    """Run `call` eagerly, and each of its ops that has a row through the row; they agree.

    zeros: the sign of zero too. decided: at least one op is computed by its row.
    """
    calls = Calls()
    with calls, torch.no_grad():
        call()
    assert calls.found
    ran = False
    for name, args, kwargs, result in calls.found:
        graph, inputs = graph_of(name, args, kwargs, result)
        assert shapes(graph.nodes[0]) == [(v.dtype, v.sizes) for v in graph.outputs]
        if not rows_used(graph):
            continue
        ran = True
        for found, expected in zip(run(graph, inputs), tensors(result), strict=True):
            same(name, found, expected, zeros, rtol)
    assert ran or not decided


def same(name: str, found: torch.Tensor, expected: torch.Tensor, zeros: bool, rtol: float) -> None:
    atol = rtol * 1e-3 if rtol else 0
    torch.testing.assert_close(
        found, expected, rtol=rtol, atol=atol, equal_nan=True, msg=lambda m: f"{name}: {m}"
    )
    if zeros and found.dtype.is_floating_point:
        flat = expected == 0
        assert torch.equal(found[flat].signbit(), expected[flat].signbit()), f"{name}: sign of zero"


F = torch.nn.functional
FLOAT_NAMES = (
    "neg abs sign sgn reciprocal sqrt floor ceil trunc round frac isnan isinf isfinite isposinf "
    "isneginf signbit logical_not deg2rad rad2deg relu nan_to_num clone zeros_like ones_like square"
)
PAIR_NAMES = (
    "add sub mul div floor_divide remainder fmod maximum minimum fmax fmin eq ne lt le gt ge "
    "logical_and logical_or logical_xor copysign heaviside"
)
INT_NAMES = (
    "neg abs sign sgn floor ceil trunc round isnan isinf signbit logical_not bitwise_not "
    "reciprocal nan_to_num sqrt square deg2rad relu"
)
INT_PAIR_NAMES = (
    "add sub mul maximum minimum fmax fmin eq ne lt le gt ge logical_and logical_or logical_xor "
    "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift"
)
FUNCTION_NAMES = (
    "exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh "
    "atanh erf erfc erfinv lgamma sigmoid rsqrt sinc"
)
UNARY: dict[str, Callable[[torch.Tensor], Any]] = {
    **{n: getattr(torch, n) for n in FLOAT_NAMES.split()},
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "threshold": lambda x: F.threshold(x, 0.1, 0.3),
    "softshrink": lambda x: F.softshrink(x, 0.1),
    "hardshrink": lambda x: F.hardshrink(x, 0.1),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "prelu": lambda x: F.prelu(x, torch.full((1,), 0.1, dtype=x.dtype)),
    "clamp": lambda x: x.clamp(-0.1, 0.7),
    "clamp_min": lambda x: x.clamp(min=0),
    "clamp_to_nan": lambda x: x.clamp(nan, 1.0),
    "clamp_crossed": lambda x: x.clamp(1.0, -1.0),
    "filled": lambda x: x.masked_fill(x > 0, 0.3),
    "full_like": lambda x: torch.full_like(x, 0.1),
    "nan_to_num_given": lambda x: x.nan_to_num(0.1, 0.2, -0.3),
    **{f"pow{e}": lambda x, e=e: x**e for e in (0, 1, 2, 3, -1, -2, 0.5)},
}
NUMBER: dict[str, Callable[[torch.Tensor, Any], Any]] = {
    "add": lambda x, n: x + n,
    "sub": lambda x, n: x - n,
    "rsub": lambda x, n: n - x,
    "mul": lambda x, n: x * n,
    "div": lambda x, n: x / n,
    "rdiv": lambda x, n: n / x,
    "floor_divide": lambda x, n: x // n,
    "remainder": lambda x, n: x % n,
    "fmod": lambda x, n: torch.fmod(x, n),
    "trunc_divide": lambda x, n: torch.div(x, n, rounding_mode="trunc"),
    "eq": lambda x, n: x == n,
    "ne": lambda x, n: x != n,
    "lt": lambda x, n: x < n,
    "le": lambda x, n: x <= n,
    "gt": lambda x, n: x > n,
    "ge": lambda x, n: x >= n,
    "copysign": lambda x, n: torch.copysign(x, n),
    "where": lambda x, n: torch.where(x > n, x, n),
}
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    n: getattr(torch, n) for n in PAIR_NAMES.split()
}
BINARY["where"] = lambda x, y: torch.where(x > y, x, y)
BINARY["trunc_divide"] = lambda x, y: torch.div(x, y, rounding_mode="trunc")
BINARY["clamp_tensor"] = lambda x, y: x.clamp(min=y)
# Where eager's own kernels differ in the sign of a zero.
EITHER_ZERO = {"maximum", "minimum", "fmax", "fmin", "clamp_tensor"}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_unary_floats(name: str, dtype: torch.dtype) -> None:
    x = values(dtype)
    if dtype == torch.float16 and name in ("pow3", "pow-2", "pow0.5"):
        pytest.skip("eager's CPU kernel for f16 alone calls libm's pow")
    check(lambda: UNARY[name](x), zeros=name != "softshrink")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary_floats(name: str, dtype: torch.dtype) -> None:
    x, y = pairs(dtype)
    check(lambda: BINARY[name](x, y), zeros=name not in EITHER_ZERO)


@pytest.mark.parametrize("number", [0.1, -3, 2.5, 0, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", NUMBER)
def test_numbers_with_floats(name: str, dtype: torch.dtype, number: Any) -> None:
    x = values(dtype)
    if number is True and name in ("sub", "rsub"):
        pytest.skip("eager refuses")
    check(lambda: NUMBER[name](x, number))


@pytest.mark.parametrize("other", [torch.float64, torch.float32, torch.int64])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "name", ["add", "sub", "mul", "div", "floor_divide", "remainder", "lt", "maximum"]
)
def test_zero_dim_operands_of_another_dtype(
    name: str, dtype: torch.dtype, other: torch.dtype
) -> None:
    x, scale = values(dtype), torch.tensor(3.3).to(other)
    check(lambda: BINARY[name](x, scale))
    check(lambda: BINARY[name](scale, x))


@pytest.mark.parametrize("dtype", INTS, ids=str)
@pytest.mark.parametrize("name", INT_NAMES.split())
def test_unary_integers(name: str, dtype: torch.dtype) -> None:
    x = values(dtype)
    check(lambda: getattr(torch, name)(x))


@pytest.mark.parametrize("dtype", INTS, ids=str)
@pytest.mark.parametrize("name", INT_PAIR_NAMES.split())
def test_binary_integers(name: str, dtype: torch.dtype) -> None:
    x, y = pairs(dtype)
    check(lambda: getattr(torch, name)(x, y))


@pytest.mark.parametrize("number", [1, 2, 3, 7, -1, -3, 100, True])
@pytest.mark.parametrize("dtype", [*INTS, torch.bool], ids=str)
@pytest.mark.parametrize(
    "name", [n for n in NUMBER if n not in ("rdiv", "copysign", "div", "rsub", "sub")]
)
def test_numbers_with_integers(name: str, dtype: torch.dtype, number: Any) -> None:
    x = values(dtype)
    if number == -1 and dtype.is_signed:
        x = x[1:]  # the smallest integer by -1 is the end of the process in eager
    try:
        NUMBER[name](x, number)
    except (RuntimeError, NotImplementedError):
        pytest.skip("eager refuses")
    check(lambda: NUMBER[name](x, number), decided=False)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 5, 13])
@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integer_powers_wrap(dtype: torch.dtype, exponent: int) -> None:
    x = values(dtype)
    check(lambda: x**exponent)


@pytest.mark.parametrize(
    "name", ["add", "mul", "maximum", "minimum", "eq", "ne", "logical_xor", "bitwise_and"]
)
def test_bools(name: str) -> None:
    x, y = pairs(torch.bool)
    check(lambda: getattr(torch, name)(x, y))


@pytest.mark.parametrize("target", [*FLOATS, *INTS, torch.bool], ids=str)
@pytest.mark.parametrize("source", [*FLOATS, *INTS, torch.bool], ids=str)
def test_casts(source: torch.dtype, target: torch.dtype) -> None:
    x = values(source)
    if source.is_floating_point and not target.is_floating_point and target != torch.bool:
        x = x[x.isfinite() & (x.abs() < 100) & (x > -1)]  # others have no answer in C
    check(lambda: torch.ops.aten._to_copy(x, dtype=target))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_round_as_eager(dtype: torch.dtype, reduction: str) -> None:
    x, y = torch.randn(2, 512).mul(2).to(dtype)
    for loss in (
        lambda: F.mse_loss(x, y, reduction=reduction),
        lambda: F.huber_loss(x, y, reduction=reduction, delta=0.7),
        lambda: F.smooth_l1_loss(x, y, reduction=reduction, beta=0.7),
    ):
        check(loss, rtol=0 if reduction == "none" else 2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scaled_sums_in_halves(dtype: torch.dtype) -> None:
    x, y, z = torch.randn(3, 512).to(dtype)
    check(lambda: torch.add(x, y, alpha=0.3))
    check(lambda: torch.sub(x, y, alpha=0.3))
    check(lambda: torch.addcdiv(x, y, z, value=0.3))
    check(lambda: torch.xlogy(x, y.abs()))
    check(lambda: torch.logit(x.abs(), 0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fused_products_are_within_one_rounding(dtype: torch.dtype) -> None:
    """Eager fuses multiply and add here; ours rounds the product, so results that cancel differ."""
    x, y, z = torch.rand(3, 512, dtype=dtype) + 0.5
    rtol = 4 * torch.finfo(dtype).eps
    check(lambda: torch.add(x, y, alpha=0.3), rtol=rtol)
    check(lambda: torch.addcmul(x, y, z, value=0.3), rtol=rtol)
    check(lambda: torch.lerp(x, y, 0.3), rtol=rtol)
    check(lambda: torch.lerp(x, y, 0.7), rtol=rtol)
    check(lambda: torch.lerp(x, y, z), rtol=rtol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("name", FUNCTION_NAMES.split())
def test_functions(name: str, dtype: torch.dtype) -> None:
    x = values(dtype)
    rtol = 1e-2 if dtype == torch.bfloat16 else 1e-6
    check(lambda: getattr(torch, name)(x), rtol=rtol)


@pytest.mark.parametrize("name", ["silu", "mish", "softplus", "elu", "selu", "celu", "logsigmoid"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_activations(name: str, dtype: torch.dtype) -> None:
    x = values(dtype)
    check(lambda: getattr(F, name)(x), rtol=1e-2 if dtype.itemsize == 2 else 1e-5)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gelu(dtype: torch.dtype, approximate: str) -> None:
    """Both cancel for negative values; eager's vectors give NaN for infinity, and its sign of zero
    differs from host to host."""
    x = values(dtype)
    x = x[~x.isinf() & (x > -3)]
    rtol = 1e-2 if dtype.itemsize == 2 else 1e-5
    check(lambda: F.gelu(x, approximate=approximate), zeros=False, rtol=rtol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_norms_the_samples_do_not_reach(dtype: torch.dtype, affine: bool) -> None:
    """The recorder's name of inference batch norm, and what only other devices dispatch to."""
    aten, x = torch.ops.aten, torch.randn(3, 6, 5).to(dtype)
    weight, bias = torch.randn(2, 6).to(dtype) if affine else (None, None)
    mean, var = torch.randn(6).to(dtype), torch.rand(6).to(dtype) + 0.5
    rtol = 2e-2 if dtype.itemsize == 2 else 1e-5
    one_op(aten.batch_norm.default, x, weight, bias, mean, var, False, 0.1, 1e-5, False, rtol=rtol)
    last = torch.randn(5).to(dtype) if affine else None
    for size in ((5,), (6, 5)):
        weight = last if len(size) == 1 else None
        result = torch.rms_norm(x, size, weight, 1e-5)
        rstd = x.float().square().mean(tuple(range(-len(size), 0)), keepdim=True).add(1e-5).rsqrt()
        args = (x, size, weight, 1e-5)
        compare("aten._fused_rms_norm", args, (result, rstd), rtol)


def one_op(op: Any, *args: Any, rtol: float) -> None:
    """An op that dispatches to others, called as one node."""
    compare(str(op).removesuffix(".default"), args, op(*args), rtol)


def compare(name: str, args: tuple[Any, ...], result: Any, rtol: float) -> None:
    graph, inputs = graph_of(name, args, {}, result)
    assert shapes(graph.nodes[0]) == [(v.dtype, v.sizes) for v in graph.outputs]
    assert rows_used(graph)
    for found, expected in zip(run(graph, inputs), tensors(result), strict=True):
        torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)

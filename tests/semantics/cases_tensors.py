"""Tensors: layouts, sharing, writes, dtypes and the numbers at their edges.

No tensor has a negative stride (torch refuses NumPy's); the case of that name shows what stands for
it: `flip`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .cases import CHANGED, Wrap, bits, called, case, t

T = "Tensors"
INF, NAN = float("inf"), float("nan")


def calling(name: str, function: Any, *makes: Any, eager: str = "", wrong: str = "") -> None:
    """A case: a function called with arguments that each of `makes` makes anew."""
    case(T, name, eager=eager, wrong=wrong)(called(function, *makes))


def write_both(x: Any, y: Any) -> Any:
    x.mul_(2)
    y.add_(x)
    return x + y


def overlapping(shift: int) -> Callable[[], tuple[Any, ...]]:
    def make() -> tuple[Any, ...]:
        base = t(12)
        return base[:4], base[shift : shift + 4], base

    return make


@case(T, "same storage passed twice")
def _(c: Wrap) -> Iterator[Any]:
    g = c(write_both)
    for _ in range(3):
        x = t(4)
        yield g(x, x), x
    yield CHANGED
    for _ in range(2):
        x, y = t(4), t(4)
        yield g(x, y), x, y
        yield g(x, x.view(4)), x
        yield g(x, x.detach()), x


calling(
    "overlapping views as arguments where one is written",
    lambda x, y, base: (x.mul_(2), y + 1, base.sum()),
    overlapping(2),
    overlapping(4),
    overlapping(1),
    overlapping(0),
    overlapping(2),
)
calling(
    "input returned as output",
    lambda x, n: (x, x * n, x),
    lambda: (t(3), 2),
    lambda: (t(3), 1),
    lambda: (t(3, 2), 2),
)
calling(
    "view of input returned",
    lambda x: (x[1:], x.t(), x.view(-1)[::2], x * 2),
    lambda: (t(4, 3),),
    lambda: (t(3, 2),),
)


@case(T, "two outputs sharing storage")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        y = x * 2
        return y, y[1:], y.t()

    g = c(f)
    a, b, d = g(t(4, 3))
    yield a, b, d
    for _ in range(2):
        a, b, d = g(t(4, 3))
        b.zero_()
        yield a, b, d
    yield CHANGED
    for _ in range(2):
        a, b, d = g(t(2, 2))
        d.add_(1)
        yield a, b, d


def add_in_place(x: Any) -> Any:
    x.add_(1).mul_(x)
    return x.sum()


def write_view(x: Any) -> Any:
    v = x[1]
    v.mul_(3)
    x[0] += v
    return v, x * 2


def write_steps(x: Any) -> Any:
    x[::2] = 0
    x[1::3].add_(1)
    return x.sum(0)


def write_transposed(x: Any) -> Any:
    v = x.t()
    v[1:].mul_(2)
    v.copy_(v + 1)
    return v


calling("in-place on an input", add_in_place, lambda: (t(4, 3),), lambda: (t(4, 3).t(),))
calling("in-place on a view of it", write_view, lambda: (t(4, 3),), lambda: (t(4, 4, 3)[:, 0],))
calling("in-place on a slice with step", write_steps, lambda: (t(7, 2),), lambda: (t(8, 2),))
calling(
    "in-place on a transposed view", write_transposed, lambda: (t(4, 3),), lambda: (t(3, 4).t(),)
)
calling(
    "in-place on an expanded tensor (eager's error)",
    lambda x: x.add_(1),
    lambda: (t(1).expand(4),),
    lambda: (t(4),),
    lambda: (t(1).expand(4),),
)


def outs(x: Any, y: Any) -> Any:
    r = torch.mul(x, 2, out=y)
    return r, torch.add(x, y, out=y[:]), r is y


def resized(x: Any) -> Any:
    x.resize_(2, 2)
    return x.fill_(1) + 1


def data_replaced(x: Any, y: Any) -> Any:
    x.data = y
    return x * 2


calling("out=", outs, lambda: (t(3), t(3)), lambda: (t(3, 2), t(2, 3).t()))
calling("resize_", resized, lambda: (t(4),), lambda: (t(5, 2),), eager="mutation")
calling(
    "set_",
    lambda x, y: x.set_(y) * 2,
    lambda: (t(4), t(3)),
    lambda: (t(3), t(2, 2)),
    eager="mutation",
)
calling(
    ".data =", data_replaced, lambda: (t(4), t(4)), lambda: (t(3), t(2, 2)), eager="side-effect"
)


@case(T, ".data = between calls")
def _(c: Wrap) -> Iterator[Any]:
    x, w = t(3), t(3)
    f = c(lambda x: x * w)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    w.data = t(3)
    yield f(x), f(x)
    w.data = t(2, 3)
    yield f(x), f(x)
    w.data = t(6)[::2]
    x.data = t(3)
    yield f(x), f(x)


def layouts(x: Any) -> Any:
    return x * 2, x.sum(0), x.relu(), torch.empty_like(x).fill_(1), x.clone(), x.reshape(-1)


def images(x: Any) -> Any:
    return x * 2, x.sum(1), torch.cat([x, x], 1), x.contiguous(), functional.max_pool2d(x, 2)


def empty_results(x: Any) -> Any:
    return x + 1, x.sum(), x.sum(0), x.sum(1), torch.cat([x, x]), x.mean(), x.prod(0), x.t()


calling(
    "non-contiguous",
    layouts,
    lambda: (t(3, 4).t(),),
    lambda: (t(8, 6)[::2, 1::3],),
    lambda: (t(4, 3),),
)
calling(
    "channels-last",
    images,
    lambda: (t(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),),
    lambda: (t(2, 3, 4, 4),),
)
calling("zero-size", empty_results, lambda: (t(0, 3),), lambda: (t(3, 0),), lambda: (t(2, 3),))
calling(
    "zero-dimensional",
    lambda x: (x + 1, x.sum(), x.view(1), x.max(), x.softmax(0), x.add_(1)),
    lambda: (t(),),
    lambda: (t(1),),
    lambda: (torch.tensor(3),),
)
calling(
    "negative-stride",
    lambda x: (x.flip(0) * 2, x.flip(0, 1)[1:] + x[1:], x.sum(0)),
    lambda: (torch.from_numpy(t(3, 4).numpy()[::-1].copy()),),
    lambda: (t(4, 3).flip(0).t(),),
)
calling(
    "zero-stride",
    lambda x: (x * 2, x.sum(0), x + 1, x.expand(2, *x.shape), x.contiguous()),
    lambda: (t(1, 3).expand(4, 3),),
    lambda: (t(4, 1).expand(4, 3),),
    lambda: (t(4, 3),),
)
calling(
    "conjugate",
    lambda x: (x * 2, x.conj(), x.real, x.imag + 1, x.conj() * x),
    lambda: (t(3, dtype=torch.complex64).conj(),),
    lambda: (t(3, dtype=torch.complex64),),
)
calling(
    "negative-bit",
    lambda x: (x * 2, x + x.exp(), x),
    lambda: (t(3, dtype=torch.complex64).conj().imag,),
    lambda: (t(3),),
)
calling(
    "view of another dtype returned",
    lambda x: (x.view(torch.int32), x * 2),
    lambda: (t(3),),
    lambda: (t(3, 2),),
)
calling(
    "sparse",
    lambda x, y: (x @ y, x.to_dense() + 1, x * 2),
    lambda: (torch.eye(3).to_sparse(), t(3, 2)),
    lambda: (torch.eye(3), t(3, 2)),
    eager="tensor",
)


calling(
    "quantised",
    lambda x: (x.dequantize() * 2, x),
    lambda: (torch.quantize_per_tensor(t(4), 0.1, 3, torch.quint8),),
    lambda: (torch.quantize_per_tensor(t(4), 0.5, 1, torch.qint8),),
    eager="tensor",
)


def arithmetic(x: Any) -> Any:
    return (
        x + x, x * 2, x * 1.5, x - 1, x / 3, -x, x.abs(), x > 1, x == x.flip(0), x.sum(), x.mean(),
        x.float(), torch.where(x > 0, x, 0), x.max(), x.square(), torch.cat([x, x]), x.add_(1),
    )  # fmt: skip


def complex_arithmetic(x: Any) -> Any:
    return (
        x + x,
        x * 2,
        x * 1.5j,
        x / 3,
        -x,
        x.abs(),
        x == x,
        x.sum(),
        x.real + 0,
        x.exp(),
        x.add_(1),
    )


def float8_arithmetic(x: Any) -> Any:
    y = x.float() * 2
    return y, y.to(x.dtype), x.to(torch.bfloat16), x.clone()


def integer_arithmetic(x: Any) -> Any:
    return (
        x + x, x * 2, x * 1.5, x - 1, x / 3, -x, x.abs(), x > 1, x.sum(), x.float().mean(),
        x // 2, x % 3, x & 3, x | 4, x ^ x.flip(0), ~x, x.max(), x.where(x > 0, 0), x.add_(1),
    )  # fmt: skip


def boolean_arithmetic(x: Any) -> Any:
    return (
        x & x.flip(0), x | True, ~x, x ^ x, x.any(), x.all(), x.sum(), x + x, x * 2, x.float() / 3,
        torch.where(x, 1.0, 2.0), x.logical_or_(x.flip(0)),
    )  # fmt: skip


DTYPES: tuple[tuple[Any, Any], ...] = (
    (torch.complex64, complex_arithmetic),
    (torch.complex128, complex_arithmetic),
    (torch.float64, arithmetic),
    (torch.float16, arithmetic),
    (torch.bfloat16, arithmetic),
    (torch.float8_e4m3fn, float8_arithmetic),
    (torch.float8_e5m2, float8_arithmetic),
    (torch.int8, integer_arithmetic),
    (torch.int16, integer_arithmetic),
    (torch.int32, integer_arithmetic),
    (torch.int64, integer_arithmetic),
    (torch.uint8, integer_arithmetic),
    (torch.bool, boolean_arithmetic),
)
OTHER = {
    torch.complex64: torch.complex128,
    torch.float8_e4m3fn: torch.float8_e5m2,
    torch.float64: torch.float32,
    torch.int64: torch.int32,
    torch.bool: torch.uint8,
}


def of_dtype(dtype: Any, function: Any) -> None:
    """A case: arguments of one dtype, then larger ones, then ones of another dtype."""
    other = OTHER.get(dtype, dtype)
    makes = [lambda n=n, d=d: (t(n, dtype=d),) for n, d in ((6, dtype), (5, dtype), (6, other))]
    calling(f"{str(dtype).split('.')[1]} inputs", function, *makes)


for of in DTYPES:
    of_dtype(*of)


def promoted(x: Any) -> Any:
    return (
        x + 1, x + 1.5, x * True, x > 2, 2**x.abs(), 1 - x, x / 2, x // 2, x.clamp(0, 2),
        torch.where(x > 0, x, 0.5), x.pow(2), torch.full_like(x, 1.5),
    )  # fmt: skip


def promoted_0d(x: Any, s: Any) -> Any:
    return x + s, x * s, torch.where(x > 0, x, s), torch.cat([x, x * s]), torch.maximum(x, s)


calling(
    "Python scalar against tensor promotion",
    promoted,
    *(
        lambda d=d: (t(4, dtype=d),)
        for d in (torch.int32, torch.float16, torch.bool, torch.uint8, torch.float64)
    ),
)
calling(
    "Python complex scalar against tensor promotion",
    lambda x: (x + 1j, x * 2j, x - (1 + 0j)),
    lambda: (t(4),),
    lambda: (t(4, dtype=torch.int32),),
)
calling(
    "0-d promotion",
    promoted_0d,
    lambda: (t(3), torch.tensor(2.5, dtype=torch.float64)),
    lambda: (t(3, dtype=torch.int32), torch.tensor(2.5)),
    lambda: (t(3, dtype=torch.float16), torch.tensor(2)),
    lambda: (t(3), torch.tensor([2.5], dtype=torch.float64)),
)


def divided(x: Any, y: Any) -> Any:
    return (
        x // y, x % y, x / y, torch.fmod(x, y), x.remainder(y),
        torch.div(x, y, rounding_mode="trunc"), x // -2, x % -3, -7 // y, -7 % y,
    )  # fmt: skip


def signed(dtype: Any) -> Callable[[], tuple[Any, ...]]:
    return lambda: (
        torch.tensor([-7, -7, 7, 7, -6, 0, -1, 5]).to(dtype),
        torch.tensor([2, -2, 2, -2, 3, -3, 4, -5]).to(dtype),
    )


calling(
    "integer division and modulo of negatives",
    divided,
    signed(torch.int64),
    signed(torch.int32),
    signed(torch.int8),
    signed(torch.float32),
)
calling(
    "shifts",
    lambda x, n: (x << n, x >> n, x << 1, x >> 1, 1 << n),
    *(
        lambda d=d: (
            torch.tensor([-8, -1, 0, 1, 5, 100]).to(d),
            torch.tensor([0, 1, 2, 3, 6, 7]).to(d),
        )
        for d in (torch.int64, torch.int32, torch.int8, torch.uint8)
    ),
)


def wraps(x: Any) -> Any:
    return x * 100 + x, x + x.max(), x.cumsum(0), x.prod(), -x, x.abs(), x - 1, x.sum(), x * x


calling(
    "overflow wrap",
    wraps,
    *(
        lambda d=d: (torch.tensor([torch.iinfo(d).min, torch.iinfo(d).max, 77, 1]).to(d),)
        for d in (torch.int8, torch.int32, torch.int64, torch.uint8)
    ),
)


def odd() -> tuple[Any, ...]:
    return (torch.tensor([[NAN, 1.0, -0.0, INF], [-INF, 0.0, 2.0, 2.0], [INF, -INF, NAN, 1e-40]]),)


def odd_half() -> tuple[Any, ...]:
    return (odd()[0].half(),)


def even() -> tuple[Any, ...]:
    return (t(3, 4),)


calling(
    "NaN and infinity through min/max",
    lambda x: (
        x.max(1),
        x.min(0),
        x.amax(0),
        x.amin(1),
        x.max(),
        torch.maximum(x, x.flip(0)),
        torch.fmax(x, x.flip(0)),
        torch.minimum(x, x * 0),
        x.aminmax(dim=1),
    ),
    odd,
    even,
    odd_half,
)
calling(
    "NaN and infinity through argmax",
    lambda x: (x.argmax(1), x.argmin(0), x.argmax()),
    odd,
    even,
    odd_half,
)
calling(
    "NaN and infinity through sort",
    lambda x: (x.sort(1), x.argsort(dim=0, stable=True), x.topk(2)),
    odd,
    even,
    odd_half,
)
calling(
    "NaN and infinity through clamp",
    lambda x: (
        x.clamp(0, 1),
        x.clamp(min=0.5),
        x.clamp(max=NAN),
        torch.relu(x),
        x.clamp(x.flip(0), x * 0),
        functional.hardtanh(x),
        functional.leaky_relu(x),
    ),
    odd,
    even,
    odd_half,
)
calling(
    "NaN and infinity through comparisons",
    lambda x: (
        x > 1,
        x <= x,
        x == x,
        x != x,
        x < INF,
        x.isnan(),
        x.isinf(),
        torch.nan_to_num(x),
        x.sign(),
        torch.where(x > 0, x, -x),
        x.bool(),
    ),
    odd,
    even,
    odd_half,
)


@case(T, "-0.0")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, s: float) -> Any:
        y = x.abs()
        return (
            x * 0.0, x + s, x - s, 0 - x, -x, x * s, torch.where(x == 0, x, 1.0), x.round(),
            torch.relu(x), x.clamp(min=0.0), y.neg() + -0.0, x.sum(), x.max(),
            x.min(), x.sign(), x.trunc(), x.sort()[0], torch.fmod(x, 1.0), x.square().sqrt(), 1 / x,
        )  # fmt: skip

    g = c(f)
    x = torch.tensor([-0.0, 0.0, -0.3, 0.3, -1.0])
    for s in (0.0, 0.0, 0.0):
        yield [bits(y) for y in g(x, s)]
    yield CHANGED
    for s in (-0.0, -0.0, 0.0):
        yield [bits(y) for y in g(x, s)], [bits(y) for y in g(x[:1], s)]


@case(T, "denormals")
def _(c: Wrap) -> Iterator[Any]:
    f = c(
        lambda x: (
            x * 0.5,
            x + x,
            x / 3,
            x - 1e-40,
            x * 1e38,
            x.sum(),
            x.abs(),
            x > 0,
            x.abs().sqrt(),
        )
    )
    for number, dtype in enumerate((torch.float32, torch.float64, torch.float16)):
        if number == 1:
            yield CHANGED
        least = torch.finfo(dtype).smallest_normal
        x = torch.tensor([least, least / 2, -least / 4, least / 256, 0.0], dtype=dtype)
        for _ in range(3):
            yield [bits(y) for y in f(x)]


calling(
    "size-1 dims broadcast",
    lambda x, y: (x + y, x * y.t(), (x - y).sum(0), torch.where(x > y, x, y)),
    lambda: (t(3, 1), t(1, 3)),
    lambda: (t(3, 3), t(1, 3)),
    lambda: (t(1, 1), t(1, 1)),
    lambda: (t(3, 3), t(3, 1)),
    lambda: (t(3, 3), t(3, 3)),
)
calling(
    "a dimension that changes 2→1→0",
    lambda x, y: (x + y, x.softmax(0), x.sum(0), x.shape[0]),
    *(lambda n=n: (t(n, 3), t(1, 3)) for n in (2, 1, 0, 2)),
)


@case(T, "rounding to half precision where eager rounds")
def _(c: Wrap) -> Iterator[Any]:
    f = c(lambda x, y: (x * y + x, (x + y) - y, x * 3 * y / 7, (x / y).float() * 3, x - x * y * x))
    for number, dtype in enumerate((torch.float16, torch.bfloat16)):
        if number == 1:
            yield CHANGED
        for _ in range(3):
            x, y = t(64, dtype=dtype), t(64, dtype=dtype)
            yield [bits(r) for r in f(x, y)]


@case(T, "reductions of bf16 accumulated in fp32")
def _(c: Wrap) -> Iterator[Any]:
    f = c(lambda x: (x.sum(), x.sum(1), x.mean(1), x.softmax(1).sum(1), x.var(1), x.norm()))
    for number, dtype in enumerate((torch.bfloat16, torch.float16, torch.bfloat16)):
        if number == 1:
            yield CHANGED
        for _ in range(3):
            x = torch.ones(2, 3000, dtype=dtype)
            x[:, ::3] = 1 / 256  # lost if added to a sum of bf16
            yield f(x)


class Labelled(torch.Tensor):
    """Counts calls that reach it."""

    calls = 0

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        Labelled.calls += 1
        return super().__torch_function__(function, types, args, kwargs or {})


@case(T, "tensor subclass active (eager or through)", eager="tensor")
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: x * 2 + 1), t(3)
    y = x.as_subclass(Labelled)
    yield f(y)
    yield f(y), f(x)
    yield f(y), f(x)
    yield CHANGED
    z = x.as_subclass(Labelled)
    yield f(z), f(x), f(z)
    yield f(nn.Parameter(x, False)), f(nn.Parameter(x, False)), f(nn.Buffer(x))


# Guards and the recorder ask the tensor for its metadata through its own __torch_function__.
@case(
    T,
    "tensor subclass that counts what reaches it",
    eager="tensor",
)
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: x * 2 + 1), t(3).as_subclass(Labelled)
    for number in range(6):
        if number == 4:
            yield CHANGED
            x = t(3).as_subclass(Labelled)
        Labelled.calls = 0
        y = f(x)
        yield Labelled.calls, y


class Doubling(TorchDispatchMode):
    """Doubles what a multiplication gives, and counts what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        result = func(*args, **(kwargs or {}))
        return result + result if func is torch.ops.aten.mul.Tensor else result


class Negating(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {})) if func is not torch.relu else -args[0]


@case(T, "mode active (eager or through)", eager="outer-tracer")
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: torch.relu(x * 2) + 1), t(3)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    with Doubling() as mode:
        yield f(x), f(x), mode.calls
    yield f(x)
    with Negating():
        yield f(x), f(x)
    yield f(x)
    g = c(lambda x: torch.relu(x * 2) - 1)
    with Doubling() as mode:
        yield g(x), g(x), mode.calls
    yield g(x), g(x)


def vmapped(x: Any, k: Any) -> Any:
    return torch.func.vmap(lambda row: row * k + row.sum())(x)


def differentiated(x: Any, k: Any) -> Any:
    return torch.func.grad(lambda v: (v.sin() * k).sum())(x)


def pushed(x: Any, k: Any) -> Any:
    return torch.func.jvp(lambda v: v.cos() * k, (x,), (torch.ones_like(x),))


ROWS = (lambda: (t(3, 4), 2.0), lambda: (t(3, 4), 3.0), lambda: (t(2, 5), 3.0))
calling("torch.func vmap inside", vmapped, *ROWS)
calling("torch.func grad inside", differentiated, *ROWS)
calling("torch.func jvp inside", pushed, *ROWS)


@case(T, "torch.func of a compiled function", eager="outer-tracer")
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: (x * 2).sin().sum()), t(3, 4)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    yield torch.func.vmap(f)(x), torch.func.grad(f)(x), torch.func.jvp(f, (x,), (x,))
    yield f(x), torch.func.vmap(torch.func.grad(f))(x), f(x)


@case(T, "nn.Parameter made inside")
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x, k: (nn.Parameter(x * k), x + 1)), t(3)
    yield f(x, 2)
    yield f(x, 2)
    yield f(x, 2)
    yield CHANGED
    yield f(x, 3), f(x, 3)
    with torch.no_grad():
        yield f(x, 3), f(x, 3)


@case(T, "tensors created inside on the default device", eager="tensor")
def _(c: Wrap) -> Iterator[Any]:
    f = c(
        lambda n: (torch.ones(n) * 2, torch.arange(3), torch.tensor([1.5]), torch.empty(n).fill_(1))
    )
    yield f(2)
    yield f(2)
    yield f(2)
    yield CHANGED
    torch.set_default_device("meta")
    yield f(2)
    yield f(2)
    torch.set_default_device(None)
    yield f(2), f(2)
    with torch.device("meta"):
        yield f(2), f(2)
    yield f(2)


@case(T, "torch.tensor(list) constants")
def _(c: Wrap) -> Iterator[Any]:
    table = [1.0, 2.0, 3.0]
    f = c(lambda x: (x + torch.tensor(table), torch.tensor([1, 2]), torch.as_tensor([True])))
    x = t(3)
    yield f(x)
    for _ in range(2):
        y, z, _ = f(x)
        z.add_(1)  # the next call's constant is another one
        yield y, z
    yield CHANGED
    table[1] = 9.0
    yield f(x), f(x)
    table[:] = [1, 2, 3]
    yield f(x), f(x)


def through_numpy(x: Any) -> Any:
    return torch.from_numpy(numpy.cumsum((x * 2).numpy(), 0)) + 1


calling(
    "NumPy round trips (eager frame)",
    through_numpy,
    lambda: (t(3, 2),),
    lambda: (t(2, 2),),
    eager="data-dependent",
)


def listed(x: Any) -> Any:
    rows = (x * 2).tolist()
    return rows, x * rows[0]


calling(".tolist()", listed, lambda: (t(3),), lambda: (t(3),), lambda: (torch.ones(3),))

"""Programs about tensors: layouts, sharing, writes, dtypes, errors, random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from .support import Wrap, attempt

Case = tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]


def t(*sizes: int, dtype: Any = None) -> torch.Tensor:
    if dtype is None or dtype.is_floating_point or dtype.is_complex:
        return torch.randn(sizes, dtype=dtype)
    if dtype is torch.bool:
        return torch.rand(sizes) > 0.5
    return torch.randint(0 if dtype is torch.uint8 else -5, 6, sizes).to(dtype)


def calls(case: Case, times: int = 3) -> Callable[[Wrap], Iterator[Any]]:
    """The program that calls one function some times, with fresh arguments."""
    function, make = case

    def program(c: Wrap) -> Iterator[Any]:
        f = c(function)
        for _ in range(times):
            args = make()
            result = attempt(f, *args)
            yield result, args

    return program


def swap(x: Any, y: Any) -> None:
    z = x.clone()
    x.copy_(y)
    y.copy_(z)


def write_shared(x: Any) -> Any:
    y = x + 1
    z = y[1:]
    z.mul_(2)
    return y, z, x


def loop(x: Any, n: int) -> Any:
    for i in range(n):
        x = x * (i + 1)
    return x


def overlapping() -> Any:
    base = torch.arange(10.0)
    return base[:6], base[3:9]


def same() -> Any:
    x = t(4)
    return x, x


def accumulate(x: Any, y: Any) -> Any:
    x += y
    y += x
    return x + y


def set_slice(x: Any, y: Any) -> None:
    x[1:] = y


def step_write(x: Any) -> Any:
    x[::2] = 0
    x[1::3].add_(1)
    return x.sum(0)


def chain_views(x: Any) -> Any:
    v = x.t()[1:].unsqueeze(0)
    v.mul_(2)
    return v, x.view(-1)


def conditional(x: Any) -> Any:
    if x.sum() > 0:
        return x * 2
    return x - 1


def item(x: Any) -> Any:
    return x * x.max().item()


def resize(x: Any) -> Any:
    x.resize_(2, 2)
    return x + 1


def set_data(x: Any, y: Any) -> Any:
    x.data = y
    return x * 2


def detach_write(x: Any) -> Any:
    x.detach().mul_(2)
    return x + 1


def return_stuff(x: Any) -> Any:
    return {"a": x + 1, "n": None, "s": x.shape, "d": x.dtype, 3: [x.numel(), "text", 2.5, True]}


def made_inside(x: Any) -> Any:
    return x + torch.tensor([1.0, 2.0, 3.0]), torch.arange(3), torch.ones(2, dtype=torch.float64)


def constant_kept(x: Any, _c: Any = torch.ones(3)) -> Any:  # noqa: B008
    return _c, x + _c


def expand_out(x: Any) -> Any:
    return x.expand(3, 4), x[:, None], x + 0


def in_place_of_int(x: Any) -> Any:
    x //= 2
    x %= 3
    x <<= 1
    return x


def unary(x: Any) -> Any:
    return x * 2, x + 1, x - x, x.sum(), x.to(torch.float32) / 3


def ints(x: Any, y: Any) -> Any:
    return x // y, x % y, x / y, x & y, x | y, x ^ y, ~x, -x, x.remainder(y), torch.fmod(x, y)


def nans() -> Any:
    inf, nan = float("inf"), float("nan")
    return (torch.tensor([[nan, 1.0, -0.0, inf], [-inf, 0.0, 2.0, 2.0], [inf, -inf, nan, 1e-40]]),)


def extremes(x: Any) -> Any:
    return (
        x.max(1),
        x.min(0),
        x.argmax(1),
        x.argmin(0),
        x.amax(0),
        x.clamp(0, 1),
        x.sort(1),
        torch.maximum(x, x.flip(0)),
        torch.fmax(x, x.flip(0)),
        x > 1,
        x == x,
        torch.sign(x),
        x.abs(),
        1 / x,
        torch.where(x > 0, x, -x),
        torch.relu(x),
        x.isnan(),
        torch.nan_to_num(x),
        x.cumsum(1),
        x.prod(1),
        torch.sqrt(x),
        torch.softmax(x, 1),
        torch.round(x * 0.5),
        torch.pow(x, 2),
    )


def zero_dim(x: Any) -> Any:
    return x + 1, x.sum(), x.view(1), x * torch.tensor(2), x.max(), x.softmax(0)


def empties(x: Any) -> Any:
    return x + 1, x.sum(), x.sum(0), x.sum(1), torch.cat([x, x]), x.mean(), x.t(), x.prod(0)


def promote(x: Any) -> Any:
    return (
        x + 1,
        x + 1.5,
        x * True,
        x + torch.tensor(2.5),
        x + torch.tensor(2.5, dtype=torch.float64),
        x + torch.ones(3, dtype=torch.float64),
        x > 2,
        2**x,
        x**2,
        x.sum(),
        x.float().mean(),
        torch.where(x > 0, x, 0),
        torch.clamp(x, 0),
        1 - x,
    )


def rounding(x: Any) -> Any:
    y = x * 3.1 + 0.1
    z = torch.exp(y) * x - y / 7
    return z, z.sum(-1), z.mean(), torch.softmax(z, -1), functional.gelu(z), z.var(-1)


def cplx(x: Any) -> Any:
    return x * 2, x.conj(), x.real, x.abs(), x.conj() * x, torch.view_as_real(x)


def partial_work(x: Any, n: Any) -> Any:
    x.add_(1)
    if n > 2:
        raise ValueError(f"n is {n}")
    return x * n


def try_op(x: Any, y: Any) -> Any:
    try:
        return x @ y
    except RuntimeError:
        return x.sum()


def dropout(x: Any) -> Any:
    return functional.dropout(x, 0.5, training=True), torch.rand(3), torch.randn_like(x)


def draws(x: Any) -> Any:
    return torch.bernoulli(torch.sigmoid(x)), torch.randperm(4), torch.randint(0, 5, (3,)), x + 1


def seeded(x: Any) -> Any:
    torch.manual_seed(3)
    return x + torch.rand(4)


def with_generator(x: Any, g: Any) -> Any:
    return x + torch.rand(4, generator=g)


def embedding(i: Any, w: Any) -> Any:
    return functional.embedding(i, w) * 2


def scatter(x: Any, i: Any) -> Any:
    y = x.clone()
    y.scatter_(0, i, 1.0)
    y.index_add_(0, i[0], x[i[0]])
    return y


def put(x: Any, i: Any) -> Any:
    x[i] += 1
    return x * 1


def mask_fill(x: Any) -> Any:
    x[x > 0] = 0
    return x, x.masked_fill(x < -1, 5.0)


def nonzero(x: Any) -> Any:
    return x[x > 0] * 2


def unbind(x: Any) -> Any:
    a, b, c = x
    return a + b, c, [row * 2 for row in x]


def tolist(x: Any) -> Any:
    return x.sum(0).tolist(), x * 2


def to_numpy(x: Any) -> Any:
    return torch.from_numpy(x.numpy() + 1)


def view_dtype(x: Any) -> Any:
    return x.view(torch.int32), x + 1


def alias_of_output(x: Any) -> Any:
    y = x * 2
    return y, y, y.view(-1), [y[0], y.detach()]


def self_out(x: Any, y: Any) -> Any:
    return torch.mul(x, 2, out=x), torch.add(x, y, out=y[:])


def transposed() -> Any:
    return (t(3, 4).t(),)


FUNCTIONS: dict[str, Case] = {
    "swap": (swap, lambda: (t(3), t(3))),
    "swap same": (swap, same),
    "write shared": (write_shared, lambda: (t(3, 2),)),
    "loop": (loop, lambda: (t(3), 3)),
    "overlapping written": (accumulate, lambda: tuple(v[:5] for v in overlapping())),
    "same twice written": (accumulate, same),
    "set slice": (set_slice, lambda: (t(4, 3), t(3, 3))),
    "set slice broadcast": (set_slice, lambda: (t(4, 3), t(3))),
    "set slice of itself": (lambda x: set_slice(x, x[:-1]), lambda: (t(4),)),
    "step write": (step_write, lambda: (t(7, 2),)),
    "chain of views": (chain_views, lambda: (t(3, 3),)),
    "transposed written": (lambda x: x.t().mul_(2), lambda: (t(3, 4),)),
    "expanded written": (lambda x: x.add_(1), lambda: (torch.ones(1).expand(4),)),
    "self overlapping written": (
        lambda x: x.add_(1),
        lambda: (torch.ones(8).as_strided((3, 3), (2, 1)),),
    ),
    "self overlapping read": (
        lambda x: x * 2,
        lambda: (torch.arange(8.0).as_strided((3, 3), (2, 1)),),
    ),
    "conditional": (conditional, lambda: (t(3),)),
    "item": (item, lambda: (t(3),)),
    "resize_": (resize, lambda: (t(4),)),
    "set_": (lambda x, y: x.set_(y) * 2, lambda: (t(4), t(3))),
    ".data =": (set_data, lambda: (t(4), t(3))),
    "detach written": (detach_write, lambda: (t(4),)),
    "outputs of all kinds": (return_stuff, lambda: (t(4),)),
    "made inside": (made_inside, lambda: (t(3),)),
    "default argument returned": (constant_kept, lambda: (t(3),)),
    "expanded output": (expand_out, lambda: (t(4),)),
    "int in place": (in_place_of_int, lambda: (t(6, dtype=torch.int64),)),
    "nan and inf": (extremes, nans),
    "nan and inf half": (lambda x: extremes(x.half()), nans),
    "empty": (empties, lambda: (t(0, 3),)),
    "0-d": (zero_dim, lambda: (t(),)),
    "complex": (cplx, lambda: (t(3, dtype=torch.complex64),)),
    "conj argument": (cplx, lambda: (t(3, dtype=torch.complex64).conj(),)),
    "channels last": (
        lambda x: (x * 2, x.sum(1), x.relu_(), torch.cat([x, x], 1), x.clone(), x.contiguous()),
        lambda: (t(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),),
    ),
    "not contiguous": (
        lambda x: (x * 2, x.sum(0), x.reshape(-1), torch.empty_like(x).fill_(1), x.clone()),
        transposed,
    ),
    "strided": (lambda x: (x * 2, x + x.flip(0)), lambda: (t(8, 6)[::2, 1::3],)),
    "expanded": (lambda x: (x * 2, x.sum(0), x + 1), lambda: (t(1, 3).expand(4, 3),)),
    "permuted 3d": (lambda x: (x * 2, x + t_like(x)), lambda: (t(2, 3, 4).permute(2, 0, 1),)),
    "partial work then error": (partial_work, lambda: (t(3), 5)),
    "partial work": (partial_work, lambda: (t(3), 2)),
    "try": (try_op, lambda: (t(3, 4), t(3, 4))),
    "dropout": (dropout, lambda: (t(4, 4),)),
    "draws": (draws, lambda: (t(4),)),
    "seed inside": (seeded, lambda: (t(4),)),
    "generator": (with_generator, lambda: (t(4), torch.Generator().manual_seed(3))),
    "embedding": (embedding, lambda: (torch.tensor([0, 2, 1]), t(3, 4))),
    "scatter": (scatter, lambda: (t(4, 3), torch.tensor([[0, 1, 3]]))),
    "index put": (put, lambda: (t(4, 3), torch.tensor([0, 1, -1]))),
    "mask fill": (mask_fill, lambda: (t(4, 3),)),
    "nonzero": (nonzero, lambda: (t(4, 3),)),
    "unbind": (unbind, lambda: (t(3, 4),)),
    "tolist": (tolist, lambda: (t(3, 4),)),
    "numpy": (to_numpy, lambda: (t(3, 4),)),
    "view of bits": (view_dtype, lambda: (t(3, 4),)),
    "outputs that share": (alias_of_output, lambda: (t(3, 4),)),
    "out= the argument": (self_out, lambda: (t(3), t(3))),
    "out= resized": (lambda x, y: torch.add(x, 1, out=y), lambda: (t(3), torch.empty(0))),
    "nothing": (lambda x: None, lambda: (t(3),)),
    "argument in containers": (lambda x: {"x": [x, (x,)]}, lambda: (t(3),)),
    "same output twice": (lambda x: (x, x, x[:]), lambda: (t(3),)),
    "cat of nothing": (lambda x: torch.cat([x, x[:0]]), lambda: (t(3, 2),)),
    "pad": (lambda x: functional.pad(x, (1, 2), value=3.0), lambda: (t(3, 2),)),
    "roll": (lambda x: (x.roll(1, 0), x.flip(0, 1), x.tril(), x.triu(1)), lambda: (t(3, 3),)),
    "masked": (
        lambda x, m: (x.masked_fill(m, 1.5), torch.where(m, x, 0)),
        lambda: (t(3, 3), t(3, 3, dtype=torch.bool)),
    ),
    "bucketize etc": (
        lambda x: (x.sort(), x.topk(2), x.unique(), x.cummax(0), x.logsumexp(0), x.norm()),
        lambda: (t(5),),
    ),
}
for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float32):
    FUNCTIONS[f"rounding {dtype}"] = (rounding, lambda d=dtype: (t(4, 6, dtype=d),))
for dtype in (torch.int8, torch.int32, torch.int64, torch.uint8, torch.float16, torch.bfloat16,
              torch.float64, torch.bool):  # fmt: skip
    FUNCTIONS[f"promote {dtype}"] = (promote, lambda d=dtype: (t(3, dtype=d),))
for dtype in (torch.int8, torch.int32, torch.int64, torch.uint8):
    FUNCTIONS[f"ints {dtype}"] = (
        ints,
        lambda d=dtype: (t(9, dtype=d), torch.tensor([1, 2, 3, 3, 2, 1, 5, 7, 4]).to(d)),
    )
    FUNCTIONS[f"overflow {dtype}"] = (
        lambda x: (x * 100 + x, x.sum(), x.cumsum(0), x << 3, x >> 1, -x, x.abs()),
        lambda d=dtype: (t(9, dtype=d) * 25,),
    )


def t_like(x: Any) -> Any:
    return torch.ones(x.shape)


ERRORS: dict[str, Case] = {
    "shapes": (lambda x, y: x * 2 + y, lambda: (t(3), t(4))),
    "matmul": (lambda x, y: (x + 1) @ y, lambda: (t(3, 4), t(3, 4))),
    "dtype": (lambda x: functional.linear(x, t(3, 4)), lambda: (t(2, 4, dtype=torch.float64),)),
    "view": (lambda x: x.t().view(-1), lambda: (t(3, 4),)),
    "softmax of int": (lambda x: x.softmax(0), lambda: (t(3, dtype=torch.int64),)),
    "missing argument": (lambda x, y: x + y, lambda: (t(3),)),
    "in place dtype": (lambda x: x.add_(1.5), lambda: (t(3, dtype=torch.int64),)),
    "dim": (lambda x: x.sum(3), lambda: (t(3),)),
    "integer division by zero": (lambda x: x // 0, lambda: (t(3, dtype=torch.int64),)),
}


def bad_index(function: Any, *args: Any) -> Callable[[Wrap], Iterator[Any]]:
    """Good calls first, then ones with an index out of range, then good ones."""

    def program(c: Wrap) -> Iterator[Any]:
        f = c(function)
        for index in (0, 1, 7, -9, 2, 7):
            state = [a.clone() for a in args]
            i = torch.tensor([0, index])
            yield attempt(f, i, *state), state

    return program


def one_gather(i: Any, x: Any) -> Any:
    x.add_(1)
    return x.gather(0, i) * 2


INDEXED: dict[str, Any] = {
    "embedding": bad_index(lambda i, w: functional.embedding(i, w) + 1, t(4, 3)),
    "gather": bad_index(one_gather, t(4)),
    "index": bad_index(lambda i, x: x[i] * 2, t(4, 3)),
    "index twice": bad_index(lambda i, x: x[:, i, i] * 2, t(2, 4, 4)),
    "index_select": bad_index(lambda i, x: x.index_select(0, i) * 2, t(4, 3)),
    "index_put_": bad_index(lambda i, x: x.index_put_((i,), torch.ones(2)), t(4)),
    "scatter": bad_index(lambda i, x: x.scatter(0, i, 5.0), t(4)),
    "scatter_add_": bad_index(lambda i, x: x.scatter_add_(0, i, torch.ones(2)), t(4)),
    "one_hot": bad_index(lambda i, x: functional.one_hot(i, 4) + x, t(4)),
    "cross_entropy": bad_index(lambda i, x: functional.cross_entropy(x, i), t(2, 4)),
    "index_add_": bad_index(lambda i, x: x.index_add_(0, i, torch.ones(2)), t(4)),
    "take": bad_index(lambda i, x: x.take(i) + 1, t(4)),
    "embedding_bag": bad_index(
        lambda i, x: functional.embedding_bag(i, x, torch.tensor([0])), t(4, 3)
    ),
}

"""Control flow: programs whose path depends on values."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .cases import CHANGED, Wrap, attempt, called, case, t

C = "Control flow"


def calling(name: str, function: Any, *makes: Any, eager: str = "", wrong: str = "") -> None:
    """A case: a function called with arguments that each of `makes` makes anew."""
    case(C, name, eager=eager, wrong=wrong)(called(function, *makes))


def up() -> tuple[Any, ...]:
    return (torch.rand(3) + 0.5,)


def down() -> tuple[Any, ...]:
    return (-torch.rand(3) - 0.5,)


def branch(x: Any) -> Any:
    x.add_(0.25)
    if x.sum() > 0:
        return x * 2
    return x - 1


def nested_branches(x: Any) -> Any:
    if x.sum() > 0:
        y = x * 2
        return y + 1 if y.max() > 4 else y - 1
    return torch.relu(x) if x.min() < -1 else x * 5


def loop(x: Any) -> Any:
    steps = 0
    while x.abs().max() > 0.5 and steps < 8:
        x, steps = x / 2, steps + 1
    return x, steps


def early(x: Any) -> Any:
    if (x < 0).any():
        return None
    x = x * 2
    if x.max() > 100:
        return x, "large"
    return x + 1


def positive(x: Any) -> Any:
    x.mul_(2)
    if x.sum() < 0:
        raise ValueError("negative")
    return x * 2


def asserted(x: Any) -> Any:
    x.mul_(2)
    assert (x > 0).all(), "not positive"
    return x * 2


calling("if on tensor values, both branches seen", branch, up, down, up, down)
calling(
    "if within if: the trace tree",
    nested_branches,
    up,
    down,
    lambda: (torch.rand(3) + 5,),
    lambda: (torch.rand(3) - 5,),
    up,
)
calling(
    "while on tensor values",
    loop,
    up,
    lambda: (torch.rand(3) * 9 + 5,),
    down,
    lambda: (torch.zeros(3),),
    lambda: (torch.rand(3) + 9,),
)
calling("early return", early, up, down, lambda: (torch.rand(3) + 90,), up)
calling("exceptions on a condition", positive, up, down, up, down)
calling("assert tensor.all()", asserted, up, down, up, down)


@case(C, ".item() used as a number")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        top = x.max().item()
        return x * top, top + 1

    g, x = c(f), torch.tensor([1.0, 2.0])
    yield g(x)
    yield g(x)
    yield g(x), g(x.clone())
    yield CHANGED
    for number in range(12):
        yield g(x + number)
    yield g(x), g(torch.tensor([float("nan"), 1.0])), g(torch.tensor([-0.0, -0.0]))


def sized(x: Any, n: Any) -> Any:
    size = n.item()
    return torch.ones(size) * x.sum(), x[:size]


def indexed(x: Any, n: Any) -> Any:
    return x[n.item()] * 2, x[: int(n)]


def bounded(x: Any, n: Any) -> Any:
    for step in range(n.item()):
        x = x * 2 + step
    return x


def numbered(*numbers: int) -> list[Any]:
    return [lambda n=n: (t(4, 2), torch.tensor(n)) for n in numbers]


calling(".item() used as a size", sized, *numbered(2, 3, 0, 2))
calling(".item() used as an index", indexed, *numbered(1, 3, -1, 9, 1))
calling(".item() used as a loop bound", bounded, *numbered(2, 3, 0, 2))
calling(
    "nonzero shapes",
    lambda x: (x.nonzero() + 1, torch.where(x > 0)[0]),
    lambda: (t(4, 3),),
    lambda: (torch.zeros(4, 3),),
    lambda: (torch.ones(4, 3),),
)
calling(
    "boolean mask shapes",
    lambda x: (x[x > 0] * 2, x.masked_select(x < 0).sum()),
    lambda: (t(4, 3),),
    lambda: (torch.zeros(4, 3),),
    lambda: (torch.ones(4, 3),),
)


def over_rows(x: Any) -> Any:
    total = torch.zeros(x.shape[1])
    for number, row in enumerate(x):
        total = total * 2 + row * number
    return total


calling("for over a tensor", over_rows, lambda: (t(3, 2),), lambda: (t(4, 2),), lambda: (t(0, 2),))


def descend(x: Any, n: int) -> Any:
    return x if n == 0 else descend(x * 2, n - 1) + 1


calling("recursion", descend, lambda: (t(3), 3), lambda: (t(3), 2), lambda: (t(3), 0))


@case(C, "recursion through the compiled function")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, n: int) -> Any:
        return x if n == 0 else g(x * 2, n - 1) + 1

    g = c(f)
    yield g(t(3), 3)
    yield g(t(3), 3)
    yield g(t(3), 3)
    yield CHANGED
    yield g(t(3), 2), g(t(3), 2), g(t(3), 0), g(t(3), 4)


def halves(x: Any, n: int) -> Iterator[Any]:
    for step in range(n):
        x = x / 2
        yield x + step


calling(
    "generators",
    lambda x, n: (sum(halves(x, n)), [*halves(x, n)][-1]),
    lambda: (t(3), 2),
    lambda: (t(3), 3),
    lambda: (t(3), 1),
)
calling(
    "generator returned by the function",
    lambda x, n: [*halves(x, n)],
    lambda: (t(3), 2),
    lambda: (t(3), 3),
)


@case(C, "generator function", eager="output")
def _(c: Wrap) -> Iterator[Any]:
    g = c(halves)
    yield [*g(t(3), 2)]
    yield [*g(t(3), 2)]
    yield [*g(t(3), 2)]
    yield CHANGED
    yield [*g(t(3), 3)], [*g(t(3), 1)]


def tried(x: Any, y: Any) -> Any:
    z = x * 2
    try:
        z = z @ y
    except RuntimeError:
        z = z.sum()
    return z + 1


calling(
    "try/except around an op that fails on some inputs",
    tried,
    lambda: (t(3, 4), t(4, 2)),
    lambda: (t(3, 4), t(3, 4)),
    lambda: (t(3, 4), t(4, 2)),
)


def tried_index(x: Any, i: Any) -> Any:
    try:
        return x[i] * 2
    except IndexError:
        return x.sum()


calling(
    "try/except around an index out of range",
    tried_index,
    lambda: (t(4), torch.tensor([1, 2])),
    lambda: (t(4), torch.tensor([1, 7])),
    lambda: (t(4), torch.tensor([0, 3])),
    eager="raised",
)
calling(
    "len",
    lambda x, xs: x * len(xs) + len(x),
    lambda: (t(3), [1, 2]),
    lambda: (t(3), [1, 2, 3]),
    lambda: (t(2), [1, 2]),
)
calling(
    "enumerate",
    lambda xs: sum(x * i for i, x in enumerate(xs, 1)),
    lambda: ([t(3), t(3)],),
    lambda: ([t(3), t(3), t(3)],),
    lambda: ((t(3), 2.0),),
)
calling(
    "zip",
    lambda xs, ys: [x * y for x, y in zip(xs, ys)],
    lambda: ([t(3), t(3)], [1, 2]),
    lambda: ([t(3), t(3)], [2, 1]),
    lambda: ([t(3), t(3)], [3]),
)


@case(C, "comprehension over layers")
def _(c: Wrap) -> Iterator[Any]:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 2) for _ in range(3))
            self.named = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Tanh()})

        def forward(self, x: Any) -> Any:
            y = torch.stack([layer(x) for layer in self.layers])
            return y, {name: layer(x) for name, layer in self.named.items()}

    m = Parallel().requires_grad_(False)
    f, x = c(m), t(2, 3)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    m.layers.append(m.layers[0])
    yield f(x), f(x)
    del m.layers[1]
    m.named["c"] = nn.Sigmoid()
    yield f(x), f(x)
    m.layers[0], m.layers[1] = m.layers[1], m.layers[0]
    yield f(x), f(x)


@case(C, "random layer dropping (Python's random)", eager="impure")
def _(c: Wrap) -> Iterator[Any]:
    class Deep(nn.Module):
        rate = 0.5

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.LayerNorm(3)) for _ in range(3)
            )

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                if random.random() >= self.rate:
                    x = layer(x)
            return x

    m = Deep().requires_grad_(False)
    f = c(m)
    for _ in range(6):
        yield f(t(2, 3))
    yield CHANGED
    random.seed(3)
    yield [f(t(2, 3)) for _ in range(4)], random.random()
    m.rate = 0.0
    yield f(t(2, 3)), f(t(2, 3)), random.random()


def repeated(x: Any, n: int) -> Any:
    for step in range(n):
        x = x * 0.5 + step
    return x


calling(
    "iteration count changing per call",
    repeated,
    *(lambda n=n: (t(3), n) for n in (2, 3, 1, 0, 4, 2)),
)


@case(C, "a loop bound that differs on every call must not grow the cache without end")
def _(c: Wrap) -> Iterator[Any]:
    from tracejit.api import dispatcher_of

    f, g = c(repeated), c(bounded)
    yield f(t(3), 2), g(t(3), torch.tensor(2))
    yield f(t(3), 2), g(t(3), torch.tensor(2))
    yield CHANGED
    for n in range(30):
        yield f(t(3), n), g(t(3), torch.tensor(n))
    yield f(t(3), 2), g(t(3), torch.tensor(2))
    if f is not repeated:
        for each in (f, g):
            found = dispatcher_of(each)
            assert len(found.entries) <= 12 and len(found.refused) <= 12, "the cache grows"


@case(C, "match on a value")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, how: Any) -> Any:
        match how:
            case {"scale": scale}:
                return x * scale
            case [first, *_]:
                return x + first
            case int():
                return x - how
        return x

    g, x = c(f), t(3)
    yield g(x, {"scale": 2.0})
    yield g(x, {"scale": 2.0})
    yield g(x, {"scale": 2.0})
    yield CHANGED
    for how in ({"scale": 3.0}, [1, 2], [2], 5, 6, "none", {"other": 1}):
        yield attempt(g, x, how), attempt(g, x, how)

"""Random numbers: the same stream as eager from the same seed.

Exact streams on a GPU need one; the CPU's are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .cases import CHANGED, Wrap, attempt, case, t

R = "Random numbers"


def drawing(name: str, function: Any, *makes: Any, eager: str = "", wrong: str = "") -> None:
    """A case: calls whose draws alternate with eager ones, in one stream; another size; and the
    seed set anew between calls."""

    def program(c: Wrap) -> Iterator[Any]:
        f = c(function)
        for _ in range(3):
            yield f(*makes[0]()), torch.rand(2)
        yield CHANGED
        for make in makes[1:]:
            yield f(*make()), torch.rand(1), f(*make())
        for _ in range(2):
            torch.manual_seed(5)
            yield f(*makes[0]()), torch.rand(2), f(*makes[0]())

    case(R, name, eager=eager, wrong=wrong)(program)


def sized(*sizes: tuple[int, ...]) -> list[Callable[[], tuple[Any, ...]]]:
    return [lambda s=s: (t(*s),) for s in sizes]


drawing(
    "dropout",
    lambda x: functional.dropout(x, 0.4) + functional.dropout(x * 2, 0.1),
    *sized((4, 5), (3,), (17,)),
)
drawing(
    "rand",
    lambda x: (x + torch.rand(x.shape), torch.rand_like(x), torch.rand(2).double()),
    *sized((4, 5), (3,), (40,)),
)
drawing(
    "randn",
    lambda x: (x + torch.randn(x.shape), torch.randn_like(x) * 2, torch.randn(20)),
    *sized((4, 5), (3,), (40,)),
)
drawing(
    "bernoulli",
    lambda x: (torch.bernoulli(x.sigmoid()), torch.bernoulli(x, 0.3), x.bernoulli_()),
    *sized((4, 5), (3,)),
)
drawing(
    "randperm", lambda x: (x[torch.randperm(len(x))], torch.randperm(5) + 1), *sized((4, 5), (3,))
)
drawing("multinomial", lambda x: (torch.multinomial(x.softmax(-1), 2), x * 2), *sized((4, 5), (3,)))
drawing(
    "randint, normal_, uniform_ and others",
    lambda x: (
        torch.randint(0, 9, x.shape),
        x.clone().normal_(1, 2),
        x.clone().uniform_(-1, 1),
        torch.normal(x, 0.1),
        x.clone().exponential_(),
        x.clone().random_(0, 5),
        functional.gumbel_softmax(x, hard=True),
    ),
    *sized((4, 5), (3,)),
)


@case(R, "generators passed in")
def _(c: Wrap) -> Iterator[Any]:
    f = c(lambda x, g: x + torch.rand(3, generator=g) * torch.randn(3, generator=g))
    g = torch.Generator().manual_seed(3)
    yield f(t(3), g), g.get_state()
    yield f(t(3), g), g.get_state()
    yield f(t(3), g), g.get_state()
    yield CHANGED
    g.manual_seed(9)
    yield f(t(3), g), f(t(3), g), torch.rand(2, generator=g)
    h = torch.Generator().manual_seed(4)
    yield f(t(3), h), f(t(3), g), f(t(3), torch.default_generator), f(t(3), None)


@case(R, "manual_seed inside")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, seed: int) -> Any:
        before = torch.rand(2)
        torch.manual_seed(seed)
        return before, x + torch.rand(3)

    g = c(f)
    for _ in range(3):
        yield g(t(3), 5), torch.rand(2)
    yield CHANGED
    yield g(t(3), 6), torch.rand(2), g(t(3), 6), torch.rand(2)


@case(R, "manual_seed between calls")
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: x + torch.rand(3)), t(3)
    for _ in range(3):
        torch.manual_seed(11)
        yield f(x), f(x), torch.rand(1)
    yield CHANGED
    torch.manual_seed(12)
    yield f(x), f(x)
    torch.set_rng_state(torch.Generator().manual_seed(12).get_state())
    yield f(x), f(x)
    torch.seed()
    torch.manual_seed(13)
    yield f(x), torch.initial_seed()


@case(R, "fork_rng inside")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            noise = torch.rand(3)
        return x + noise, torch.rand(3)

    g = c(f)
    for _ in range(3):
        yield g(t(3)), torch.rand(1)
    yield CHANGED
    torch.manual_seed(8)
    yield g(t(3)), g(t(3)), torch.rand(1)


@case(R, "fork_rng around the call")
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: x + torch.rand(3)), t(3)
    for _ in range(3):
        with torch.random.fork_rng(devices=[]):
            y = f(x)
        yield y, f(x)
    yield CHANGED
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        y = f(x), f(x)
    yield y, f(x), torch.rand(1)


@case(R, "train/eval mixes")
def _(c: Wrap) -> Iterator[Any]:
    m = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.ReLU(), nn.Dropout1d(0.2))
    f, x = c(m.requires_grad_(False)), t(1, 3, 4)
    yield f(x), torch.rand(1)
    yield f(x), torch.rand(1)
    yield f(x), torch.rand(1)
    yield CHANGED
    for training in (False, True, False, True):
        m.train(training)
        yield f(x), torch.rand(1), f(x)
    m[1].eval()
    yield f(x), f(x), torch.rand(1)
    m[1].train().p = 0.9
    yield f(x), f(x), torch.rand(1)


@case(R, "draws before an error and before a branch")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, i: Any) -> Any:
        noise = torch.rand(3)
        if noise.sum() + x.sum() > 1.5:
            return noise + torch.randn(3)
        return x.index_add(0, i, torch.rand(2)), noise

    g = c(f)
    for _ in range(6):
        yield g(t(3) * 0.1, torch.tensor([0, 1])), torch.rand(1)
    yield CHANGED
    for last in (9, 2, 9):
        yield [attempt(g, t(3) * 0.1, torch.tensor([0, last])) for _ in range(3)], torch.rand(1)

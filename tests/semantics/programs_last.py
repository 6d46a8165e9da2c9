"""More programs: writes between aliases, random state, exceptions, modules around modules."""

from __future__ import annotations

import contextlib
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .programs_state import frozen, t
from .support import Program, Wrap, attempt

PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    """Register a program under its name."""
    PROGRAMS[function.__name__] = function
    return function


@program
def aliases_of_parameters(c: Wrap) -> Iterator[Any]:
    m = frozen(nn.Linear(3, 3))
    f = c(lambda w, x: (w.mul_(0.5), m(x))[1])
    for w in (m.weight, m.weight, t(3, 3), m.weight[0], m.weight.t(), m.weight):
        yield f(w, t(2, 3)), m.weight


@program
def global_tensor_written(c: Wrap) -> Iterator[Any]:
    state = {"w": torch.zeros(3), "views": []}
    state["views"] = [state["w"][:2]]

    def f(x: Any) -> Any:
        state["w"] += x
        state["views"][0].mul_(2)
        return state["w"] * 1, state["views"][0]

    g = c(f)
    yield g(t(3)), g(t(3)), state
    state["w"] = torch.zeros(3)
    yield g(t(3)), g(t(3)), state
    state["views"] = [state["w"][1:]]
    yield g(t(3)), g(t(3)), state


@program
def nested_arguments_written(c: Wrap) -> Iterator[Any]:
    def f(d: Any) -> Any:
        for v in d["xs"]:
            v.add_(1)
        d["y"][0].zero_()
        return sum(v.sum() for v in d["xs"])

    g = c(f)
    for _ in range(3):
        d = {"xs": [t(2), t(3)], "y": (t(2, 2),)}
        yield g(d), d
    x = t(3)
    d = {"xs": [x, x], "y": (x,)}
    yield g(d), d
    d = {"xs": [x, x[1:]], "y": (x[None],)}
    yield g(d), d, g(d)


@program
def argument_replaced_in_container(c: Wrap) -> Iterator[Any]:
    def f(d: Any, ls: Any) -> Any:
        d["x"] = d["x"] * 2
        ls[0] = ls[0] + 1
        return d["x"] + ls[0]

    g, d, ls = c(f), {"x": t(3)}, [t(3)]
    for _ in range(3):
        yield g(d, ls), d, ls


@program
def rebound_then_used(c: Wrap) -> Iterator[Any]:
    class Cache:
        def __init__(self) -> None:
            self.keys: Any = None

        def update(self, k: Any) -> Any:
            self.keys = k if self.keys is None else torch.cat([self.keys, k], 0)
            return self.keys

    cache, m = Cache(), frozen(nn.Linear(3, 3))
    f = c(lambda x, cache: m(cache.update(x)))
    for _ in range(4):
        yield f(t(1, 3), cache), cache.keys


@program
def exceptions_in_order(c: Wrap) -> Iterator[Any]:
    class Custom(Exception):
        pass

    def f(x: Any, n: Any) -> Any:
        y = x * 2
        x.add_(1)
        if n == 1:
            raise Custom("one")
        with contextlib.suppress(IndexError):
            y = y + [1.0, 2.0][n]
        return y[n]

    g = c(f)
    for n in (0, 0, 1, 0, 2, 2, 5, 0):
        x = t(3)
        yield attempt(g, x, n), x


@program
def dropout_between_calls(c: Wrap) -> Iterator[Any]:
    m = frozen(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 3), nn.Dropout(0.1)))
    f, x = c(m), t(2, 3)
    for _ in range(3):
        torch.manual_seed(1)
        yield f(x), torch.rand(2), f(x), torch.rand(2)
    with torch.random.fork_rng():
        yield f(x)
    yield f(x), torch.rand(1)


@program
def wrapped_modules(c: Wrap) -> Iterator[Any]:
    class Wrapper(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

        def forward(self, x: Any) -> Any:
            return self.inner(x) * self.scale

    inner = frozen(nn.Linear(3, 3))
    inner.scale = 2.0
    w = Wrapper(inner)
    f, x = c(w), t(2, 3)
    yield f(x), f(x)
    inner.scale = 3.0
    yield f(x), f(x)
    w.scale = 9.0
    yield f(x), f(x)
    del w.scale
    yield f(x)
    w.register_buffer("other", torch.ones(3))
    yield f(x), f(x)
    Wrapper.scale = 4.0  # type: ignore
    yield f(x), f(x)


@program
def operators_of_objects(c: Wrap) -> Iterator[Any]:
    class V:
        def __init__(self, v: Any) -> None:
            self.v = v

        def __add__(self, o: Any) -> Any:
            return V(self.v + o.v)

        def __len__(self) -> int:
            return len(self.v)

        def __getitem__(self, i: int) -> Any:
            return self.v[i]

        def __bool__(self) -> bool:
            return self.v is not None

        def __contains__(self, o: Any) -> bool:
            return o in self.v

    f = c(lambda a, b: ((a + b).v * len(a), [q * 2 for q in a], bool(a), a and b.v))
    for n in (2, 2, 3):
        yield f(V(t(n)), V(t(n)))
    g, h = c(lambda x, s: x * ("a" in s)), V(["a"])
    yield g(t(2), h), g(t(2), h)
    h.v.append("b")
    h.v.remove("a")
    yield g(t(2), h), g(t(2), h)


@program
def function_tables(c: Wrap) -> Iterator[Any]:
    table: dict[str, Callable[..., Any]] = {"act": torch.relu, "f": lambda x: x + 1}
    names = ["act", "f"]

    def f(x: Any) -> Any:
        for name in names:
            x = table[name](x)
        return x

    g, x = c(f), t(3)
    yield g(x), g(x)
    table["act"] = torch.tanh
    yield g(x), g(x)
    table["f"] = operator.neg
    yield g(x), g(x)
    names.reverse()
    yield g(x), g(x)
    table["f"] = nn.Softmax(0)
    yield g(x), g(x)
    table["act"] = getattr(x, "add")  # noqa: B009
    yield g(x), g(x)


ACT: Any = torch.relu
OTHER: Any = nn.functional.gelu


@program
def global_function_rebound(c: Wrap) -> Iterator[Any]:
    global ACT, OTHER
    f, x, old = c(lambda x: ACT(x) + OTHER(x)), t(3), (ACT, OTHER)
    yield f(x), f(x)
    ACT = torch.sigmoid
    yield f(x), f(x)
    OTHER = nn.functional.silu
    yield f(x), f(x)
    OTHER = x.add
    yield f(x), f(x)
    ACT, OTHER = old
    yield f(x)


@program
def bound_tensor_methods(c: Wrap) -> Iterator[Any]:
    w = t(3)
    f = c(lambda x, m: m(x))
    yield f(t(3), w.add), f(t(3), w.add), f(t(3), w.mul), f(t(3), t(3).add), f(t(3), t(3).add)
    xs = [1.0, 2.0]
    yield f(1.0, xs.count), f(1.0, xs.count), f(1.0, [1.0].count), f(1.0, [1.0, 1.0].count)


@program
def weird_numbers(c: Wrap) -> Iterator[Any]:
    f, i = c(lambda x, s: (x + s, x * s, x // s if s else x)), torch.arange(-3, 3)
    for s in (2**40, -(2**40), 2**62, 1e30, -3, 0.1):
        yield attempt(f, i, s), attempt(f, i, s), attempt(f, i.to(torch.int8), s)
    g = c(lambda x, s: x * s)
    for s in (1e-45, 1e39, 3.4028236e38, 0.1):
        yield g(torch.ones(2), s), g(torch.ones(2), s), g(torch.ones(2).half(), s)


@program
def super_and_mixins(c: Wrap) -> Iterator[Any]:
    class A(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2

    class B(A):
        def forward(self, x: Any) -> Any:
            return super().forward(x) + 1

    m, x = B(), t(3)
    f = c(m)
    yield f(x), f(x)
    A.forward = lambda self, x: x * 5  # type: ignore
    yield f(x), f(x)
    del B.forward
    yield f(x), f(x)


@program
def hooks_that_replace(c: Wrap) -> Iterator[Any]:
    m, x = frozen(nn.Sequential(nn.Linear(3, 3), nn.ReLU())), t(2, 3)
    f, scale = c(m), [2.0]
    a = m[0].register_forward_hook(lambda mod, i, o: o * scale[0])
    yield f(x), f(x)
    scale[0] = 3.0
    yield f(x), f(x)
    b = m[1].register_forward_pre_hook(lambda mod, a, k: ((a[0] + 1,), k), with_kwargs=True)
    yield f(x), f(x)
    a.remove()
    yield f(x), f(x)
    b.remove()
    yield f(x), f(x)


@program
def read_only_views_of_dicts(c: Wrap) -> Iterator[Any]:
    class Scale:
        value = 2.0

    scales = {"a": Scale()}
    proxy = types.MappingProxyType(scales)
    f, x = c(lambda x: x * proxy["a"].value), t(3)
    yield f(x), f(x)
    scales["a"].value = 5.0
    yield f(x), f(x)


@program
def tensors_in_index_lists(c: Wrap) -> Iterator[Any]:
    x = t(3, 4)
    f = c(lambda i, j: x[:, [i, j]] * 2)
    for i, j in ((0, 1), (0, 1), (2, 3)):
        yield f(torch.tensor(i), torch.tensor(j))


@program
def numbers_in_index_lists(c: Wrap) -> Iterator[Any]:
    order = [2, 0]
    f, g = c(lambda x: x[:, [1, 3]] * 2), c(lambda x: x[:, order] * 2)
    for x in (t(3, 4), t(3, 4) + 1):
        yield f(x), g(x)
    order[0] = 1
    yield g(x), g(x)

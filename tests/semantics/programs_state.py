"""Programs about state: what a function reads besides its arguments, and what happens around it."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import pickle
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .support import Program, Wrap, attempt

PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    """Register a program under its name."""
    PROGRAMS[function.__name__] = function
    return function


def t(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes)


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


class Config:
    def __init__(self) -> None:
        self.scale = 2.0
        self.inner = {"bias": 1.0, "flags": [True, False]}


@dataclasses.dataclass
class Settings:
    scale: float = 2.0
    names: tuple[str, ...] = ("a",)
    weight: Any = None


class Mode(enum.Enum):
    ADD = 1
    MUL = 2


Pair = namedtuple("Pair", "a b")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.config, self.scale, self.active = Config(), 1.0, ["a", "b"]
        self.table = {"a": 1.0}
        self.register_buffer("count", torch.zeros(()))
        self.drop = nn.Dropout(0.5)

    def mix(self, x: Any) -> Any:
        return x * self.scale

    def forward(self, x: Any) -> Any:
        for name in self.active:
            x = getattr(self, name)(x)
        x = self.mix(x) * self.config.scale + self.config.inner["bias"]
        for value in self.table.values():
            x = x + value
        return self.drop(x)


def net() -> Any:
    return frozen(Net()).eval()


def changing(*changes: Callable[[Any], Any]) -> Program:
    def run(c: Wrap) -> Iterator[Any]:
        m = net()
        f, x = c(m), t(2, 4)
        yield f(x), f(x)
        for change in changes:
            change(m)
            yield attempt(f, x), attempt(f, x), attempt(f, x)

    return run


def set_(path: str, value: Any) -> Callable[[Any], None]:
    def change(m: Any) -> None:
        *parents, last = path.split(".")
        setattr(functools.reduce(getattr, parents, m), last, value() if callable(value) else value)

    return change


def shifted(x: Any) -> Any:
    return x - 100


def patch_mix(m: Any) -> None:
    m.mix = shifted


def patch_class(m: Any) -> None:
    Net.mix, Net.kept = (lambda self, x: x + 50), Net.mix  # type: ignore


def unpatch_class(m: Any) -> None:
    Net.mix = Net.kept  # type: ignore


def half(m: Any) -> None:
    m.a.to(torch.float64)


def tie(m: Any) -> None:
    m.b.weight = m.a.weight


def replace_layer(m: Any) -> None:
    m.a = frozen(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))


CHANGES: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "attribute": (set_("scale", 3.0), set_("scale", 1.0)),
    "attribute type": (set_("scale", 3), set_("scale", True), set_("scale", lambda: t(4))),
    "nested object": (set_("config.scale", 5.0), set_("config", Config)),
    "nested dict": (lambda m: m.config.inner.update(bias=9.0),),
    "list appended": (lambda m: m.active.append("a"), lambda m: m.active.clear()),
    "list replaced": (set_("active", lambda: ["b"]), lambda m: m.active.reverse()),
    "dict grown": (lambda m: m.table.update(z=3.0), lambda m: m.table.pop("a")),
    "train": (lambda m: m.train(), lambda m: m.eval(), lambda m: m.drop.train()),
    "dropout": (set_("drop.p", 0.1), lambda m: m.train(), set_("drop.p", 0.9)),
    "parameter replaced": (set_("a.weight", lambda: nn.Parameter(t(4, 4), False)),),
    "parameter data": (set_("a.weight.data", lambda: t(4, 4)),),
    "parameter written": (lambda m: m.a.weight.mul_(2), lambda m: m.a.weight.data.zero_()),
    "parameter dtype": (half, lambda m: m.to(torch.float64), lambda m: m.float()),
    "parameter strides": (set_("a.weight.data", lambda: t(4, 4).t()),),
    "parameter shape": (set_("a", lambda: frozen(nn.Linear(4, 1))),),
    "parameter tied": (tie, lambda m: m.a.weight.zero_()),
    "parameter removed": (set_("a.bias", None),),
    "requires grad": (lambda m: m.requires_grad_(True), lambda m: m.requires_grad_(False)),
    "layer replaced": (replace_layer,),
    "load state": (lambda m: m.load_state_dict(net().state_dict()),),
    "hook": (lambda m: m.a.register_forward_hook(lambda mod, i, o: o + 10),),
    "pre hook": (lambda m: m.a.register_forward_pre_hook(lambda mod, i: (i[0] + 10,)),),
    "own hook": (lambda m: m.register_forward_hook(lambda mod, i, o: o + 10),),
    "own pre hook": (lambda m: m.register_forward_pre_hook(lambda mod, i: (i[0] * 0,)),),
    "method patched": (patch_mix, lambda m: delattr(m, "mix")),
    "class patched": (patch_class, unpatch_class),
    "forward patched": (set_("forward", lambda: shifted), lambda m: delattr(m, "forward")),
    "inner forward patched": (set_("a.forward", lambda: shifted),),
    "class changed": (lambda m: setattr(m.a, "__class__", nn.Identity),),
}
for name, changes in CHANGES.items():
    PROGRAMS[f"change {name}"] = changing(*changes)


FACTOR = 2.0
TABLE = {"k": 1.0}
LIST = [1.0, 2.0]


def reads_global(x: Any) -> Any:
    return x * FACTOR + TABLE["k"] + sum(LIST)


@program
def global_changed(c: Wrap) -> Iterator[Any]:
    global FACTOR
    f, x = c(reads_global), t(3)
    yield f(x), f(x)
    FACTOR = 3.0
    yield f(x), f(x)
    FACTOR = 2.0
    TABLE["k"] = 7.0
    yield f(x), f(x)
    TABLE["k"] = 1.0
    LIST.append(4.0)
    yield f(x), f(x)
    LIST.pop()
    yield f(x)


@program
def closure_changed(c: Wrap) -> Iterator[Any]:
    scale, w = 2.0, t(3)

    def f(x: Any) -> Any:
        return x * scale + w

    def change() -> None:
        nonlocal scale, w
        scale, w = 3.0, t(3)

    g, x = c(f), t(3)
    yield g(x), g(x)
    change()
    yield g(x), g(x)
    w.add_(1)
    yield g(x)


@program
def defaults_changed(c: Wrap) -> Iterator[Any]:
    def f(x: Any, scale: float = 2.0, *, shift: float = 1.0) -> Any:
        return x * scale + shift

    g, x = c(f), t(3)
    yield g(x), g(x), g(x, 3.0), g(x, shift=2.0), g(x=x), g(x, scale=2), g(x, shift=2)
    f.__defaults__ = (5.0,)
    f.__kwdefaults__ = {"shift": 9.0}
    yield g(x), g(x)


@program
def code_changed(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        return x + 1

    def h(x: Any) -> Any:
        return x + 2

    g, x = c(f), t(3)
    yield g(x), g(x)
    f.__code__ = h.__code__
    yield g(x), g(x)


def helper(x: Any) -> Any:
    return x + 1


@program
def helper_replaced(c: Wrap) -> Iterator[Any]:
    global helper
    old = helper
    f, x = c(lambda x: helper(x) * 2), t(3)
    yield f(x), f(x)
    helper = lambda x: x - 1  # noqa: E731
    yield f(x), f(x)
    helper = old
    yield f(x)


@program
def scalars(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x, s: x * s), t(3)
    i = torch.arange(3)
    for s in (2, 2.0, True, 1, 1.0, False, 0, 0.0, -0.0, float("nan"), float("inf"), 2 + 1j):
        yield f(x, s), f(x, s)
    f = c(lambda x, s: x * s)
    for s in (2, 2.0, True, 1, 1.0):
        yield f(i, s), f(i, s)


@program
def negative_zero(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x, s: 1 / (x * 0 + s)), torch.ones(3)
    yield f(x, 0.0), f(x, 0.0), f(x, -0.0), f(x, 0)
    g = c(lambda x, s: (x, s))
    yield g(x, 0.0), g(x, -0.0), g(x, 0), g(x, False), g(x, float("nan")), g(x, float("nan"))


@program
def argument_kinds(c: Wrap) -> Iterator[Any]:
    def f(x: Any, how: Any) -> Any:
        if how is None:
            return x + 1, how
        if how is Mode.ADD or how == "add":
            return x + 2, how
        if isinstance(how, torch.dtype):
            return x.to(how), how
        if isinstance(how, (tuple, list)):
            return x * len(how), how
        return x * 3, how

    g, x = c(f), t(3)
    f64 = torch.float64
    for how in (None, Mode.ADD, Mode.MUL, "add", "mul", f64, (1, 2), [1, 2], [1], ()):
        yield g(x, how), g(x, how)


@program
def structures(c: Wrap) -> Iterator[Any]:
    def f(s: Any, p: Any, d: Any) -> Any:
        y = s.weight * s.scale + p.a - p.b
        return Pair(y, d["x"][0] * 2), Settings(1.0, ("q",), y), {**d, "new": y}

    g = c(f)
    for scale in (2.0, 2.0, 3.0, 2.0):
        s = Settings(scale, weight=t(3))
        yield (
            g(s, Pair(t(3), 1), {"x": [t(2), None], "y": 3}),
            g(s, Pair(t(3), t(3)), {"x": (t(2),)}),
        )


@program
def ordered(c: Wrap) -> Iterator[Any]:
    def f(d: Any) -> Any:
        y = 0
        for v in d.values():
            y = y * 2 + v
        return y

    g = c(f)
    a, b = t(2), t(2)
    yield g({"a": a, "b": b}), g({"b": b, "a": a}), g({"a": a, "b": b}), g(OrderedDict(a=b, b=a))
    yield g({"a": a}), g({"a": a, "b": b, "c": a}), g({"a": a, "b": 1.0})


@program
def presence(c: Wrap) -> Iterator[Any]:
    class Holder:
        pass

    def f(x: Any, h: Any, d: Any) -> Any:
        y = x * getattr(h, "scale", 1.0) + d.get("bias", 0.0)
        if hasattr(h, "extra"):
            y = y + 1
        if "flag" in d:
            y = y + 2
        try:
            y = y + h.more
        except AttributeError:
            y = y - 1
        return y * (d["z"] if "z" in d else 3)  # noqa: SIM401

    g, x, h, d = c(f), t(2), Holder(), {}
    yield g(x, h, d), g(x, h, d)
    for name, value in ("scale", 2.0), ("extra", 1), ("more", 5.0):
        setattr(h, name, value)
        yield g(x, h, d), g(x, h, d)
        delattr(h, name)
        yield g(x, h, d)
        setattr(h, name, value)
    for key in ("bias", "flag", "z"):
        d[key] = 4.0
        yield g(x, h, d), g(x, h, d)


@program
def callables(c: Wrap) -> Iterator[Any]:
    def f(x: Any, scale: Any, shift: Any = 0.0) -> Any:
        return x * scale + shift

    x = t(3)
    g = c(functools.partial(f, scale=2.0))
    yield g(x), g(x), g(x, shift=1.0), g(x, scale=4.0)
    m = net()
    h = c(m.mix)
    yield h(x), h(x)
    m.scale = 8.0
    yield h(x), h(x)
    k = c(lambda x, act: act(x))
    for act in (torch.relu, torch.sigmoid, functional.gelu, lambda x: x + 1, lambda x: x + 2):
        yield k(x, act), k(x, act)
    for p in (functools.partial(f, scale=2.0), functools.partial(f, scale=3.0)):
        yield k(x, p), k(x, p)


@program
def lambdas(c: Wrap) -> Iterator[Any]:
    x = t(3)
    for i in range(3):
        f = c(lambda x, i=i: x + i)
        g = c(lambda x: x * i)  # noqa: B023
        yield f(x), f(x), g(x), g(x)


@program
def decorated_method(c: Wrap) -> Iterator[Any]:
    class Counter:
        def __init__(self, w: float) -> None:
            self.w = w

        def step(self, x: Any) -> Any:
            return x * self.w

    Counter.step = c(Counter.step)  # type: ignore[method-assign]
    a, b, x = Counter(2.0), Counter(3.0), t(3)
    yield a.step(x), b.step(x), a.step(x), b.step(x)
    a.w = 9.0
    yield a.step(x), b.step(x)


@program
def two_instances(c: Wrap) -> Iterator[Any]:
    a, b, x = net(), net(), t(2, 4)
    f, g = c(a), c(b)
    yield f(x), g(x), f(x), g(x)
    h = c(lambda m, x: m(x) + 1)
    yield h(a, x), h(b, x), h(a, x), h(b, x)


@program
def buffers(c: Wrap) -> Iterator[Any]:
    class Ema(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def forward(self, x: Any) -> Any:
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            self.steps += 1
            return x - self.mean, self.steps * 1

    m = Ema()
    f = c(m)
    for _ in range(4):
        yield f(t(2, 3)), m.mean, m.steps


@program
def buffer_rebound(c: Wrap) -> Iterator[Any]:
    class Ema(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))
            self.cache: Any = None

        def forward(self, x: Any) -> Any:
            self.mean = self.mean * 0.9 + x.mean(0) * 0.1
            self.cache = x if self.cache is None else torch.cat([self.cache, x])
            return x - self.mean

    m = Ema()
    f = c(m)
    for _ in range(4):
        yield f(t(2, 3)), m.mean, m.cache


@program
def batch_norm(c: Wrap) -> Iterator[Any]:
    m = frozen(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    f = c(m)
    for training in (True, True, True, False, False, True):
        m.train(training)
        yield f(t(4, 3)), dict(m.named_buffers())


@program
def effects(c: Wrap) -> Iterator[Any]:
    seen: list[Any] = []
    count = 0

    def f(x: Any) -> Any:
        nonlocal count
        count += 1
        seen.append(x.shape)
        print("called", count)
        return x * 2

    g = c(f)
    for _ in range(4):
        yield g(t(3)), list(seen), count


@program
def counter(c: Wrap) -> Iterator[Any]:
    class Stepper(nn.Module):
        step = 0

        def forward(self, x: Any) -> Any:
            self.step += 1
            return x * self.step

    m = Stepper()
    f = c(m)
    for _ in range(4):
        yield f(t(3)), m.step


@program
def appended(c: Wrap) -> Iterator[Any]:
    def f(x: Any, log: Any, d: Any) -> Any:
        log.append(x * 2)
        d["last"] = x
        return x + len(log)

    g, log, d = c(f), [], {}
    for _ in range(3):
        yield g(t(3), log, d), log, d


@program
def python_random(c: Wrap) -> Iterator[Any]:
    import random

    import numpy

    random.seed(1)
    numpy.random.seed(1)
    f = c(lambda x: x * random.random())
    g = c(lambda x: x * float(numpy.random.rand()))
    for _ in range(3):
        x = t(3)
        yield f(x), g(x)


@program
def iterator_argument(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x, it: x * next(it)), t(3)
    it = iter([1.0, 2.0, 3.0, 4.0])
    yield f(x, it), f(x, it), f(x, it), list(it)
    g = c(lambda x, ls: x * ls.pop())
    ls = [1.0, 2.0, 3.0, 4.0]
    yield g(x, ls), g(x, ls), g(x, ls), ls


@program
def generator_function(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        for i in range(3):
            yield x * i

    g, x = c(f), t(3)
    yield list(g(x)), list(g(x))


@program
def generator_inside(c: Wrap) -> Iterator[Any]:
    def f(x: Any, n: Any) -> Any:
        return sum(x * i for i in range(n)), [*map(lambda i: x + i, range(n))], dict(zip("ab", x))  # noqa: C417

    g, x = c(f), t(2)
    yield g(x, 3), g(x, 3), g(x, 4), g(x, 4)


@program
def modes(c: Wrap) -> Iterator[Any]:
    m, x = net().requires_grad_(True), t(2, 4)
    f = c(m)
    yield f(x), f(x)
    with torch.no_grad():
        yield f(x), f(x)
    with torch.inference_mode():
        yield f(x), f(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        yield f(x), f(x)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        yield f(x), f(x)
    with torch.no_grad():
        yield f(x)
    m.requires_grad_(False)
    with torch.inference_mode():
        yield f(x), f(x), f(t(2, 4)), f(t(2, 4))
    yield f(x), f(x)


@program
def gradients(c: Wrap) -> Iterator[Any]:
    m = Net().eval()
    f = c(m)
    for _ in range(3):
        x = t(2, 4).requires_grad_(True)
        y = f(x)
        y.square().sum().backward()
        yield y.detach(), x.grad, m.a.weight.grad
    g = c(lambda x, w: (x * w).sum())
    w = t(3)
    for grad in (False, True, False, True):
        x = t(3).requires_grad_(grad)
        y = g(x, w)
        if grad:
            y.backward()
        yield y.detach(), y.requires_grad, x.grad


@program
def modes_inside(c: Wrap) -> Iterator[Any]:
    def f(x: Any, w: Any) -> Any:
        with torch.no_grad():
            y = x * w
        with torch.enable_grad():
            z = x * w
        with torch.autocast("cpu", torch.bfloat16):
            u = x @ w
        return y, z, u, torch.is_grad_enabled(), x.detach(), x.requires_grad

    g = c(f)
    w = t(3, 3)
    yield g(t(3, 3), w), g(t(3, 3), w), g(t(3, 3).requires_grad_(True), w)
    with torch.no_grad():
        yield g(t(3, 3), w), g(t(3, 3), w), g(t(3, 3).requires_grad_(True), w)


@program
def default_dtype(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: (x + torch.ones(3), torch.zeros(2), x * 1.5)), torch.arange(3)
    yield f(x), f(x)
    torch.set_default_dtype(torch.float64)
    try:
        yield f(x), f(x)
    finally:
        torch.set_default_dtype(torch.float32)
    yield f(x)
    with torch.device("meta"):
        yield attempt(f, x)[:2]
    yield f(x)


@program
def transforms(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: (x * 2).sin().sum()), t(3, 4)
    yield f(x), f(x)
    yield torch.func.vmap(f)(x), torch.func.grad(f)(x), torch.func.vmap(torch.func.grad(f))(x)
    yield torch.func.jvp(f, (x,), (x,)), f(x)
    yield torch.func.functional_call(c(net()), {}, (t(2, 4),))
    g = c(lambda x: torch.func.vmap(lambda r: r * 2)(x) + torch.func.grad(lambda r: r.sum())(x))
    yield g(x), g(x)


@program
def functional_call(c: Wrap) -> Iterator[Any]:
    m, x = net(), t(2, 4)
    f = c(m)
    yield f(x), f(x)
    state = {k: v * 2 for k, v in m.state_dict().items()}
    yield torch.func.functional_call(f, state, (x,)), f(x), f(x)


@program
def nested(c: Wrap) -> Iterator[Any]:
    inner = c(lambda x: x * 2)
    f = c(lambda x: inner(x) + 1)
    x = t(3)
    yield f(x), f(x), inner(x), inner(x), f(x)
    m = net()
    m.a = c(m.a)
    g = c(m)
    y = t(2, 4)
    yield g(y), g(y), m(y), m.a(y), m.a(y)
    m.a.weight.mul_(2)
    yield g(y), m(y)


@program
def recursion(c: Wrap) -> Iterator[Any]:
    def f(x: Any, n: int) -> Any:
        return x if n == 0 else g(x * 2, n - 1) + 1

    g = c(f)
    x = t(3)
    yield g(x, 3), g(x, 3), g(x, 2), g(x, 2), g(x, 0), attempt(g, x, -1)[:2]


@program
def copies(c: Wrap) -> Iterator[Any]:
    m, x = net(), t(2, 4)
    f = c(m)
    yield f(x), f(x)
    g = copy.deepcopy(f)
    h = pickle.loads(pickle.dumps(f))
    g.a.weight.mul_(2)
    h.scale = 5.0
    yield f(x), g(x), h(x), f(x), g(x), h(x)
    k = copy.copy(f)
    k.scale = 7.0
    yield f(x), k(x), f(x), k(x), m(x)


@program
def threads(c: Wrap) -> Iterator[Any]:
    f, results = c(lambda x: torch.softmax(x * 2, -1) + x), [None] * 8
    xs = [t(3, 4) for _ in range(8)]

    def work(i: int) -> None:
        for _ in range(4):
            results[i] = f(xs[i])

    ts = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for th in ts:
        th.start()
    for th in ts:
        th.join()
    yield results


@program
def shapes(c: Wrap) -> Iterator[Any]:
    f = c(lambda x, y: (x + y, x.shape[0] * 2, x.softmax(-1)))
    y = t(1, 3)
    for n in (2, 1, 0, 2, 5, 1, 3, 4, 6, 7, 8, 9, 10, 11):
        yield f(t(n, 3), y)
    yield f(t(3), y), f(t(2, 1), y), f(t(3, 2).t(), y), f(t(2, 3), t(2, 3)), f(t(2, 3, 3), y)


@program
def layouts(c: Wrap) -> Iterator[Any]:
    f = c(lambda x: (x * 2, x.sum(0), x.contiguous().view(-1), x.is_contiguous(), x.stride()))
    base = t(4, 4)
    for x in (base, base.t(), base[::2], base[:, 1:], base[1:], base[:0], base.expand(2, 4, 4)):
        yield f(x), f(x)
    for d in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool):
        yield f(base.to(d)), f(base.to(d))


@program
def sharing_changes(c: Wrap) -> Iterator[Any]:
    def f(x: Any, y: Any) -> Any:
        x.mul_(2)
        y.add_(1)
        return x + y

    g = c(f)
    base = t(8)
    for x, y in (
        (t(4), t(4)), (base[:4], base[4:]), (base[:4], base[2:6]), (base[:4], base[:4]),
        (base[2:6], base[:4]), (base[::2], base[1::2]), (t(4), t(4)),
    ):  # fmt: skip
        yield g(x, y), x, y, base
    x = t(4)
    yield g(x, x), x, g(x, x), g(t(4), x)


@program
def same_object_returned(c: Wrap) -> Iterator[Any]:
    f = c(lambda x, y: x if x is y else x + y)
    x, y = t(3), t(3)
    yield f(x, x), f(x, y), f(x, x), f(x, y), f(x, x[:]), f(x, x.detach())


@program
def flags(c: Wrap) -> Iterator[Any]:
    f = c(lambda x: (x * 2, torch.are_deterministic_algorithms_enabled()))
    x = t(3)
    yield f(x), f(x)
    torch.use_deterministic_algorithms(True)
    try:
        yield f(x), f(x)
    finally:
        torch.use_deterministic_algorithms(False)
    yield f(x)


@program
def properties(c: Wrap) -> Iterator[Any]:
    class P:
        def __init__(self) -> None:
            self.raw, self.names = 2.0, {"dyn": 3.0}

        @property
        def scale(self) -> float:
            return self.raw + 1

        def __getattr__(self, name: str) -> Any:
            if name == "dyn":
                return self.names["dyn"]
            raise AttributeError(name)

        def __call__(self, x: Any) -> Any:
            return x * self.scale + self.dyn

    p, x = P(), t(3)
    f, g = c(lambda x: p(x)), c(p)
    yield f(x), f(x), g(x), g(x)
    p.raw = 7.0
    yield f(x), f(x), g(x)
    p.names["dyn"] = 9.0
    yield f(x), f(x), g(x)
    p.dyn = 1.0
    yield f(x), f(x), g(x)
    P.scale = 4.0  # type: ignore
    yield f(x), f(x), g(x)


@program
def odd_equality(c: Wrap) -> Iterator[Any]:
    class Same:
        def __init__(self, v: float) -> None:
            self.v = v

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

    class Int(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    f, x = c(lambda x, s: x * s.v), t(3)
    yield f(x, Same(1.0)), f(x, Same(1.0)), f(x, Same(2.0)), f(x, Same(2.0))
    g = c(lambda x, n: x * n)
    yield g(x, Int(2)), g(x, Int(2)), g(x, Int(3)), g(x, 3)


@program
def class_state(c: Wrap) -> Iterator[Any]:
    class Base:
        scale = 2.0

    class Derived(Base):
        pass

    f, x = c(lambda x: x * Derived.scale + Derived().scale), t(3)
    yield f(x), f(x)
    Base.scale = 3.0
    yield f(x), f(x)
    Derived.scale = 5.0
    yield f(x), f(x)
    del Derived.scale
    yield f(x)


@program
def tensor_attributes(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: x * x.scale), t(3)
    x.scale = 2.0
    yield f(x), f(x)
    x.scale = 3.0
    yield f(x), f(x)
    g = c(lambda x: x if x.grad is None else x + x.grad)
    yield g(x), g(x)
    x.grad = torch.ones(3)
    yield g(x), g(x)


@program
def user_error(c: Wrap) -> Iterator[Any]:
    def f(x: Any, d: Any) -> Any:
        x.add_(1)
        if d["n"] > 1:
            raise KeyError("too many")
        assert (x > -100).all(), "small"
        return x * d["n"]

    g = c(f)
    for n in (1, 1, 2, 1, 2):
        x = t(3)
        yield attempt(g, x, {"n": n}), x
    x = t(3) - 200
    yield attempt(g, x, {"n": 1}), x


@program
def random_then_error(c: Wrap) -> Iterator[Any]:
    g = c(lambda x, i: (torch.rand(3), x.index_add(0, i, torch.rand(2))))
    for i in (0, 1, 9, 2, 9):
        yield attempt(g, t(4), torch.tensor([0, i])), torch.rand(2)


@program
def random_then_left(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        r = torch.rand(3)
        y = x.add_(r)
        return y + torch.randn(3) if y.sum() > 1 else y * torch.rand(3)

    g = c(f)
    for _ in range(8):
        x = t(3)
        yield g(x), x


@program
def loops_on_data(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        n = 0
        while x.abs().max() > 0.5 and n < 20:
            x = x / 2
            n += 1
        return x, n, int(x.sum() * 0), x[: n + 1]

    g = c(f)
    for k in (1.0, 1.0, 4.0, 16.0, 64.0, 0.1, 1.0):
        yield g(t(6) * k)


@program
def many_entries(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x, n: x * n), t(3)
    for n in (*range(14), 3, 12):
        yield f(x, n)


@program
def own_hooks(c: Wrap) -> Iterator[Any]:
    m, x, log = net(), t(2, 4), []
    f = c(m)
    handle = m.a.register_forward_hook(lambda mod, i, o: log.append(o.sum()))
    yield f(x), f(x), f(x), log
    handle.remove()
    yield f(x), f(x), log
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: log.append(1))
    yield f(x), f(x), log
    handle.remove()
    yield f(x), len(log)


@program
def parameter_inside(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: (nn.Parameter(x * 2), nn.Linear(3, 3).weight.shape)), t(3)
    with torch.no_grad():
        yield f(x), f(x)


class Sub(torch.Tensor):
    pass


@program
def subclass(c: Wrap) -> Iterator[Any]:
    f = c(lambda x: x * 2 + 1)
    x = t(3)
    yield f(x), f(x.as_subclass(Sub)), f(x.as_subclass(Sub)), f(nn.Parameter(x, False)), f(x)


@program
def keyword_order(c: Wrap) -> Iterator[Any]:
    def f(*args: Any, **kw: Any) -> Any:
        return [a * 2 for a in args], {k: v + 1 for k, v in kw.items()}

    g, x, y = c(f), t(2), t(3)
    yield g(x, a=x, b=y), g(x, b=y, a=x), g(a=x), g(x, y), g(), g(x, a=x, b=y)


@program
def views_of_state(c: Wrap) -> Iterator[Any]:
    m, x = net(), t(4)
    f = c(lambda x: (m.a.weight, m.a.weight[0], m.a.weight.t(), m.count, x + m.count))
    yield f(x), f(x)
    m.count.add_(1)
    yield f(x), f(x)


@program
def written_state_returned(c: Wrap) -> Iterator[Any]:
    cache = torch.zeros(5, 2)

    def f(x: Any, pos: int) -> Any:
        cache[pos] = x
        return cache[: pos + 1], cache

    g = c(f)
    for pos in (0, 1, 2, 1):
        yield g(t(2), pos), cache


@program
def inference(c: Wrap) -> Iterator[Any]:
    """In inference mode composite operations arrive whole, also those that give back their
    argument."""

    def f(x: Any, w: Any) -> Any:
        y = functional.dropout(x, 0.5, False).reshape(4, 3).to(torch.float32).contiguous()
        y.add_(1)
        z = functional.linear(y, w).flatten().softmax(0)
        a, b = x.chunk(2)
        return y, y.to(torch.float64), z, a, b * 2, x.reshape(12), x.t().reshape(12), x.to(x.dtype)

    g = c(f)
    w = t(2, 3)
    with torch.inference_mode():
        for _ in range(3):
            yield g(t(4, 3), w)
    for _ in range(3):
        yield g(t(4, 3), w)
    with torch.inference_mode():
        x = t(4, 3)
        d = c(lambda x: functional.dropout(x, 0.5))
        yield d(x), d(x)
    yield attempt(g, x, w)[:1]

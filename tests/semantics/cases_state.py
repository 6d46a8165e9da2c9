"""State: what a function reads besides its arguments, changed between calls."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .cases import CHANGED, Wrap, attempt, case, t

S = "State"


def frozen(module: Any) -> Any:
    return module.requires_grad_(False)


class Plain:
    """An object that is no module."""

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale
        self.inner: Any = None


@dataclasses.dataclass
class Config:
    scale: float = 2.0
    inner: Any = None


class Net(nn.Module):
    """Reads state of many kinds in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale, self.config = 1.0, Config(inner=Config())
        self.holder = Plain()
        self.holder.inner = Plain(3.0)
        self.drop = nn.Dropout(0.5)
        self.names = ["a", "b"]
        self.table = {"shift": 1.0}

    def mix(self, x: Any) -> Any:
        return x * self.scale

    def forward(self, x: Any) -> Any:
        for name in self.names:
            x = getattr(self, name)(x)
        x = self.mix(x) * self.config.scale + self.config.inner.scale
        x = x * self.holder.inner.scale
        for value in self.table.values():
            x = x + value
        return self.drop(x)


def net() -> Any:
    return frozen(Net()).eval()


def changing(name: str, *changes: Callable[[Any], Any], eager: str = "", wrong: str = "") -> None:
    """A case: a module that is called, changed, and called again, for each of the changes."""

    def program(c: Wrap) -> Iterator[Any]:
        m = net()
        f, x = c(m), t(2, 4)
        yield f(x)
        yield f(x)
        yield f(x)
        yield CHANGED
        for change in changes:
            change(m)
            yield attempt(f, x)
            yield attempt(f, x), dict(m.named_buffers())
            yield attempt(f, x)

    case(S, name, eager=eager, wrong=wrong)(program)


def setting(path: str, value: Any) -> Callable[[Any], None]:
    """Sets an attribute at a path; a function makes the value anew."""

    def change(m: Any) -> None:
        *parents, last = path.split(".")
        made = value() if callable(value) else value
        setattr(functools.reduce(getattr, parents, m), last, made)

    return change


changing("attribute of a module", setting("scale", 3.0), setting("scale", 3), setting("scale", 1.0))
changing(
    "attribute of a nested plain object",
    setting("holder.inner.scale", 5.0),
    setting("holder.inner", lambda: Plain(7.0)),
)
changing(
    "attribute of a dataclass config",
    setting("config.scale", 5.0),
    setting("config.inner.scale", 0.5),
    setting("config", lambda: Config(1.5, Config(9.0))),
)
changing("train()/eval()", lambda m: m.train(), lambda m: m.eval(), lambda m: m.drop.train())


changing(
    "parameter replaced",
    setting("a.weight", lambda: nn.Parameter(t(4, 4), False)),
    setting("a.weight.data", lambda: t(4, 4).t()),
    setting("a.bias", None),
)
changing(
    "parameter moved",
    lambda m: m.a.to("meta"),
    lambda m: m.b.to("meta"),
    lambda m: frozen(m.to_empty(device="cpu")) and [p.zero_() for p in m.parameters()],
    eager="backend",
)
changing(
    "parameter cast",
    lambda m: m.a.double(),
    lambda m: m.double(),
    lambda m: m.float(),
)


@case(S, "parameter tied")
def _(c: Wrap) -> Iterator[Any]:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            self.a.weight.mul_(2.0)
            return self.b(x), self.a.weight is self.b.weight

    m = frozen(Tied())
    f, x = c(m), t(2, 4)
    yield f(x)
    yield f(x), m.b.weight
    yield f(x), m.b.weight
    yield CHANGED
    m.b.weight = m.a.weight
    for _ in range(3):
        yield f(x), m.b.weight, m.a.weight
    m.a.weight = nn.Parameter(t(4, 4), False)
    yield f(x), m.b.weight, m.a.weight
    yield f(x), m.b.weight, m.a.weight


@case(S, "parameter frozen", eager="autograd")
def _(c: Wrap) -> Iterator[Any]:
    m = Net().eval()
    f, x = c(m), t(2, 4)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    frozen(m.a)
    yield f(x), f(x)
    frozen(m)
    yield f(x), f(x), f(x)
    m.b.requires_grad_(True)
    yield f(x), f(x)


@case(S, "parameter added")
def _(c: Wrap) -> Iterator[Any]:
    class Sum(nn.Module):
        def forward(self, x: Any) -> Any:
            for p in self.parameters():
                x = x + p
            return x * 2

    m = Sum()
    m.first = nn.Parameter(t(4), False)
    f, x = c(m), t(2, 4)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    m.register_parameter("second", nn.Parameter(t(4), False))
    yield f(x), f(x)
    m.child = frozen(nn.Linear(4, 1))
    yield f(x), f(x)
    del m.first
    yield f(x), f(x)


@case(S, "buffer updated in forward: batch norm statistics")
def _(c: Wrap) -> Iterator[Any]:
    m = frozen(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    f = c(m)
    for _ in range(3):
        yield f(t(4, 3)), dict(m.named_buffers())
    yield CHANGED
    m.eval()
    yield f(t(4, 3)), f(t(4, 3)), dict(m.named_buffers())
    m.train()
    m[0].momentum = None
    yield f(t(4, 3)), f(t(4, 3)), dict(m.named_buffers())
    m[0].running_mean.zero_()
    yield f(t(4, 3)), f(t(4, 3)), dict(m.named_buffers())


@case(S, "buffer updated in forward: counters")
def _(c: Wrap) -> Iterator[Any]:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def forward(self, x: Any) -> Any:
            self.steps += 1
            return x * self.steps

    m = Counts()
    f = c(m)
    before = m.steps
    for _ in range(4):
        yield f(t(3)), m.steps, before
    yield CHANGED
    m.steps.fill_(40)
    yield f(t(3)), f(t(3)), m.steps
    m.steps = torch.tensor(7, dtype=torch.int32)
    yield f(t(3)), f(t(3)), m.steps, before


@case(S, "buffer updated in forward: an exponential moving average")
def _(c: Wrap) -> Iterator[Any]:
    class Average(nn.Module):
        decay = 0.9

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x: Any) -> Any:
            self.mean = self.decay * self.mean + (1 - self.decay) * x.mean(0)
            return x - self.mean

    m = Average()
    f = c(m)
    for _ in range(4):
        yield f(t(2, 3)), m.mean
    yield CHANGED
    m.decay = 0.5
    yield f(t(2, 3)), m.mean
    yield f(t(2, 3)), m.mean
    m.mean = torch.ones(3)
    yield f(t(2, 3)), m.mean


@case(S, "buffer updated in forward: a KV cache that grows")
def _(c: Wrap) -> Iterator[Any]:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("keys", torch.zeros(1, 0, 4))

        def forward(self, q: Any) -> Any:
            self.keys = torch.cat([self.keys, q], 1)
            return torch.softmax(q @ self.keys.transpose(1, 2), -1) @ self.keys

    m = Cached()
    f = c(m)
    for _ in range(3):
        m.keys = torch.zeros(1, 0, 4)
        for _ in range(3):
            yield f(t(1, 1, 4)), m.keys
    yield CHANGED
    m.keys = t(1, 1, 4)
    for _ in range(3):
        yield f(t(1, 1, 4)), m.keys
    m.keys = t(1, 5, 4)
    yield f(t(1, 2, 4)), f(t(1, 2, 4)), m.keys


FACTOR: Any = 2.0


def reads_global(x: Any) -> Any:
    return x * FACTOR


@case(S, "global variable rebound (global)")
def _(c: Wrap) -> Iterator[Any]:
    def rebind(value: Any) -> None:
        global FACTOR
        FACTOR = value

    rebind(2.0)
    f, x = c(reads_global), t(3)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    for value in (3.0, 3, t(3), 2.0):
        rebind(value)
        yield f(x), f(x)


@case(S, "closure variable rebound (nonlocal)")
def _(c: Wrap) -> Iterator[Any]:
    scale: Any = 2.0

    def rebind(value: Any) -> None:
        nonlocal scale
        scale = value

    f, x = c(lambda x: x * scale), t(3)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    for value in (3.0, 3, t(3), 2.0):
        rebind(value)
        yield f(x), f(x)


TOTAL: Any = torch.zeros(3)


def adds_to_global(x: Any) -> Any:
    global TOTAL
    TOTAL = TOTAL + x
    return TOTAL * 2


@case(S, "global variable rebound by the function (global)")
def _(c: Wrap) -> Iterator[Any]:
    global TOTAL
    TOTAL = torch.zeros(3)
    f = c(adds_to_global)
    for _ in range(4):
        yield f(t(3)), TOTAL
    yield CHANGED
    TOTAL = torch.ones(3)
    yield f(t(3)), f(t(3)), TOTAL


@case(S, "closure variable rebound by the function (nonlocal)")
def _(c: Wrap) -> Iterator[Any]:
    total = torch.zeros(3)

    def add(x: Any) -> Any:
        nonlocal total
        total = total + x
        return total * 2

    f = c(add)
    for _ in range(4):
        yield f(t(3)), total
    yield CHANGED
    total = torch.ones(3)
    yield f(t(3)), f(t(3)), total


@case(S, "default argument changed")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, scale: float = 2.0, *, shift: float = 1.0) -> Any:
        return x * scale + shift

    g, x = c(f), t(3)
    yield g(x)
    yield g(x), g(x, 3.0), g(x, shift=2.0)
    yield g(x), g(x, 3.0), g(x, shift=2.0)
    yield CHANGED
    f.__defaults__ = (5.0,)
    yield g(x), g(x)
    f.__kwdefaults__ = {"shift": 9.0}
    yield g(x), g(x)
    f.__kwdefaults__["shift"] = 4.0
    yield g(x), g(x)


def helper(x: Any) -> Any:
    return x + 1


@case(S, "function monkey-patched")
def _(c: Wrap) -> Iterator[Any]:
    global helper
    old = helper
    f, x = c(lambda x: helper(x) * 2), t(3)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    helper = lambda x: x - 1  # noqa: E731
    yield f(x), f(x)
    helper = old
    yield f(x), f(x)
    code = helper.__code__
    helper.__code__ = (lambda x: x * 5).__code__
    yield f(x), f(x)
    helper.__code__ = code


@case(S, "function of torch monkey-patched")
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: nn.functional.relu(x) * 2), t(3)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    relu = nn.functional.relu
    try:
        nn.functional.relu = lambda x: x - 100
        yield f(x), f(x)
    finally:
        nn.functional.relu = relu
    yield f(x), f(x)


def shifted(x: Any) -> Any:
    return x - 100


changing(
    "a method replaced on the instance",
    setting("mix", lambda: shifted),
    lambda m: delattr(m, "mix"),
    setting("a.forward", lambda: shifted),
    setting("forward", lambda: shifted),
)


def hooked(name: str, register: Callable[[Any], Any], eager: str = "", wrong: str = "") -> None:
    """A case: a hook on an inner module and one on the module itself, put there and taken away."""

    def program(c: Wrap) -> Iterator[Any]:
        SEEN.clear()
        m = net()
        f, x = c(m), t(2, 4)
        yield f(x)
        yield f(x)
        yield f(x)
        yield CHANGED
        for module in (m.a, m):
            handle = register(module)
            yield f(x), f(x), list(SEEN)
            handle.remove()
            yield f(x), f(x), list(SEEN)

    case(S, name, eager=eager, wrong=wrong)(program)


SEEN: list[Any] = []  # what hooks without a result have seen


def look(module: Any, args: Any, result: Any = None) -> None:
    SEEN.append(args[0].shape)


hooked("forward hook added and removed", lambda m: m.register_forward_hook(look))
hooked("forward pre-hook added and removed", lambda m: m.register_forward_pre_hook(look))
hooked(
    "forward hook returning a new value",
    lambda m: m.register_forward_hook(lambda module, args, result: result * 2 + args[0].sum()),
)
hooked(
    "forward pre-hook returning a new value",
    lambda m: m.register_forward_pre_hook(lambda module, args: (args[0] * 10,)),
)


@case(S, "forward hook there from the start, then removed")
def _(c: Wrap) -> Iterator[Any]:
    m, x = net(), t(2, 4)
    handle = m.a.register_forward_hook(lambda module, args, result: result + 1)
    before = m.b.register_forward_pre_hook(lambda module, args: args[0] * 2)
    f = c(m)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    handle.remove()
    yield f(x), f(x)
    before.remove()
    yield f(x), f(x)


@case(S, "module deep-copied")
def _(c: Wrap) -> Iterator[Any]:
    m, x = net(), t(2, 4)
    f = c(m)
    yield f(x)
    g = copy.deepcopy(f)
    yield f(x), g(x)
    yield f(x), g(x), g.a.weight is f.a.weight
    yield CHANGED
    g.a.weight.mul_(2)
    g.scale = 3.0
    yield f(x), g(x), f(x), g(x)
    f.b.bias.add_(1)
    yield f(x), g(x), f(x), g(x), m(x)


@case(S, "module pickled")
def _(c: Wrap) -> Iterator[Any]:
    m, x = net(), t(2, 4)
    f = c(m)
    yield f(x)
    g = pickle.loads(pickle.dumps(f))
    yield f(x), g(x)
    yield f(x), g(x), g.a.weight is f.a.weight
    yield CHANGED
    g.a.weight.mul_(2)
    g.scale = 3.0
    yield f(x), g(x), f(x), g(x), m(x)


@case(S, "state_dict loaded after compiling")
def _(c: Wrap) -> Iterator[Any]:
    m, x = net(), t(2, 4)
    f = c(m)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    m.load_state_dict(net().state_dict())
    yield f(x), f(x)
    held = io.BytesIO()
    torch.save(net().state_dict(), held)
    held.seek(0)
    f.load_state_dict(torch.load(held))
    yield f(x), f(x), m(x)
    m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}, assign=True)
    frozen(m)
    yield f(x), f(x), m(x)


@case(S, "two instances of one class")
def _(c: Wrap) -> Iterator[Any]:
    a, b, x = net(), net(), t(2, 4)
    f, g = c(a), c(b)
    h = c(lambda m, x: m(x) + 1)
    yield f(x), g(x), h(a, x), h(b, x)
    yield f(x), g(x), h(a, x), h(b, x)
    yield f(x), g(x), h(a, x), h(b, x)
    yield CHANGED
    a.scale = 4.0
    yield f(x), g(x), h(a, x), h(b, x)
    b.b = b.a
    yield f(x), g(x), h(a, x), h(b, x), f(x), g(x)


@case(S, "functools.partial")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, scale: Any, shift: Any = 0.0) -> Any:
        return x * scale + shift

    p, x, w = functools.partial(f, scale=2.0), t(3), t(3)
    g = c(p)
    k = c(lambda x, act: act(x))
    q = functools.partial(f, scale=w)
    yield g(x), k(x, p), k(x, q)
    yield g(x), k(x, p), k(x, q)
    yield g(x), g(x, shift=1.0), k(x, p), k(x, q)
    yield CHANGED
    p.keywords["scale"] = 7.0
    yield g(x), g(x), k(x, p)
    w.add_(1)
    yield k(x, q), k(x, functools.partial(f, scale=3.0)), k(x, q)
    p.__setstate__((f, (), {"scale": 9.0, "shift": 2.0}, {}))
    yield g(x), k(x, p), g(x)


@case(S, "bound methods")
def _(c: Wrap) -> Iterator[Any]:
    class Scaled:
        def __init__(self, w: Any) -> None:
            self.w = w

        def step(self, x: Any) -> Any:
            return x * self.w + 1

    a, b, x = Scaled(2.0), Scaled(3.0), t(3)
    f, g, k = c(a.step), c(b.step), c(lambda x, act: act(x))
    yield f(x), g(x), k(x, a.step), k(x, b.step)
    yield f(x), g(x), k(x, a.step), k(x, b.step)
    yield f(x), g(x), k(x, a.step), k(x, b.step)
    yield CHANGED
    a.w = 9.0
    yield f(x), g(x), k(x, a.step), k(x, b.step)
    Scaled.step = lambda self, x: x - self.w  # type: ignore
    yield f(x), g(x), k(x, a.step), k(x, b.step), k(x, a.step)


@case(S, "properties")
def _(c: Wrap) -> Iterator[Any]:
    class Holder:
        def __init__(self) -> None:
            self.raw = 2.0

        @property
        def scale(self) -> Any:
            return self.raw + 1

    h, x = Holder(), t(3)
    f = c(lambda x: x * h.scale)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    h.raw = 7.0
    yield f(x), f(x)
    Holder.scale = property(lambda self: self.raw - 1)  # type: ignore
    yield f(x), f(x)
    Holder.scale = 4.0  # type: ignore
    yield f(x), f(x)


@case(S, "__getattr__")
def _(c: Wrap) -> Iterator[Any]:
    class Holder:
        def __init__(self) -> None:
            self.names = {"scale": 3.0}

        def __getattr__(self, name: str) -> Any:
            if name in ("scale", "extra"):
                return self.names.get(name, 1.0)
            raise AttributeError(name)

    h, x = Holder(), t(3)
    f = c(lambda x: x * h.scale + h.extra)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    h.names["scale"] = 9.0
    yield f(x), f(x)
    h.names["extra"] = 5.0
    yield f(x), f(x)
    h.scale = 1.0
    yield f(x), f(x)
    del h.scale
    Holder.__getattr__ = lambda self, name: 20.0  # type: ignore
    yield f(x), f(x)


def holding(name: str, read: Any, *changes: Callable[[Any], Any], eager: str = "") -> None:
    """A case: an object whose list or dict a function reads, and which is changed."""

    def program(c: Wrap) -> Iterator[Any]:
        h = Plain()
        h.rows, h.table, h.grown = [1.0, 2.0], {"a": 1.0, "b": t(3)}, []
        f, x = c(read), t(3)
        yield f(x, h), h.rows, h.table
        yield f(x, h), h.rows, h.table
        yield f(x, h), h.rows, h.table
        yield CHANGED
        for change in changes:
            change(h)
            yield attempt(f, x, h), h.rows, h.table
            yield attempt(f, x, h), h.rows, h.table

    case(S, name, eager=eager)(program)


def write_entry(place: Any, key: Any, value: Any) -> None:
    place[key] = value


def push_row(x: Any, h: Any) -> Any:
    h.rows.append(x * 2)
    return x * len(h.rows)


def put_entry(x: Any, h: Any) -> Any:
    h.table["sum"] = h.table.get("sum", 0.0) + x
    return h.table["sum"] * 2


def swap_rows(x: Any, h: Any) -> Any:
    h.rows = [x, h.rows[0]]
    return x + h.rows[1]


def swap_table(x: Any, h: Any) -> Any:
    h.table = {"a": h.table["a"] + x}
    return h.table["a"] * 2


holding(
    "a list attribute read",
    lambda x, h: x * h.rows[0] + sum(h.rows),
    lambda h: write_entry(h.rows, 0, 5.0),
    lambda h: h.rows.append(7.0),
    lambda h: h.rows.reverse(),
    lambda h: h.rows.clear(),
)
holding("a list attribute appended to", push_row, *[lambda h: h.rows.clear()] * 2)
holding("a list attribute replaced", swap_rows, *[lambda h: setattr(h, "rows", [4.0])] * 2)
holding(
    "a list attribute replaced between calls",
    lambda x, h: x * h.rows[1],
    lambda h: setattr(h, "rows", [1.0, 9.0]),
    lambda h: setattr(h, "rows", (1.0, 3.0)),
    lambda h: setattr(h, "rows", [1.0, t(3)]),
)
holding(
    "a dict attribute read",
    lambda x, h: x * h.table["a"] + sum(h.table.values()),
    lambda h: write_entry(h.table, "a", 5.0),
    lambda h: write_entry(h.table, "b", t(3)),
    lambda h: write_entry(h.table, "c", 2.0),
    lambda h: h.table.pop("a"),
)
holding("a dict attribute appended to", put_entry, lambda h: h.table.clear())
holding("a dict attribute replaced", swap_table, lambda h: setattr(h, "table", {"a": 4.0}))
holding(
    "a dict attribute replaced between calls",
    lambda x, h: x * h.table["a"],
    lambda h: setattr(h, "table", {"a": 9.0}),
    lambda h: setattr(h, "table", {"a": t(3)}),
    lambda h: setattr(h, "table", {}),
)


class Mode(enum.Enum):
    ADD = 1
    MUL = 2


def chosen(name: str, function: Any, *values: Any, eager: str = "") -> None:
    """A case: an argument that is no tensor and has another value after some calls."""

    def program(c: Wrap) -> Iterator[Any]:
        f, x = c(function), t(3)
        for number, value in enumerate(values):
            if number == 1:
                yield CHANGED
            yield f(x, value), value
            yield f(x, value), value
            yield f(x, value), value

    case(S, name, eager=eager)(program)


chosen(
    "enum arguments",
    lambda x, m: x + 2 if m is Mode.ADD else x * m.value,
    Mode.ADD,
    Mode.MUL,
    Mode.ADD,
)
chosen(
    "string arguments",
    lambda x, s: (x + 2 if s == "add" else x * len(s), s.upper()),
    "add",
    "mul",
    "multiply",
    "add",
)
chosen(
    "None arguments", lambda x, m: x * 2 if m is None else x * m + 1, None, 0, torch.ones(3), None
)
chosen(
    "tuple arguments",
    lambda x, p: x.sum() * p[0] + len(p),
    (1, 2),
    (2, 1),
    (1, 2, 3),
    (torch.ones(()), 2),
    (1, 2),
)


class Same:
    """Equal to everything."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


@case(S, "an object argument with __eq__ overridden")
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x, s: x * s.value), t(3)
    g = c(lambda x, s, o: x * 2 if s == o else x * 3)
    a, b = Same(1.0), Same(2.0)
    yield f(x, a), g(x, a, 5)
    yield f(x, a), g(x, a, 5)
    yield f(x, a), g(x, a, 5)
    yield CHANGED
    yield f(x, b), f(x, b), f(x, a), g(x, b, 6)
    a.value = 8.0
    yield f(x, a), f(x, a), f(x, b)
    Same.__eq__, old = (lambda self, other: False), Same.__eq__  # type: ignore
    try:
        yield g(x, a, 5), g(x, a, 5)
    finally:
        Same.__eq__ = old  # type: ignore

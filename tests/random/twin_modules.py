"""Tiny modules that read and change all kinds of state, to be put together at random."""

from __future__ import annotations

import enum
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

WIDTH = 4
FACTOR: Any = 2.0
TABLE: dict[str, Any] = {"k": 1.0, "names": ["a"]}


class Mode(enum.Enum):
    ADD = 1
    MUL = 2


class Config:
    """A plain object in a module."""

    def __init__(self) -> None:
        self.scale: Any = 1.5
        self.flag: Any = False
        self.how: Any = "add"
        self.extra = {"bias": 0.5, "list": [1.0, 2.0]}

    def __repr__(self) -> str:
        return "Config()"


@dataclass
class Settings:
    shift: Any = 0.25
    pair: tuple[Any, ...] = (1.0, 2.0)
    inner: Config = field(default_factory=Config)


def closure() -> tuple[Callable[[Any], Any], Callable[[Any], None]]:
    """A function that reads a variable of this one, and how to rebind it."""
    value: Any = 2.0

    def scaled(x: Any) -> Any:
        return x * value

    def change(new: Any) -> None:
        nonlocal value
        value = new

    return scaled, change


scaled, change_closure = closure()


def defaults(x: Any, shift: Any = 0.5, *, scale: Any = 2.0) -> Any:
    return x * scale + shift


class Plain(nn.Module):
    """Attributes of the module, of a nested object, of a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.flag, self.how = 2.0, True, "mul"
        self.config, self.settings = Config(), Settings()

    def mix(self, x: Any) -> Any:
        return x * self.scale

    @property
    def total(self) -> Any:
        return self.settings.shift + self.config.scale

    def forward(self, x: Any) -> Any:
        if self.flag:
            x = self.mix(x)
        if self.config.how == "add":
            x = x + self.total
        elif self.config.how is None:
            x = x - self.settings.pair[0]
        else:
            x = x * self.settings.inner.scale
        if self.config.flag or self.how == "neg":
            x = -x
        return x + sum(self.config.extra["list"]) * self.config.extra["bias"]


class Outer(nn.Module):
    """Globals, a closure, default arguments."""

    def forward(self, x: Any) -> Any:
        x = scaled(x * FACTOR + TABLE["k"]) * len(TABLE["names"])
        return defaults(x) * 0.25


class Counter(nn.Module):
    """A buffer counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Any) -> Any:
        self.count.add_(1)
        self.calls += 1
        return x + self.count


class Average(nn.Module):
    """An exponential moving average, in place or rebound."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.rebound = False

    def forward(self, x: Any) -> Any:
        if x.shape[0]:
            new = x.detach().mean(0)
            if self.rebound:
                self.mean = self.mean * 0.5 + new * 0.5
            else:
                self.mean.mul_(0.5).add_(new, alpha=0.5)
        return x - self.mean


class Cache(nn.Module):
    """Rows are written at a position, which is a number or a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(3, WIDTH))
        self.register_buffer("at", torch.zeros(1, dtype=torch.int64))
        self.position, self.by_tensor = 0, True

    def forward(self, x: Any) -> Any:
        if x.shape[0]:
            if self.by_tensor:
                self.rows.index_copy_(0, self.at, x[:1])
                self.at.add_(1).remainder_(3)
            else:
                self.rows[self.position] = x[0]
        return x + self.rows.sum(0)


class Grows(nn.Module):
    """Rows are kept by concatenation; the buffer is rebound and grows up to a bound."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(0, WIDTH))

    def forward(self, x: Any) -> Any:
        self.rows = torch.cat([self.rows, x])[-4:]
        return x + self.rows.sum(0)


class Steps(nn.Module):
    """Python state changes in forward: a number, a list, a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.log, self.memo = 0, [], {}
        self.what = ""

    def forward(self, x: Any) -> Any:
        if "step" in self.what:
            self.step += 1
        if "log" in self.what:
            self.log.append(len(self.log) % 3)
            del self.log[:-2]
        if "memo" in self.what:
            self.memo[len(x)] = self.memo.get(len(x), 0) + 1
        return x * (1 + self.step % 3) + sum(self.log) + self.memo.get(1, 0)


class Keeps(nn.Module):
    """A tensor attribute is rebound to the input, to a view of it or to the result."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = None
        self.which = "input"

    def forward(self, x: Any) -> Any:
        before, result = self.kept, x * 0.5
        if self.which == "input":
            self.kept = x
        elif self.which == "view":
            self.kept = x[:1]
        elif self.which == "result":
            self.kept = result
        if before is not None and before.shape == x.shape:
            return result + before
        return result


class Branch(nn.Module):
    """The values decide."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 0.37

    def forward(self, x: Any) -> Any:
        if x.dtype.itemsize > 2 and x.numel() and x.amax() > self.limit:
            return x * 0.5
        if x.numel() and x.dtype == torch.float64:
            return x + 1
        return x - 0.25


class Number(nn.Module):
    """A number is taken from a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n", torch.tensor(1.0))
        self.register_buffer("rows", torch.tensor(1))

    def forward(self, x: Any) -> Any:
        for _ in range(int(self.rows)):
            x = x * self.n.item() + 0.5
        return x


class Drop(nn.Module):
    """Random numbers: dropout of the module, noise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.noise = nn.Dropout(0.5), 0.0

    def forward(self, x: Any) -> Any:
        x = self.drop(x)
        if self.training and self.noise:
            x = x + torch.rand(WIDTH) * self.noise
        return x


class Skips(nn.Module):
    """Python's random numbers drop the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.chance = nn.Linear(WIDTH, WIDTH), 0.0

    def forward(self, x: Any) -> Any:
        if self.chance and random.random() < self.chance:
            return x
        return x + self.layer(x)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.scale = inner, 1.0

    def forward(self, x: Any) -> Any:
        return x + self.inner(x) * self.scale


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.conv(x.unsqueeze(1)).squeeze(1)


class Embed(nn.Module):
    """Rows for integers; others pass."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, WIDTH)

    def forward(self, x: Any) -> Any:
        if x.dtype == torch.int64:
            return self.table(x)
        return x + self.table.weight[0]


class Writes(nn.Module):
    """Its input is written to, which may be an argument, a buffer or a view of one."""

    def __init__(self) -> None:
        super().__init__()
        self.where = "all"

    def forward(self, x: Any) -> Any:
        if self.where == "all":
            x.add_(1)
        elif self.where == "step":
            x[..., ::2].mul_(0.5)
        elif self.where == "transposed":
            x.t()[1].copy_(x.t()[0])
        elif self.where == "row":
            x[:1] = 0.25
        elif self.where == "view":
            x.view(-1)[1:3].neg_()
        elif self.where == "iadd":
            x += 0.5
        return x


class Tries(nn.Module):
    """An operation fails on some inputs, after a write."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("tried", torch.zeros(()))
        self.register_buffer("weight", torch.ones(2, WIDTH))
        self.catches = True

    def forward(self, x: Any) -> Any:
        self.tried += 1
        if not self.catches:
            return x + self.weight
        try:
            return x + self.weight
        except RuntimeError:
            return x - 0.5


class Modes(nn.Module):
    """Contexts inside; tensors of the default dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.inside = nn.Linear(WIDTH, WIDTH), "no_grad"

    def forward(self, x: Any) -> Any:
        if self.inside == "no_grad":
            with torch.no_grad():
                x = self.layer(x)
        elif self.inside == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                x = self.layer(x)
        elif self.inside == "off":
            with torch.autocast("cpu", enabled=False):
                x = self.layer(x)
        else:
            x = self.layer(x)
        return x + torch.full((WIDTH,), 0.5)


class Many(nn.Module):
    """Submodules and parameters in lists and dicts; tensors in plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Linear(WIDTH, WIDTH), "b": nn.Tanh()})
        self.scales = nn.ParameterList([nn.Parameter(torch.rand(WIDTH)) for _ in range(2)])
        self.held = [torch.ones(WIDTH), 2.0]
        self.named = {"x": torch.ones(()), "y": 0.5}
        self.active = ["a", "b"]

    def forward(self, x: Any) -> Any:
        for number, name in enumerate(self.active):
            x = self.layers[name](x) * (number + 1)
        for scale, value in zip(self.scales, self.held):
            x = x * scale + value
        return x + sum(self.named.values())


class Reaches(nn.Module):
    """What is read is found in unusual ways."""

    def __init__(self) -> None:
        super().__init__()
        self.factors, self.name = {"one": 1.0, "two": 2.0}, "one"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("factor_"):
            return self.factors[name[7:]]
        return super().__getattr__(name)

    def forward(self, x: Any) -> Any:
        x = x * getattr(self, f"factor_{self.name}")
        if hasattr(self, "later"):
            x = x + self.later
        return x


def tanh(x: Any) -> Any:
    return torch.tanh(x)


class Asks(nn.Module):
    """What is asked of a tensor or of torch decides."""

    def __init__(self) -> None:
        super().__init__()
        self.asks = "contiguous"

    def forward(self, x: Any) -> Any:
        answers = {
            "contiguous": x.is_contiguous,
            "stride": lambda: x.stride(-1) > 1,
            "grad": lambda: x.requires_grad,
            "enabled": torch.is_grad_enabled,
            "inference": torch.is_inference_mode_enabled,
            "autocast": lambda: torch.is_autocast_enabled("cpu"),
            "default": lambda: torch.get_default_dtype() == torch.float64,
            "leaf": lambda: x.is_leaf,
            "view": lambda: x.size(0) == 1,
        }
        return x + 1 if answers[self.asks]() else x * 0.5


class Walks(nn.Module):
    """All parameters, buffers and modules are walked over."""

    total: Any = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Identity(), Counter()])

    def forward(self, x: Any) -> Any:
        for parameter in self.parameters():
            x = x + parameter.sum() * 0.25
        x = x * sum(isinstance(m, nn.Linear) for m in self.modules())
        x = x + sum(b.sum() for _, b in self.named_buffers()) + self.total
        return sum(layer(x) for layer in reversed(self.layers))


class Pair(NamedTuple):
    a: Any
    b: Any


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Slots({self.value})"


class Objects(nn.Module):
    """Other kinds of containers and objects."""

    def __init__(self) -> None:
        super().__init__()
        self.couple, self.slots = Pair(1.0, 2.0), Slots(0.5)
        self.names, self.kinds = {"b": 1.0, "a": 2.0}, frozenset({"a"})
        self.part = functools.partial(defaults, shift=0.25)

    def forward(self, x: Any) -> Any:
        x = self.part(x) * self.couple.a + self.slots.value
        for number, name in enumerate(sorted(self.names)):
            x = x * self.names[name] + number
        for value in self.names.values():
            x = x * 0.5 + value
        return -x if "a" in self.kinds else x


class Overlap(nn.Module):
    """Two buffers share memory; one is written to, then the other read."""

    def __init__(self) -> None:
        super().__init__()
        base = torch.zeros(3 * WIDTH)
        self.register_buffer("a", base[: 2 * WIDTH])
        self.register_buffer("b", base[WIDTH:])

    def forward(self, x: Any) -> Any:
        self.a.add_(1)
        x = x + self.b[:WIDTH]
        self.b[:WIDTH].mul_(0.5)
        return x + self.a[-WIDTH:]


class Raises(nn.Module):
    """Some values are an error, after a write."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("tries", torch.zeros(()))
        self.limit = 3.0

    def forward(self, x: Any) -> Any:
        self.tries += 1
        if x.dtype.itemsize > 2 and x.numel() and x.amax() > self.limit:
            raise ValueError(f"too large for {self.limit}")
        self.tries += 1
        return x * 0.5


class While(nn.Module):
    """The values decide how often; what is chosen has a size of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.selects = 0.937, False

    def forward(self, x: Any) -> Any:
        if x.dtype.itemsize <= 2 or not x.numel():
            return x
        for _ in range(3):
            if not x.abs().amax() > self.limit:
                break
            x = x * 0.5
        if self.selects:
            x = x + x[x > self.limit - 0.7].sum()
        return x


class Tallies(nn.Module):
    """Integers and booleans are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(WIDTH, dtype=torch.bool))
        self.register_buffer("wraps", torch.full((), 250, dtype=torch.uint8))
        self.register_buffer("hits", torch.zeros(3, dtype=torch.int64))

    def forward(self, x: Any) -> Any:
        self.wraps += 2
        self.hits.index_add_(0, torch.tensor([0, 2, 0]), torch.ones(3, dtype=torch.int64))
        self.seen.logical_xor_(self.hits[0] % 4 == 0)
        return torch.where(self.seen, x, -x) + self.wraps * 0.25 - self.hits[-1] // 3


class Calls(nn.Module):
    """A function is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.act: Any = functional.gelu

    def forward(self, x: Any) -> Any:
        return self.act(x)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "norm": lambda: nn.LayerNorm(WIDTH, eps=0.1),
    "batch": lambda: nn.BatchNorm1d(WIDTH, eps=0.1),
    "residual": lambda: Residual(nn.Linear(WIDTH, WIDTH)),
    "plain residual": lambda: Residual(Plain()),
    "written residual": lambda: Residual(Writes()),
    "sequential": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.25)),
    **{
        cls.__name__.lower(): cls
        for cls in (
            *(Plain, Outer, Counter, Average, Cache, Grows, Steps, Keeps, Branch, Number, Drop),
            *(Skips, Conv, Embed, Writes, Tries, Modes, Many, Reaches, Calls),
            *(Asks, Walks, Objects, Overlap, Raises, While, Tallies),
        )
    },
}

ENDINGS = (
    *("plain", "tuple", "dict", "transposed", "row", "expanded", "argument", "state", "shared"),
    *("settings", "list", "written", "kept list"),
)


class Net(nn.Module):
    """Blocks by name, in an order that is an attribute; then one of several kinds of results."""

    def __init__(self, blocks: dict[str, nn.Module], ending: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)
        self.order = list(blocks)
        self.ending, self.scale = ending, 1.0
        self.results: list[Any] = []
        self.register_buffer("last", torch.zeros(2, WIDTH))

    def forward(self, x: Any, y: Any = None, mode: Any = None, *, scale: Any = 1.0) -> Any:
        given = x
        for name in self.order:
            x = self.blocks[name](x)
        if y is not None:
            x = self.second(x, y, mode)
            if mode == "is":
                x = x * (2 if y is given else 3 if y is self.last else 4)
        return self.end(x * self.scale * scale if self.scale != 1.0 else x, given, mode)

    def second(self, x: Any, y: Any, mode: Any) -> Any:
        """Use of the second argument."""
        if isinstance(y, list):
            y = y[0] + len(y) if mode != "write" else y[-1].add_(1)
        elif isinstance(y, dict):
            y = y["y"]
        if mode == "write":
            y.add_(x)
        elif mode == "write first":
            y.mul_(0.5)
        elif mode is Mode.MUL:
            return x * y
        elif isinstance(mode, tuple):
            return x + y * mode[0]
        return x + y

    def end(self, x: Any, given: Any, mode: Any) -> Any:
        """The result."""
        ending = self.ending
        if ending == "tuple":
            return x, x[:1], mode
        if ending == "dict":
            return {"x": x, "given": given, "n": x.shape[0], "mode": mode}
        if ending == "transposed":
            return x.t()
        if ending == "row":
            return x[-1:].view(-1), None
        if ending == "expanded":
            return x.unsqueeze(0).expand(2, *x.shape)
        if ending == "argument":
            return x, given, given[:1]
        if ending == "state":
            return self.last, self.last[1:], x
        if ending == "shared":
            both = torch.cat([x, x])
            return both[:1], both[1:], both.unsqueeze(0)
        if ending == "settings":
            return Settings(x, (given, 1.0), None)
        if ending == "list":
            return [x, [x.clone(), self.scale], x]
        if ending == "written" and x.shape[0]:
            self.last.copy_(x[0])
            return x * 2
        if ending == "kept list":
            return self.results
        return x


def run(net: Any, x: Any, y: Any = None, mode: Any = None, *, scale: Any = 1.0) -> Any:
    """A function with a module among its arguments."""
    return net(x, y, mode, scale=scale)


@dataclass(frozen=True)
class Spec:
    """A module to build: names in BLOCKS, one of ENDINGS, and what of it is compiled ("module",
    "method" or "function")."""

    blocks: tuple[str, ...]
    ending: str = "plain"
    how: str = "module"
    training: bool = False

    def build(self) -> Net:
        """The module, always with the same numbers."""
        torch.manual_seed(len(self.blocks))
        made = {f"{n}": BLOCKS[name]() for n, name in enumerate(self.blocks)}
        return Net(made, self.ending).requires_grad_(False).train(self.training)

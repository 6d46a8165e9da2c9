"""Programs about Python around the tensors, torch.nn's own modules, and rarer tensor operations."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import functools
import itertools
import operator
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import tracejit
from tests.executors import BACKEND

from .programs_state import frozen, t
from .support import Program, Wrap, attempt

PROGRAMS: dict[str, Program] = {}


def repeat(name: str, function: Any, *makes: Callable[[], tuple[Any, ...]], **more: Any) -> None:
    def run(c: Wrap) -> Iterator[Any]:
        f = c(function() if more.get("module") else function)
        for make in makes:
            for _ in range(3):
                args = make()
                yield attempt(f, *args), args

    PROGRAMS[name] = run


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def a3() -> tuple[Any, ...]:
    return (t(3),)


def m33() -> tuple[Any, ...]:
    return (t(3, 3),)


for name, f in {
    "storage offset": lambda x: x.storage_offset(),
    "data_ptr": lambda x: x.data_ptr() % 2 + x,
    "version": lambda x: x._version,
    "nbytes": lambda x: x.untyped_storage().nbytes(),
    "id": lambda x: x + (id(x) > 0),
    "repr": lambda x: (repr(x), f"{x}", x * 2),
    "format number": lambda x: f"{x.sum():.3f}",
    "float": lambda x: float(x.sum()),
    "equal": lambda x: torch.equal(x, x + 1) or torch.allclose(x, x * 1.0),
    "max of list": lambda x: max([x[0], x[1], x[2]]),
    "sorted": lambda x: sorted(x, key=lambda v: -v),
    "sum of list": lambda x: sum([x, x, x * 2]) + functools.reduce(operator.add, [x, x]),
    "any": lambda x: any(v > 0 for v in x),
    "in list": lambda x: 1.0 in x,
    "len": lambda x: len(x) * x + x.ndim,
    "index tensor": lambda x: (x[torch.tensor(1)], x[x.argmax()], x[[0, 1]], x[None], x[..., None]),
    "range": lambda x: x * sum(range(int((x > 0).sum()))),
    "initial seed": lambda x: x + torch.initial_seed() % 7,
    "rng state": lambda x: x + torch.get_rng_state()[:3].float(),
    "fork_rng": lambda x: fork(x),
    "time": lambda x: x + 0 * time.time(),
    "environ": lambda x: x + len(os.environ.get("HOME", "")),
    "warn": lambda x: (warnings.warn("here", stacklevel=1), x * 2)[1],
    "view then write": lambda x: view_then_write(x),
    "copy of own transpose": lambda x: x.copy_(x * 2) if x.dim() == 1 else x.copy_(x.t()),
    "requires_grad_": lambda x: (x.requires_grad_(), x * 2)[0],
    "where one": lambda x: torch.where(x > 0),
    "shift negative": lambda x: (x * 10).to(torch.int32) << 2,
    "casts": lambda x: (
        (x * 300).to(torch.uint8) if bool((x > 0).all()) else x.abs().to(torch.uint8),
        (x * 3).to(torch.int8),
        x.bool(),
        x.half().int(),
        x.bool() + 1,
        x.bool() + True,
    ),
    "is": lambda x: x.float() is x and x.contiguous() is x and x.to("cpu") is x,
    "returns self": lambda x: (x.float(), x.contiguous(), x.to(x), x.view_as(x), x.clone()),
    "jit": lambda x: scripted(x),
    "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False),
    "autograd function": lambda x: Double.apply(x) + 1,
    "meta": lambda x: x.to("meta").shape[0] + x,
    "sparse": lambda x: x.to_sparse().to_dense() * 2,
    "float8": lambda x: x.to(torch.float8_e4m3fn).to(torch.float32) + 1,
    "item in output": lambda x: {"loss": x.sum().item(), "n": x.numel(), "x": x * 2},
    "user context": lambda x: in_context(x),
    "contextvar": lambda x: x * VAR.get(),
    "lru": lambda x: x + cached(3),
    "lru returned": lambda x: (x + 1, cached(3)),
    "global cache": lambda x: x + global_cache(3),
    "numpy global": lambda x: x * float(ARRAY[0]),
    "numpy scalar": lambda x: x * SCALAR,
    "inner compiled": lambda x: inner(x) + 1,
    "bfloat sum": lambda x: x.bfloat16().repeat(500).sum(),
    "cumulative": lambda x: (x.cumsum(0), x.cumprod(0), x.cummax(0), x.logcumsumexp(0)),
    "linspace": lambda x: (torch.linspace(0, 1, 5), torch.eye(3), torch.full((2,), 3), x),
    "new": lambda x: (
        x.new_zeros(2),
        x.new_tensor([1, 2]),
        torch.zeros_like(x),
        x.new_full((1,), 2),
    ),
    "empty like": lambda x: torch.empty_like(x).copy_(x),
    "uninitialised then filled": lambda x: filled(x),
    "try except finally": lambda x: guarded(x),
    "set of names": lambda x: [x * len(n) for n in {"aa", "b", "ccc"}].__len__(),
    "unused": lambda x: (x.sin(), None)[1],
    "exec": lambda x: eval("x * 2 + FACTOR", {"x": x, "FACTOR": 2}),
}.items():
    repeat(name, f, a3)
for name, f in {
    "diagonal": lambda x: (x.diagonal().fill_(0), x.diagonal(1).add_(1), x + 1)[2],
    "add transpose": lambda x: x.add_(x.t().clone()),
    "add own transpose": lambda x: x.add_(x.t()),
    "copy transpose": lambda x: x.copy_(x.t()),
    "mask put": lambda x: x.__setitem__(x > 0, torch.tensor(5.0)),
    "mask put values": lambda x: x.__setitem__(x > 100, x[x > 100] * 2),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "duplicate index": lambda x: x.__setitem__([0, 0, 1], x[[0, 1, 1]] + 1),
    "nested slices": lambda x: (x[1:][:, 1:].__setitem__(0, 7.0), x[-1], x[::2, ::2] * 2),
    "split": lambda x: (*x.split(2), *x.unbind(1), *x.chunk(2, 1), *x.tensor_split(2)),
    "unfold": lambda x: (x.unfold(1, 2, 1) * 2, x.as_strided((2, 2), (1, 1)) * 1),
    "eig": lambda x: (
        torch.linalg.det(x),
        torch.linalg.norm(x),
        torch.linalg.inv(x + 5 * torch.eye(3)),
    ),
    "stats": lambda x: (x.std(), x.var(0, unbiased=False), x.median(), x.mode(0), x.quantile(0.5)),
    "max dims": lambda x: (x.max(), x.max(0), x.amax((0, 1)), x.argmax(), x.aminmax(dim=0)),
    "cdist": lambda x: (torch.cdist(x, x), functional.cosine_similarity(x, x + 1), x.norm(dim=1)),
    "losses": lambda x: (
        functional.mse_loss(x, x * 2),
        functional.cross_entropy(x, torch.tensor([0, 2, 1])),
        functional.kl_div(x, x.exp(), reduction="batchmean"),
        functional.huber_loss(x, -x),
    ),
    "interpolate": lambda x: functional.interpolate(x[None, None], scale_factor=2, mode="bilinear"),
    "pool": lambda x: (
        functional.max_pool2d(x[None], 2),
        functional.avg_pool2d(x[None], 2),
        functional.adaptive_avg_pool2d(x[None], 1),
    ),
    "sdpa": lambda x: functional.scaled_dot_product_attention(
        x[None], x[None], x[None], is_causal=True
    ),
    "sdpa dropout": lambda x: functional.scaled_dot_product_attention(
        x[None], x[None], x[None], dropout_p=0.5
    ),
    "repeat": lambda x: (x.repeat(2, 1), x.repeat_interleave(2, 0), x.tile(2), x.expand(2, 3, 3)),
    "out view": lambda x: torch.mul(x[0], 2, out=x[1]),
    "sort": lambda x: (
        x.sort(descending=True),
        x.argsort(1),
        x.topk(2, largest=False),
        x.kthvalue(2),
    ),
    "meshgrid": lambda x: torch.meshgrid(x[0], x[1], indexing="ij"),
    "normalise": lambda x: functional.normalize(x) + functional.layer_norm(x, (3,)),
    "foreach": lambda x: torch._foreach_add([x, x + 1], 1.0),
    "foreach in place": lambda x: torch._foreach_mul_([x, x.clone()], 2.0),
    "index tensors": lambda x: (
        x[torch.tensor([0, 1]), torch.tensor([1, 2])],
        x[:, [0, 2]],
        x[[0]][:, None],
    ),
    "bool index dim": lambda x: x[torch.tensor([True, False, True])],
    "addmm": lambda x: (
        torch.addmm(x, x, x, beta=0.5),
        torch.baddbmm(x[None], x[None], x[None]),
        x.addcmul(x, x, value=2),
    ),
}.items():
    repeat(name, f, m33)


VAR: contextvars.ContextVar[float] = contextvars.ContextVar("VAR", default=2.0)
ARRAY, SCALAR = numpy.array([2.0]), numpy.float32(3.0)
CACHE: dict[int, Any] = {}


def fork(x: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = torch.rand(3)
    return x + y


def view_then_write(x: Any) -> Any:
    y = x[:2]
    z = y + 0
    x.add_(1)
    return y, z, y * 2


@torch.jit.script
def scripted(x):  # type: ignore
    if bool(x.sum() > 0):
        return x * 2
    return x - 1


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 2


@contextlib.contextmanager
def scaled(x: Any) -> Iterator[Any]:
    yield x * 2


def in_context(x: Any) -> Any:
    with scaled(x) as y, contextlib.suppress(KeyError):
        y = y + 1
        raise KeyError
    return y


@functools.lru_cache
def cached(n: int) -> Any:
    return torch.ones(n) * 2


def global_cache(n: int) -> Any:
    if n not in CACHE:
        CACHE[n] = torch.ones(n)
    return CACHE[n]


def filled(x: Any) -> Any:
    y = torch.empty(4)
    y[:3] = x
    y[3] = 0
    return y


def guarded(x: Any) -> Any:
    try:
        try:
            y = x.view(7)
        finally:
            x.add_(1)
    except RuntimeError as error:
        return x * 2, str(error)
    return y


inner = tracejit.compile(lambda x: x * 3, backend=BACKEND, wait=True)


@tracejit.compile(backend=BACKEND, wait=True)
def inner_named(x: Any) -> Any:
    return x * 3


repeat("inner compiled, named", lambda x: inner_named(x) + 1, a3)


@program
def attributes_of_functions(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        f.calls += 1  # type: ignore
        return x * f.scale  # type: ignore

    f.calls, f.scale = 0, 2.0  # type: ignore
    g = c(f)
    for s in (2.0, 2.0, 3.0):
        f.scale = s  # type: ignore
        yield g(t(3)), f.calls  # type: ignore


@program
def metadata_changes(c: Wrap) -> Iterator[Any]:
    f = c(lambda x: (x.storage_offset(), x * 2))
    base = t(10)
    yield f(base[:3]), f(base[2:5]), f(base[2:5]), f(base[:3])
    g = c(lambda x: (x.untyped_storage().nbytes(), x * 2))
    yield g(base[:3]), g(t(3)), g(base[:3])
    h = c(lambda x: (x._is_view(), x._base is None, x.is_leaf, x * 2))
    yield h(base[:3]), h(t(3)), h(base[:3]), h(t(3))
    k = c(lambda x: (x[1:] if x.is_contiguous() else x, x.is_contiguous()))
    yield k(base[:4]), k(base[::2]), k(base[:4])
    k = c(lambda x, y: x * 2 if x.data_ptr() == y.data_ptr() else x + y)
    yield k(base, base), k(base, base), k(base, t(10)), k(base, base[:])


@program
def cached_helper(c: Wrap) -> Iterator[Any]:
    scale = [2.0]

    @functools.lru_cache
    def helper(n: int) -> float:
        return n * scale[0]

    f, x = c(lambda x: x * helper(3)), t(3)
    yield f(x), f(x)
    scale[0] = 5.0
    yield f(x), f(x)
    helper.cache_clear()
    yield f(x), f(x)


@program
def memo_written(c: Wrap) -> Iterator[Any]:
    memo: dict[Any, Any] = {}

    def f(x: Any) -> Any:
        if "w" not in memo:
            memo["w"] = torch.ones(3)
        return x + memo["w"]

    g = c(f)
    yield g(t(3)), memo, g(t(3)), memo
    memo["w"].add_(1)
    yield g(t(3)), g(t(3)), memo
    memo.clear()
    yield g(t(3)), memo, g(t(3)), memo


@program
def builtin_subclasses(c: Wrap) -> Iterator[Any]:
    f = c(lambda x, n: x * n)
    x = t(3)
    for kind, values in ((MyInt, (2, 3)), (MyFloat, (2.0, 3.0)), (numpy.float64, (2.0, 3.0))):
        for value in values:
            yield f(x, kind(value)), f(x, kind(value))
    g = c(lambda x, n: x * len(n) if n == "ab" else x)
    yield g(x, MyStr("ab")), g(x, MyStr("cd")), g(x, MyStr("ab"))
    h = c(lambda x, a: x * float(a[0]))
    yield h(x, numpy.array([1.0])), h(x, numpy.array([2.0]))
    yield (
        h(x, bytearray(b"a")),
        h(x, bytearray(b"b")),
        h(x, memoryview(b"a")),
        h(x, memoryview(b"b")),
    )
    k = c(lambda x, d: x * float(d))
    import decimal
    import fractions

    for v in (
        decimal.Decimal(2),
        decimal.Decimal(3),
        fractions.Fraction(1, 2),
        fractions.Fraction(1, 3),
    ):
        yield k(x, v), k(x, v)


class MyInt(int):
    pass


class MyFloat(float):
    pass


class MyStr(str):
    pass


@program
def containers(c: Wrap) -> Iterator[Any]:
    f = c(lambda x, s: x * sum(s) + len(s))
    x = t(3)
    for s in (
        {1, 2},
        {1, 3},
        frozenset({1, 2}),
        collections.deque([1, 2]),
        collections.deque([1, 3]),
        [1, 2],
        (1, 3),
        range(3),
        range(4),
        {1: 2}.keys(),
        {3: 2}.keys(),
        {1: 2}.values(),
        {1: 5}.values(),
    ):
        yield f(x, s), f(x, s)
    g = c(lambda x, d: x * d["missing"])
    d = collections.defaultdict(lambda: 2.0)
    yield g(x, d), dict(d), g(x, d), dict(d)
    counter = collections.Counter("aab")
    yield g(x, counter), g(x, counter), dict(counter)


@program
def getattr_presence(c: Wrap) -> Iterator[Any]:
    class Proxy:
        def __init__(self) -> None:
            self.held = {"scale": 2.0}

        def __getattr__(self, name: str) -> Any:
            try:
                return self.__dict__["held"][name]
            except KeyError:
                raise AttributeError(name) from None

    p, x = Proxy(), t(3)
    f = c(lambda x: x * p.scale)
    yield f(x), f(x)
    p.held["scale"] = 3.0
    yield f(x), f(x)
    p.scale = 9.0
    yield f(x), f(x)
    del p.scale
    yield f(x)
    Proxy.scale = 5.0  # type: ignore
    yield f(x)


def layers(name: str, make: Callable[[], nn.Module], *inputs: Any) -> None:
    def run(c: Wrap) -> Iterator[Any]:
        m = frozen(make())
        f = c(m)
        for training in (False, False, True, True, True, False):
            m.train(training)
            yield attempt(f, *(i.clone() for i in inputs)), m.state_dict()

    PROGRAMS[f"layer {name}"] = run


torch.manual_seed(0)
layers("lstm", lambda: nn.LSTM(3, 4, num_layers=2, dropout=0.5), t(5, 2, 3))
layers("gru", lambda: nn.GRU(3, 4, bidirectional=True, batch_first=True), t(2, 5, 3))
layers(
    "attention",
    lambda: nn.MultiheadAttention(8, 2, dropout=0.1),
    t(3, 2, 8),
    t(3, 2, 8),
    t(3, 2, 8),
)
layers("encoder", lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), t(2, 3, 8))
layers("decoder", lambda: nn.TransformerDecoderLayer(8, 2, 16), t(3, 2, 8), t(4, 2, 8))
layers("max norm", lambda: nn.Embedding(5, 3, max_norm=1.0), torch.tensor([0, 2, 4]))
layers("padding", lambda: nn.Embedding(5, 3, padding_idx=0), torch.tensor([0, 2, 4]))
layers("cumulative norm", lambda: nn.BatchNorm1d(3, momentum=None), t(4, 3))
layers("untracked norm", lambda: nn.BatchNorm1d(3, track_running_stats=False), t(4, 3))
layers(
    "instance norm", lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True), t(2, 3, 4)
)
layers(
    "group norm", lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.PReLU(), nn.Softmax(1)), t(2, 4, 5)
)
layers("spectral norm", lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), t(2, 3))
layers("weight norm", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), t(2, 3))
layers(
    "conv",
    lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout2d(),
        nn.ConvTranspose2d(4, 2, 2),
    ),
    t(2, 3, 6, 6),
)
layers(
    "rrelu",
    lambda: nn.Sequential(nn.RReLU(), nn.AlphaDropout(0.3), nn.GELU(), nn.Hardswish()),
    t(2, 3),
)
layers(
    "losses",
    lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    t(4, 3),
    torch.tensor([0, 1, 2, -100]),
)
layers("parameter list", lambda: Listed(), t(3))
layers(
    "inplace",
    lambda: nn.Sequential(nn.ReLU(True), nn.LeakyReLU(0.1, True), nn.Dropout(0.5, True)),
    t(2, 3),
)


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ps = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))])
        self.pd = nn.ParameterDict({"a": nn.Parameter(torch.ones(3))})
        self.bufs = [torch.ones(3), torch.ones(3)]

    def forward(self, x: Any) -> Any:
        for p in self.ps:
            x = x * p
        self.bufs[0].add_(1)
        return x + self.pd["a"] + self.bufs[0] + self.bufs[-1]


@program
def module_lists(c: Wrap) -> Iterator[Any]:
    m = frozen(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    f, x = c(m), t(2, 3)
    yield f(x), f(x)
    m.append(nn.Tanh())
    yield f(x), f(x)
    del m[0]
    yield f(x), f(x)
    m[0] = nn.Identity()
    yield f(x)
    m.insert(0, nn.Sigmoid())
    yield f(x)
    nn.init.constant_(frozen(nn.Linear(1, 1)).weight, 1.0)
    m.add_module("extra", frozen(nn.Linear(3, 2)))
    yield f(x), f(x)
    prune.random_unstructured(m.extra, "weight", 0.5)
    m.requires_grad_(False)
    yield f(x), f(x)


@program
def ambient(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        y = x * 2
        if torch.is_inference_mode_enabled():
            y = y + 1
        if torch.is_autocast_enabled("cpu"):
            y = y + 10
        if torch.is_grad_enabled():
            y = y + 100
        if torch.get_default_dtype() is torch.float64:
            y = y + 1000
        return y + torch.is_anomaly_enabled()

    g, x = c(f), t(3)
    for context in (
        contextlib.nullcontext, torch.no_grad, torch.inference_mode, torch.autograd.detect_anomaly,
        lambda: torch.autocast("cpu", torch.bfloat16),
    ):  # fmt: skip
        with context():
            yield g(x), g(x)
    yield g(x)
    VAR.set(2.0)


@program
def hidden_views(c: Wrap) -> Iterator[Any]:
    """An output that the caller writes to must not change what later calls see."""
    w = torch.ones(3)
    f = c(lambda x: (w[:], w.expand(2, 3), x + w))
    y, z, s = f(t(3))
    y.mul_(2)
    yield f(t(3)), w
    y, z, s = f(t(3))
    y.mul_(2)
    yield f(t(3)), w, f(t(3))
    g = c(lambda n: torch.zeros(3) + n)
    a = g(1)
    b = g(1)
    b.add_(5)
    yield a, b, g(1)
    h = c(lambda x: (torch.ones(3), torch.tensor([1.0, 2.0]), torch.arange(3), x))
    for _ in range(3):
        out = h(1)
        for o in out[:3]:
            o.zero_()
        yield out
    yield h(1)


@program
def keep_outputs(c: Wrap) -> Iterator[Any]:
    """Outputs stay as they are when the function is called again."""
    f = c(lambda x: ((x * 2).softmax(-1), x.sum(), x.cumsum(0)[1:]))
    kept = [f(t(3, 4)) for _ in range(4)]
    yield kept


@program
def writes_then_reads(c: Wrap) -> Iterator[Any]:
    def f(cache: Any, x: Any, pos: Any) -> Any:
        cache.index_copy_(0, pos, x)
        k = cache[: int(pos[-1]) + 1]
        return k @ k.t(), k

    g = c(f)
    cache = torch.zeros(6, 3)
    for p in (0, 1, 2, 1, 2, 1):
        yield g(cache, t(1, 3), torch.tensor([p])), cache
    yield attempt(g, cache, t(1, 3), torch.tensor([9])), cache


@program
def positions(c: Wrap) -> Iterator[Any]:
    count, deque, it = itertools.count(1), collections.deque([1, 2]), iter("abcdefgh")
    f, g = c(lambda x: x * next(count)), c(lambda x: (deque.append(1), x * len(deque))[1])
    h, k = c(lambda x: x * ord(next(it))), c(lambda x, i: x * next(i))
    x, zipped = t(3), zip((1, 2, 3), "abc", strict=True)
    for _ in range(3):
        yield f(x), g(x), h(x), deque, k(x, itertools.cycle([2, 3])), attempt(k, x, zipped)[:1]


@program
def thread_counts(c: Wrap) -> Iterator[Any]:
    f, x, before = c(lambda x: x * torch.get_num_threads()), t(3), torch.get_num_threads()
    yield f(x), f(x)
    torch.set_num_threads(before + 1)
    try:
        yield f(x), f(x)
    finally:
        torch.set_num_threads(before)


@program
def lazy(c: Wrap) -> Iterator[Any]:
    m = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    f = c(m)
    with torch.no_grad():
        yield f(t(2, 3)), f(t(2, 3)), m.state_dict(), f(t(2, 3))


@program
def class_grows(c: Wrap) -> Iterator[Any]:
    class H:
        pass

    h, x = H(), t(3)
    f = c(lambda x: x * getattr(h, "scale", 1.0) + hasattr(h, "extra"))
    yield f(x), f(x)
    H.scale = 3.0  # type: ignore
    yield f(x), f(x)
    H.extra = 3.0  # type: ignore
    yield f(x), f(x)
    del H.scale  # type: ignore
    yield f(x), f(x)


@program
def slots(c: Wrap) -> Iterator[Any]:
    class S:
        __slots__ = ("scale", "extra")

    s, x = S(), t(3)
    s.scale = 2.0
    f = c(lambda x: x * s.scale + getattr(s, "extra", 0.0))
    yield f(x), f(x)
    s.scale = 3.0
    yield f(x), f(x)
    s.extra = 5.0
    yield f(x), f(x)
    del s.extra
    yield f(x)


@program
def descriptors(c: Wrap) -> Iterator[Any]:
    class D:
        def __get__(self, o: Any, k: Any) -> Any:
            return o.__dict__["raw"] * 2

    class H:
        scale = D()

        @functools.cached_property
        def once(self) -> float:
            return self.raw + 1

        @staticmethod
        def stat(x: Any) -> Any:
            return x + 1

        @classmethod
        def cm(cls, x: Any) -> Any:
            return x + cls.base

        base = 1.0

    h, x = H(), t(3)
    h.raw = 2.0
    f = c(lambda x: h.cm(h.stat(x)) * h.scale)
    g = c(lambda x: x * h.once)
    yield f(x), f(x), g(x), g(x)
    h.raw = 4.0
    yield f(x), f(x), g(x), g(x)
    del h.once
    yield g(x), g(x)
    H.base = 7.0
    yield f(x), f(x)
    H.stat = staticmethod(lambda x: x + 9)  # type: ignore
    yield f(x), f(x)
    H.cm = classmethod(lambda cls, x: x - 9)  # type: ignore
    yield f(x), f(x)


class Tools:
    base = 1.0

    @staticmethod
    def twice(x: Any) -> Any:
        return x * 2

    @classmethod
    def more(cls, x: Any) -> Any:
        return x + cls.base

    def both(self, x: Any) -> Any:
        return self.more(self.twice(x))


@program
def static_methods(c: Wrap) -> Iterator[Any]:
    h, x = Tools(), t(3)
    f, g = c(lambda x: h.both(x)), c(lambda x: Tools.more(Tools.twice(x)))
    yield f(x), f(x), g(x), g(x)
    h.twice = lambda x: x * 0  # type: ignore
    yield f(x), f(x), g(x), g(x)
    h.more = lambda x: x + 100  # type: ignore
    yield f(x), f(x), g(x)
    del h.twice, h.more
    yield f(x), g(x)
    old = Tools.__dict__["twice"]
    Tools.twice = staticmethod(lambda x: x * 7)  # type: ignore
    yield f(x), f(x), g(x), g(x)
    Tools.twice = old  # type: ignore
    yield f(x), g(x)


@program
def method_shadowed(c: Wrap) -> Iterator[Any]:
    """A C function or a library's, held by a class and then by the instance."""

    class H:
        act = torch.relu
        other = functional.gelu
        prop = property(lambda self: 2.0)

        def run(self, x: Any) -> Any:
            return H.act(x) + H.other(x) * self.prop

    h, x = H(), t(3)
    f = c(h.run)
    yield f(x), f(x)
    H.act = torch.sigmoid
    yield f(x), f(x)
    H.other = functional.silu
    yield f(x), f(x)
    H.prop = property(lambda self: 3.0)  # type: ignore
    yield f(x), f(x)
    H.run = lambda self, x: x  # type: ignore
    yield c(h.run)(x)

"""Hand-built loop nests, and running them: on every target that runs here (`tests/executors.py`),
and on the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from tests.executors import TARGETS
from tracejit.codegen.generators import generator_for
from tracejit.codegen.native import strategy as native_strategy
from tracejit.codegen.triton.strategy import Strategy
from tracejit.fuse import reference
from tracejit.fuse.index import Axis, Index, Indirect
from tracejit.fuse.loopnest import Buffer, LoopNest, Store, roots_of
from tracejit.fuse.scalar import Load, Scalar, in_order, make
from tracejit.ir.dtypes import TORCH
from tracejit.ir.graph import Origin
from tracejit.runtime import cpu, devices
from tracejit.runtime.targets import kind_of

Tensors = dict[str, torch.Tensor]


# Triton's ways through a nest with reductions: held whole, several rows at once; a row at a time;
# and in chunks that do and do not divide the columns.
STRATEGIES = {
    "rows": Strategy("persistent", 4, 128),
    "row": Strategy("persistent", 1, 128),
    "chunks": Strategy("looped", 4, 16),
    "row-chunks": Strategy("looped", 1, 32),
    "wide-chunks": Strategy("looped", 2, 256),
}


def triton_way(nest: LoopNest, how: str, target: str) -> Strategy | None:
    """Triton's way; None where the nest has no such."""
    if how == "blocks":
        return Strategy("pointwise", 32)
    return STRATEGIES.get(how) if nest.reduction else None


def native_way(nest: LoopNest, how: str, target: str) -> native_strategy.Strategy | None:
    """The native counterpart: lanes along a parallel or a reduction axis, several registers at
    once, rows split; None where the nest has no such way."""
    body, level = list(nest.body()), cpu.level_of(target)
    wanted = "rows" in how or how == "chunks" or how == "blocks"
    axes = [a for a in native_strategy.candidates(nest) if a.reduce != wanted]
    if how == "chosen" or not axes:
        return None
    vector = axes[0]
    narrow = level.lanes(native_strategy.element_bits(body, nest, vector))
    scans = any(s.op == "scan" for s in body)
    wide = how == "wide-chunks" and vector.size >= 2 * narrow and not scans
    lanes = 2 * narrow if wide else narrow
    chunk = 0
    if "chunks" in how and not scans:
        first = nest.reduction[0] if nest.reduction else None
        unit = lanes if first == vector else 1
        chunk = unit * max(1, first.size // (3 * unit)) if first else 0
        chunk = chunk if first and chunk * 2 <= first.size else 0
    block = 0 if vector.reduce else lanes
    return native_strategy.Strategy(vector, lanes, narrow, block, chunk, 100.0)


# Kind of target -> (nest, how, target) -> what its generator takes for `strategy`. A generator with
# one way through a nest has no row.
WAYS: dict[str, Callable[[LoopNest, str, str], Any]] = {
    "interpret": triton_way,
    "native": native_way,
}


class Nests:
    """Shorthand for tests. `target`: where `run` runs."""

    def __init__(self, target: str = "interpret") -> None:
        self.target = target

    @staticmethod
    def axes(**sizes: int) -> tuple[Index, ...]:
        """Axes by name; those whose name begins with r, s or t are reduced. One of a single step is
        0, and no axis.
        """
        return tuple(Index.of(Axis(n, s, n[0] in "rst")) for n, s in sizes.items())

    @staticmethod
    def load(
        buffer: str, index: Index | int, dtype: str = "f32", mask: Scalar | None = None
    ) -> Scalar:
        masks = () if mask is None else (mask,)
        return make("load", *masks, arg=Load(buffer, Index.of(index)), dtype=dtype)

    @staticmethod
    def reduce(name: str, value: Scalar) -> Scalar:
        dtype = "i64" if name.startswith("arg") else value.dtype
        return make("reduce", value, arg=name, dtype=dtype)

    @staticmethod
    def scan(name: str, value: Scalar) -> Scalar:
        return make("scan", value, arg=name)

    @staticmethod
    def nest(
        axes: Sequence[Index],
        stores: Mapping[str, tuple[Index | int, Scalar]],
        lines: Mapping[Scalar, Origin] | None = None,
        spans: Mapping[str, int] | None = None,
        masks: Mapping[str, Scalar] | None = None,
    ) -> LoopNest:
        """A nest over `axes` with one store for each name; buffers follow from loads and stores."""
        written = [
            Store(name, Index.of(index), value, (masks or {}).get(name))
            for name, (index, value) in stores.items()
        ]
        found: dict[str, Buffer] = {}
        for scalar in in_order(roots_of(written)):
            if isinstance(scalar.arg, Load):
                name, index = scalar.arg.buffer, scalar.arg.index
                span = max(index.bounds()[1] + 1, found[name].span if name in found else 0)
                found[name] = Buffer(name, scalar.dtype, (spans or {}).get(name, span))
        for store in written:
            span = (spans or {}).get(store.buffer, store.index.bounds()[1] + 1)
            found[store.buffer] = Buffer(store.buffer, store.value.dtype, span, written=True)
        line_of = {scalar.key: origin for scalar, origin in (lines or {}).items()}
        origins = tuple(dict.fromkeys((lines or {}).values()))
        plain = tuple(a for index in axes for a in index.axes())
        return LoopNest("nest", plain, tuple(found.values()), tuple(written), origins, line_of)

    def run(self, nest: LoopNest, inputs: Tensors, how: str = "chosen") -> Tensors:
        """The outputs of the generated kernel, as flat tensors."""
        return self._on(self.kernel(nest, "kernel", how), nest, inputs)

    def kernel(self, nest: LoopNest, name: str, how: str = "chosen") -> devices.Launchable:
        """The kernel of that name, generated `how`, ready to be called."""
        kind, options = kind_of(self.target), {}
        if kind in WAYS:
            options["strategy"] = WAYS[kind](nest, how, self.target)
        generator = generator_for(kind)
        source = generator.source(nest, name, target=self.target, **options)
        if generator.compile is None:
            return devices.load(source)
        (binary,) = generator.compile([source], target=self.target)
        return devices.load(source, binary)

    @staticmethod
    def expect(nest: LoopNest, inputs: Tensors) -> Tensors:
        """The outputs by the reference executor, as flat tensors."""
        return Nests._on(devices.load(reference.source(nest, "kernel")), nest, inputs)

    @staticmethod
    def _on(kernel: devices.Launchable, nest: LoopNest, inputs: Tensors) -> Tensors:
        made = {b.name: torch.ones(b.span, dtype=TORCH[b.dtype]) for b in nest.buffers if b.written}
        kernel(*(made[b.name] if b.written else inputs[b.name] for b in nest.buffers))
        return made

    @staticmethod
    def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """Assert equality to the bit; any NaN equals any NaN."""
        assert ours.dtype == theirs.dtype
        if ours.dtype.is_floating_point:
            assert torch.equal(ours.isnan(), theirs.isnan()), (ours, theirs)
            kept = ~ours.isnan()
            ours, theirs = ours[kept], theirs[kept]
            assert torch.equal(ours.signbit(), theirs.signbit()), (ours, theirs)
        assert torch.equal(ours, theirs), (ours[ours != theirs], theirs[ours != theirs])


@pytest.fixture(scope="session")
def nests() -> Nests:
    return Nests()


@pytest.fixture(scope="session", params=TARGETS)
def each(request: pytest.FixtureRequest) -> Nests:
    """On every target that runs here."""
    return Nests(request.param)


def _classes() -> dict[str, LoopNest]:
    """One nest of each class that models are made of."""
    found: dict[str, LoopNest] = {}
    n = Nests
    place = Origin("model.py", 21, "forward", "layers.0.mlp")
    then = Origin("model.py", 22, "forward", "layers.0.mlp")

    i, j = n.axes(i=512, j=3072)
    flat = i * 3072 + j
    x = n.load("x", flat) + n.load("bias", j)
    inner = (x + x * x * x * 0.044715) * 0.7978845608028654
    out = x * 0.5 * (make("tanh", inner) + 1.0)
    found["gelu"] = n.nest([i, j], {"out": (flat, out)}, {x: place, out: then})

    (i,) = n.axes(i=1 << 20)
    found["add"] = n.nest([i], {"out": (i, n.load("x", i) * 2.0 + n.load("y", i))})
    (i,) = n.axes(i=1000003)
    found["add_odd"] = n.nest([i], {"out": (i, n.load("x", i) + n.load("y", i))})
    i, j = n.axes(i=512, j=768)
    found["transpose"] = n.nest([i, j], {"out": (i * 768 + j, n.load("x", j * 512 + i) + 1.0)})
    gate, up = (make("cast", n.load(b, i * 768 + j, "bf16"), dtype="f32") for b in ("gate", "up"))
    silu = make("cast", gate / (make("exp", -gate) + 1.0) * up, dtype="bf16")
    found["silu_and_mul"] = n.nest([i, j], {"out": (i * 768 + j, silu)})
    row = Index.of(Indirect(n.load("tokens", i, "i64"), 50257))
    found["embedding"] = n.nest([i, j], {"out": (i * 768 + j, n.load("table", row * 768 + j))})

    for name, columns in (("softmax", 1000), ("softmax_long", 50257), ("softmax_16k", 16384)):
        i, r = n.axes(i=256, r=columns)
        x = n.load("x", i * columns + r)
        e = make("exp", x - n.reduce("max", x))
        found[name] = n.nest([i, r], {"out": (i * columns + r, e / n.reduce("sum", e))})

    for name, columns in (
        ("layer_norm", 768),
        ("layer_norm_wide", 8192),
        ("layer_norm_16k", 16384),
    ):
        i, r = n.axes(i=2048, r=columns)
        flat = i * columns + r
        total = make("cast", n.load("x", flat, "f16"), dtype="f32") + n.load("residual", flat)
        centred = total - n.reduce("sum", total) * (1 / columns)
        variance = n.reduce("sum", centred * centred) * (1 / columns)
        scaled = centred * make("rsqrt", variance + 1e-5) * n.load("w", r) + n.load("b", r)
        stores = {"sum": (flat, total), "out": (flat, make("cast", scaled, dtype="f16"))}
        found[name] = n.nest([i, r], stores, {total: place, scaled: then})

    i, r = n.axes(i=512, r=50257)
    x = n.load("logits", i * 50257 + r)
    top = n.reduce("max", x)
    total = n.reduce("sum", make("exp", x - top))
    target = Index.of(Indirect(n.load("target", i, "i64"), 50257))
    loss = top + make("log", total) - n.load("logits", i * 50257 + target)
    found["cross_entropy"] = n.nest([i, r], {"loss": (i, loss)})

    i, r = n.axes(i=64, r=50)
    x = n.load("x", i * 50 + r)
    found["argmax"] = n.nest(
        [i, r], {"out": (i, n.reduce("argmax", x)), "low": (i, n.reduce("argmin", x))}
    )
    found["cumsum"] = n.nest([i, r], {"out": (i * 50 + r, n.scan("sum", x))})
    flag = n.load("x", i * 50 + r, "bool")
    flags = {name: (i, n.reduce(name, flag)) for name in ("any", "all", "max")}
    found["flags"] = n.nest([i, r], flags)
    i, r = n.axes(i=8, r=10000)
    found["cumsum_long"] = n.nest(
        [i, r], {"out": (i * 10000 + r, n.scan("sum", n.load("x", i * 10000 + r, "f64")))}
    )
    i, r = n.axes(i=3072, r=4096)
    found["sum_of_rows"] = n.nest([i, r], {"out": (i, n.reduce("sum", n.load("x", r * 3072 + i)))})
    i, j, s, r = n.axes(i=2, j=32, s=4, r=1024)
    flat = i * 131072 + s * 32768 + j * 1024 + r
    x = n.load("x", flat)
    mean = n.reduce("sum", x) * (1 / 4096)
    found["group_mean"] = n.nest(
        [i, j, s, r], {"out": (flat, x - mean), "place": (i * 32 + j, n.reduce("argmax", x))}
    )
    return found


CLASSES = _classes()


@pytest.fixture(params=CLASSES)
def example(request: pytest.FixtureRequest) -> tuple[str, LoopNest]:
    """Each of those nests with its name."""
    return request.param, CLASSES[request.param]


@pytest.fixture
def examples() -> dict[str, LoopNest]:
    return CLASSES

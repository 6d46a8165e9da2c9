"""What the functions of one matrix product's kernel share: its factors cut into panels, where in
the loops a panel is, and a way to define functions that see all buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracejit.codegen.native.builder import I64, PTR, Builder, Module, Type, Value, const, define
from tracejit.codegen.native.rows import digits
from tracejit.codegen.native.values import Evaluator
from tracejit.fuse.index import Axis, Index, linear
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.product import Product, index_stride, plain_load
from tracejit.fuse.scalar import Load, Scalar
from tracejit.ir.graph import numel
from tracejit.runtime.cpu import Level

PAGE = 4096  # bytes; what lies further apart shares few sets of a cache
NO_AXIS = Axis("one", 1)  # what a factor without an axis of its own varies over


@dataclass(frozen=True)
class Side:
    """One factor. Its own axes are cut into panels: each of the outer ones whole, the last one
    every `width` elements. `batch`: the batch axes that it varies over."""

    name: str
    factor: Scalar
    outer: tuple[Axis, ...]
    axis: Axis
    width: int
    batch: tuple[Axis, ...]

    @property
    def along(self) -> int:
        """Panels along the last axis."""
        return -(-self.axis.size // self.width)

    @property
    def panels(self) -> int:
        return int(numel(a.size for a in self.outer)) * self.along

    @property
    def last(self) -> int:
        """Elements of the last panel along the axis."""
        return self.axis.size - (self.along - 1) * self.width

    @property
    def batches(self) -> int:
        return int(numel(a.size for a in self.batch))

    def place(self, b: Builder, panel: Value) -> tuple[dict[Axis, Value], Value]:
        """The outer axes' values, and the first element along the axis."""
        count = const(I64, self.along)
        outer = digits(b, b.binary("udiv", panel, count), self.outer) if self.outer else {}
        within = b.binary("urem", panel, count) if self.outer else panel
        return outer, b.mul(within, self.width)

    def batch_at(self, b: Builder, axes: dict[Axis, Value]) -> Value:
        """Which of its own batches it is at these values of the batch axes."""
        place = const(I64, 0)
        for axis in self.batch:
            place = b.add(b.mul(place, axis.size), axes[axis])
        return place


def even(size: int, most: int) -> int:
    """The size of the parts when `size` is cut into as few as it takes, all but the last equal."""
    return -(-size // -(-size // most))


def make_side(product: Product, name: str, width: int) -> Side:
    """The side called "left" or "right"."""
    left = name == "left"
    factor = product.left if left else product.right
    axes = (product.rows if left else product.columns) or (NO_AXIS,)
    batch = tuple(a for a in product.batch if a in factor.axes())
    return Side(name, factor, axes[:-1], axes[-1], width, batch)


@dataclass
class Frame:
    """One kernel being written. `kind`: what is computed in, "float" or "double"."""

    module: Module
    level: Level
    nest: LoopNest
    product: Product
    name: str

    def __post_init__(self) -> None:
        self.kind = "float" if self.product.total.dtype == "f32" else "double"
        self.element = Type(self.kind)
        self.lanes = self.level.lanes(self.element.bits)
        self.wide = Type(self.kind, self.lanes)
        self.buffers = [f"{b.name}_" for b in self.nest.buffers]
        self.inner = linear([Index.of(a) for a in self.product.inner], self._inner_sizes)

    @property
    def _inner_sizes(self) -> list[int]:
        return [a.size for a in self.product.inner]

    @property
    def depth(self) -> int:
        """How many products are added up."""
        return int(numel(self._inner_sizes))

    def pointers(self, values: Sequence[Value]) -> dict[str, Value]:
        """The buffers among a function's arguments, by their names in the nest."""
        return {b.name: v for b, v in zip(self.nest.buffers, values, strict=False)}

    @property
    def arguments(self) -> list[Value]:
        """The buffers, as they are called in every function."""
        return [Value(f"%{n}", PTR) for n in self.buffers]

    def function(
        self,
        name: str,
        more: Sequence[Value],
        write: Callable[[Builder], None],
        attributes: str = "",
    ) -> Callable[..., None]:
        """Define `@{kernel}.{name}(buffers …, more …)`; a function that writes a call of it, given
        a builder and the further arguments."""
        full = f"{self.name}.{name}"
        parameters = [*self.arguments, *more]
        define(self.module, full, parameters, lambda b, *_: write(b), attributes, body=True)

        def call(b: Builder, *given: Value) -> None:
            b.call_void(full, *self.arguments, *given)

        return call

    def evaluator(
        self,
        b: Builder,
        axes: dict[Axis, Value],
        vector: Axis | None = None,
        mask: Value | None = None,
        aligned: int = 1,
    ) -> Evaluator:
        """Evaluates expressions at these values of the axes."""
        lanes = self.lanes if vector is not None else 0
        pointers = self.pointers(self.arguments)
        return Evaluator(b, self.nest, pointers, axes, vector, lanes, mask, aligned)


@dataclass(frozen=True)
class InPlace:
    """A factor that can be read where it lies: its load, its steps along its own axis and along the
    summed one."""

    load: Load
    own_step: int
    inner_step: int

    def address(self, frame: Frame, b: Builder, axes: dict[Axis, Value]) -> Value:
        """Where its element at these values of the axes lies."""
        place = frame.evaluator(b, axes).place(self.load.index)
        pointer = frame.pointers(frame.arguments)[self.load.buffer]
        return b.gep(pointer, frame.element, place.base)


def in_place(frame: Frame, side: Side) -> InPlace | None:
    """How a factor is read where it lies; None if it is more than a load of the right kind, or no
    two strides say where."""
    load = plain_load(side.factor)
    if load is None or side.factor.dtype != frame.product.total.dtype:
        return None
    if load.index.indirects():
        return None
    own = index_stride(load.index, side.axis)
    inner = index_stride(load.index, frame.product.inner[-1])
    return None if own is None or inner is None else InPlace(load, own, inner)

"""What the functions of one matrix product's kernel share: its factors cut into panels, where in
the loops a panel is, and a way to define functions that see all buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tracejit.codegen.native.builder import Builder, Module, define
from tracejit.codegen.native.entry import Phase, add_body
from tracejit.codegen.native.rows import digits
from tracejit.codegen.native.types import I64, PTR, Type, Value, const
from tracejit.codegen.native.values import Evaluator
from tracejit.codegen.native.words import memory_kind
from tracejit.fuse.index import Axis, Index, linear
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.product import Product, index_stride, plain_load
from tracejit.fuse.scalar import Load, Scalar
from tracejit.ir.graph import numel
from tracejit.runtime.cpu import Level

PAGE = 4096  # bytes; what lies further apart shares few sets of a cache
Axes = Mapping[Axis, Value]
Range = tuple[Value, Value]  # from the first one to behind the last
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

    def place(self, b: Builder, panel: Value) -> tuple[Axes, Value]:
        """The outer axes' values, and the first element along the axis."""
        if not self.outer:
            return {}, b.mul(panel, self.width)
        outer = digits(b, b.binary("udiv", panel, self.along), self.outer)
        return outer, b.mul(b.binary("urem", panel, self.along), self.width)

    def count(self, b: Builder, panel: Value) -> Value:
        """How many elements a panel has."""
        return b.smin(b.sub(self.axis.size, self.place(b, panel)[1]), self.width)

    def batch_at(self, b: Builder, axes: Axes) -> Value:
        """Which of its own batches it is at these values of the batch axes."""
        place = const(I64, 0)
        for axis in self.batch:
            place = b.add(b.mul(place, axis.size), axes[axis])
        return place


def even(size: int, most: int) -> int:
    """The size of the parts when `size` is cut into as few as it takes, all but the last equal."""
    return -(-size // -(-size // most))


def make_side(product: Product, name: str, width: int, factor: Scalar | None = None) -> Side:
    """The side called "left" or "right". `factor`: what is read of it, if not the whole factor."""
    left = name == "left"
    factor = factor or (product.left if left else product.right)
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
        self.item = self.element.bits // 8
        self.lanes = self.level.lanes(self.element.bits)
        self.wide = Type(self.kind, self.lanes)
        self.buffers = [f"{b.name}_" for b in self.nest.buffers]
        inner = self.product.inner
        self.inner = linear([Index.of(a) for a in inner], [a.size for a in inner])
        self.depth = self.product.sizes[3]  # how many products are added up

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
        axes: Axes,
        vector: Axis | None = None,
        mask: Value | None = None,
        aligned: int = 1,
    ) -> Evaluator:
        """Evaluates expressions at these values of the axes."""
        lanes = self.lanes if vector is not None else 0
        pointers = self.pointers(self.arguments)
        return Evaluator(b, self.nest, pointers, axes, vector, lanes, mask, aligned)

    def address(self, b: Builder, factor: Scalar, axes: Axes) -> Value:
        """Where the element of a factor that is a plain load lies at these values of the axes."""
        assert isinstance(factor.arg, Load)
        pointer = self.pointers(self.arguments)[factor.arg.buffer]
        place = self.evaluator(b, axes).place(factor.arg.index)
        return b.gep(pointer, Type(memory_kind(factor.dtype)), place.base)

    def phase(
        self, name: str, tasks: int, grain: float, write: Callable[..., None], scratch: int = 0
    ) -> Phase:
        """A phase whose function is `@{kernel}.{name}`; `scratch` if it uses memory for a while."""
        body = f"{self.name}.{name}"
        names = [*self.buffers, *(["scratch"] if scratch else [])]
        add_body(self.module, body, names, write)
        return Phase(body, tasks, max(int(grain), 1))


def in_place(frame: Frame, side: Side, dtype: str) -> tuple[int, int] | None:
    """The steps along its own axis and along the summed one with which a factor is read where it
    lies; None if it is more than a load of this dtype, or no two strides say where."""
    load = plain_load(side.factor)
    if load is None or side.factor.dtype != dtype or load.index.indirects():
        return None
    own = index_stride(load.index, side.axis)
    inner = index_stride(load.index, frame.product.inner[-1])
    return None if own is None or inner is None else (own, inner)


@dataclass(frozen=True)
class Groups:
    """Tasks of `group` left panels with `panels` right ones. Tasks that follow each other share the
    left ones."""

    product: Product
    left: Side
    right: Side
    group: int
    panels: int = 1

    @property
    def order(self) -> list[Axis]:
        """The loops over tasks, the outermost first."""
        left, right = self.left, self.right
        return [
            Axis("batch", self.product.sizes[0]),
            Axis("above", left.panels // left.along),
            Axis("group", -(-left.along // self.group)),
            Axis("right", -(-right.panels // self.panels)),
        ]

    @property
    def count(self) -> int:
        return int(numel(axis.size for axis in self.order))

    def of(self, b: Builder, task: Value) -> tuple[Value, Axes, Range, Range]:
        """A task's batch, as the values of the batch axes too, its left and its right panels."""
        order = self.order
        at = digits(b, task, order)
        batch, above, group, right = (at[axis] for axis in order)
        axes = digits(b, batch, self.product.batch)
        base, first = b.mul(above, self.left.along), b.mul(group, self.group)
        stop = b.smin(b.add(first, self.group), self.left.along)
        lefts = (b.add(base, first), b.add(base, stop))
        first = b.mul(right, self.panels)
        rights = (first, b.smin(b.add(first, self.panels), self.right.panels))
        return batch, axes, lefts, rights

"""Evaluates the expressions of a loop nest at one place of its loops, or on a vector of
neighbouring places: one axis may be a vector's lanes. What is the same in all lanes is a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

from tracejit.codegen.native import philox, words
from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.lanes import iota
from tracejit.codegen.native.places import times
from tracejit.codegen.native.types import I1, I64, Type, Value, const
from tracejit.fuse.index import Atom, Axis, FloorDiv, Index, Indirect, Mod, reach
from tracejit.fuse.loopnest import LoopNest, Store
from tracejit.fuse.scalar import Load, Scalar
from tracejit.ir.graph import Origin


@dataclass(frozen=True)
class Place:
    """An integer that may differ between lanes: `base` + stride · lane, or (`lanes`) a vector."""

    base: Value
    stride: int = 0
    lanes: Value | None = None

    @property
    def uniform(self) -> bool:
        return self.stride == 0 and self.lanes is None


@dataclass
class Evaluator:
    """`axes` gives each axis its value (i64; for `vector`, that of lane 0). `mask`: lanes that are
    there at all; None for all of them. `aligned`: the vector axis's value is a multiple of this.
    `ahead`: bytes by which loads of neighbours fetch what comes next.

    `running` computes a scan, which only the loop around it can.
    """

    builder: Builder
    nest: LoopNest
    pointers: Mapping[str, Value]
    axes: Mapping[Axis, Value]
    vector: Axis | None = None
    lanes: int = 0
    mask: Value | None = None
    aligned: int = 1
    ahead: int = 0
    bound: Mapping[int, Value] = field(default_factory=dict)
    running: Callable[[Scalar, Value], Value] | None = None

    def __post_init__(self) -> None:
        self.known: dict[int, Value] = dict(self.bound)
        self.places: dict[Index, Place] = {}
        self.drawn: dict[tuple[Index, str, int], list[Value]] = {}

    def value(self, scalar: Scalar) -> Value:
        """The expression: a scalar if it is the same in all lanes, else a vector."""
        stack = [scalar]
        while stack:
            last = stack[-1]
            if last.key in self.known:
                stack.pop()
                continue
            missing = [d for d in last.deps() if d.key not in self.known]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            self.known[last.key] = self._computed(last)
        return self.known[scalar.key]

    def wide(self, scalar: Scalar) -> Value:
        """The expression, as a vector if there are lanes."""
        return self.builder.splat(self.value(scalar), self.lanes)

    def _computed(self, scalar: Scalar) -> Value:
        self._comment(scalar)
        b, op = self.builder, scalar.op
        if op == "const":
            return words.number(scalar.dtype, scalar.arg)
        if op == "load":
            return self._load(scalar)
        if op == "index":
            return self.integer(scalar.arg)
        if op == "reduce":
            raise AssertionError(f"{scalar} is used before it is reduced")
        args = [self.known[a.key] for a in scalar.args]
        if op == "scan":
            assert self.running is not None
            return self.running(scalar, args[0])
        if op == "cast":
            return words.cast(b, args[0], scalar.args[0].dtype, scalar.dtype)
        if op == "bitcast":
            return words.bitcast(b, args[0], scalar.dtype)
        if op == "philox":
            return self._drawn(scalar.args[0], args[1])
        if any(a.type.lanes for a in args):
            args = [
                a if op == "where" and k == 0 else b.splat(a, self.lanes)
                for k, a in enumerate(args)
            ]
        if op in ("idiv", "imod") and self.mask is not None and args[1].type.lanes:
            args[1] = b.select(self.mask, args[1], const(args[1].type, 1))
        return words.apply(b, op, scalar.args[-1].dtype, *args)

    # Random words

    def _drawn(self, place: Scalar, key: Value) -> Value:
        """A word for each lane. Lanes that want neighbours, or every second or fourth word, share
        the blocks that these are in."""
        b = self.builder
        if place.op == "const":
            index = Index.of(int(place.arg))
        elif place.op == "index":
            index = place.arg
        else:
            at = self.known[place.key]
            words = philox.block(b, b.binary("ashr", at, 2), key)
            return philox.chosen(b, words, b.binary("and", at, 3))
        step, first = self._step(index) if not key.type.lanes else (0, 0)
        if not step:
            number, words = index % 4, self._blocks(index // 4, key)
            if number.is_const:
                return words[number.const]
            return philox.chosen(b, words, self.integer(number))
        return philox.in_turn(b, self._blocks(index - first, key, step)[first::step])

    def _step(self, index: Index) -> tuple[int, int]:
        """How many words lie between those of two lanes, and which one of its block is the first
        lane's, if the lanes use up whole blocks; (0, 0) if not."""
        if self.vector is None:
            return 0, 0
        step, first = index.coefficient(self.vector), index.const % 4
        if step not in (1, 2, 4) or first >= step or self.lanes * step < 8:
            return 0, 0
        others = [(atom, c) for atom, c in index.terms if atom != self.vector]
        whole = all(c % 4 == 0 and isinstance(atom, Axis) for atom, c in others)
        return (step, first) if whole and min(self.aligned, self.lanes) * step % 4 == 0 else (0, 0)

    def _blocks(self, index: Index, key: Value, step: int = 0) -> list[Value]:
        """The four words of each block, computed once: of the blocks `index`; with `step` of those
        that begin with the word `index`, as many as the lanes use."""
        found = self.drawn.get((index, key.text, step))
        if found is None:
            b = self.builder
            if step:
                first = b.binary("ashr", self.place(index).base, 2)
                wide = b.splat(first, self.lanes * step // 4)
                counter = b.add(wide, iota(wide.type))
            else:
                counter = self.integer(index)
            found = self.drawn[index, key.text, step] = philox.block(b, counter, key)
        return found

    def _comment(self, scalar: Scalar) -> None:
        """The user's line, where it differs from the one before."""
        origin: Origin | None = self.nest.line_of.get(scalar.key)
        if origin is not None and origin.file and origin != self.builder.place:
            self.builder.place = origin
            self.builder.comment(str(origin))

    # Integers that are positions

    def place(self, index: Index) -> Place:
        """An index expression here."""
        found = self.places.get(index)
        if found is None:
            found = self.places[index] = self._place(index)
        return found

    def _place(self, index: Index) -> Place:
        b = self.builder
        base, stride = const(I64, index.const), 0
        vectors: list[Value] = []
        kind = I64.kind if reach(index) >= 1 << 31 else "i32"
        for atom, coefficient in index.terms:
            part = self._atom(atom)
            if part.lanes is not None:
                wide = self._to_kind(part.lanes, kind)
                vectors.append(times(b, wide, coefficient))
                continue
            base = self._plus(base, times(b, part.base, coefficient))
            stride += part.stride * coefficient
        if not vectors:
            return Place(base, stride)
        total = vectors[0]
        for other in vectors[1:]:
            total = b.add(total, other)
        if stride:
            total = b.add(total, iota(total.type, stride))
        narrow = self._to_kind(base, kind)
        return Place(base, 0, b.add(total, b.splat(narrow, self.lanes)))

    def _to_kind(self, value: Value, kind: str) -> Value:
        """An integer, not negative or in range, of another width."""
        to = value.type.of(kind)
        return self.builder.cast("trunc" if to.bits < value.type.bits else "sext", value, to)

    def _plus(self, a: Value, b: Value) -> Value:
        if a.text == "0":
            return b
        return a if b.text == "0" else self.builder.add(a, b)

    def _atom(self, atom: Atom) -> Place:
        if isinstance(atom, Axis):
            return Place(self.axes[atom], 1 if atom == self.vector else 0)
        if isinstance(atom, Indirect):
            value = self.value(atom.scalar)
            return Place(value, 0, value) if value.type.lanes else Place(value)
        low, _ = atom.index.bounds()
        lift = -(low // atom.divisor) if low < 0 else 0  # so that rounding down is rounding to zero
        inner = self.place(atom.index + lift * atom.divisor)
        whole = isinstance(atom, FloorDiv)
        op = "udiv" if whole else "urem"
        if inner.lanes is None and (inner.stride == 0 or self._together(atom)):
            scalar = self.builder.binary(op, inner.base, const(I64, atom.divisor))
            if whole:
                return Place(self._plus(scalar, const(I64, -lift)))
            return Place(scalar, inner.stride)
        wide = self._as_value(inner, Type("i64" if reach(atom.index) >= 1 << 31 else "i32"))
        found = self.builder.binary(op, wide, const(wide.type, atom.divisor))
        if whole and lift:
            found = self.builder.sub(found, lift)
        return Place(found, 0, found)

    def _together(self, atom: FloorDiv | Mod) -> bool:
        """Whether all lanes of a division have one quotient: neighbours, none across a multiple of
        the divisor."""
        if self.vector is None or atom.divisor % self.lanes or self.aligned % self.lanes:
            return False
        index = atom.index
        if index.coefficient(self.vector) != 1 or index.const % self.lanes:
            return False
        others = [(a, c) for a, c in index.terms if a != self.vector]
        return all(c % self.lanes == 0 for _, c in others)

    def integer(self, index: Index, type: Type = I64) -> Value:
        """A position, a vector if lanes differ."""
        return self._as_value(self.place(index), type)

    def _as_value(self, place: Place, type: Type) -> Value:
        """A position as an integer of this kind, a vector if lanes differ."""
        b = self.builder
        if place.lanes is not None:
            return self._to_kind(place.lanes, type.kind)
        base = self._to_kind(place.base, type.kind)
        if not place.stride:
            return base
        wide = b.splat(base, self.lanes)
        return b.add(wide, iota(wide.type, place.stride))

    # Memory

    def _load(self, scalar: Scalar) -> Value:
        assert isinstance(scalar.arg, Load)
        b, pointer = self.builder, self.pointers[scalar.arg.buffer]
        place = self.place(scalar.arg.index)
        element = Type(words.memory_kind(scalar.dtype))
        mask = self.known[scalar.args[0].key] if scalar.args else None
        if place.uniform:
            loaded = self._load_one(pointer, place.base, element, mask)
        elif mask is not None and not mask.type.lanes:  # all lanes or none
            found = b.slot(const(Type(element.kind, self.lanes), 0), "loaded")
            with b.when(mask):
                found.set(self._load_lanes(pointer, place, element, None))
            loaded = found.get()
        else:
            loaded = self._load_lanes(pointer, place, element, mask)
        return words.from_memory(b, loaded, scalar.dtype)

    def _load_lanes(self, pointer: Value, place: Place, element: Type, mask: Value | None) -> Value:
        """An element for each lane."""
        if place.lanes is not None or place.stride not in (1, 2):
            return self._gather(pointer, place, element, mask)
        first = self.builder.gep(pointer, element, place.base)
        if place.stride == 1:
            return self.load_row(first, element, mask)
        return self._by_vote(
            element,
            self._valid(mask),
            lambda: self._every_second(first, element),
            lambda: self._gather(pointer, place, element, mask),
        )

    def _load_one(self, pointer: Value, base: Value, element: Type, mask: Value | None) -> Value:
        """One element for all lanes; with a mask, of a zero of our own where none wants it."""
        b = self.builder
        address = b.gep(pointer, element, base)
        if mask is None:
            return b.load(address, element)
        spare = b.alloca(element, name="zero")
        b.store(const(element, 0), spare)
        some = self._vote("or", mask) if mask.type.lanes else mask
        one = b.load(b.select(some, address, spare), element)
        if not mask.type.lanes:
            return one
        return b.select(mask, b.splat(one, self.lanes), const(Type(element.kind, self.lanes), 0))

    def _valid(self, mask: Value | None) -> Value | None:
        """The lanes that are there and wanted, as a vector; None for all."""
        if mask is None:
            return self.mask
        wide = self.builder.splat(mask, self.lanes)
        return wide if self.mask is None else self.builder.binary("and", wide, self.mask)

    def load_row(self, address: Value, element: Type, mask: Value | None) -> Value:
        """Neighbouring elements."""
        b, wide = self.builder, Type(element.kind, self.lanes)
        valid = self._valid(mask)
        if valid is None:
            if self.ahead:
                b.prefetch(address, self.ahead)
            return b.load(address, wide)
        if not self._one_by_one(wide):
            return b.masked_load(address, wide, valid)
        return self._by_vote(
            element,
            valid,
            lambda: b.load(address, wide),
            lambda: b.masked_load(address, wide, valid),
        )

    def _by_vote(
        self,
        element: Type,
        valid: Value | None,
        whole: Callable[[], Value],
        part: Callable[[], Value],
    ) -> Value:
        """What `whole` loads if all lanes are valid, `part` if some are; zeros if none is."""
        if valid is None:
            return whole()
        b = self.builder
        found = b.slot(const(Type(element.kind, self.lanes), 0), "loaded")
        every, some, after = (b.fresh(name) for name in ("every", "some", "loaded"))
        with b.when(self._vote("or", valid), "any"):
            b.branch(self._vote("and", valid), every, some)
            for label, load in ((every, whole), (some, part)):
                b.label(label)
                found.set(load())
                b.jump(after)
            b.label(after)
        return found.get()

    def _one_by_one(self, wide: Type) -> bool:
        """Whether accesses with a mask go lane by lane: there is no instruction for them."""
        level = self.builder.module.level
        return level is not None and not level.masked and wide.bits < 32

    def _vote(self, word: str, mask: Value) -> Value:
        """Whether all ("and") or any ("or") lanes of a mask are set."""
        name = f"llvm.vector.reduce.{word}"
        return self.builder.intrinsic(name, I1, mask, suffix=mask.type.suffix)

    def _every_second(self, address: Value, element: Type) -> Value:
        """Elements 0, 2, 4, …: of two vectors of neighbours that end with the last."""
        b, wide = self.builder, Type(element.kind, self.lanes)
        after = b.gep(address, element, self.lanes - 1)
        places = [2 * k if 2 * k < self.lanes else 2 * k + 1 for k in range(self.lanes)]
        return b.shuffle(b.load(address, wide), b.load(after, wide), places)

    def _addresses(self, pointer: Value, place: Place, element: Type) -> Value:
        """The address of each lane's element."""
        b = self.builder
        if place.lanes is not None:
            return b.gep(pointer, element, place.lanes)
        first = b.gep(pointer, element, place.base)
        return b.gep(first, element, iota(Type("i64", self.lanes), place.stride))

    def _gather(self, pointer: Value, place: Place, element: Type, mask: Value | None) -> Value:
        addresses = self._addresses(pointer, place, element)
        valid = self._valid(mask) or const(Type("i1", self.lanes), 1)
        return self.builder.masked_load(addresses, Type(element.kind, self.lanes), valid)

    def store(self, store: Store) -> None:
        """Write one store, where its mask and the lanes' hold."""
        b = self.builder
        for needed in store.needs:
            self.value(needed)
        value = words.to_memory(b, self.value(store.value))
        mask = None if store.mask is None else self.value(store.mask)
        place, pointer = self.place(store.index), self.pointers[store.buffer]
        element = value.type.scalar
        varies = value.type.lanes or not place.uniform or (mask is not None and mask.type.lanes)
        if not varies:
            address = b.gep(pointer, element, place.base)
            with nullcontext() if mask is None else b.when(mask):
                b.store(value, address)
            return
        value = b.splat(value, self.lanes)
        valid = self._valid(mask)
        near = place.lanes is None and place.stride == 1
        one = b.gep(pointer, element, place.base) if near else None
        b.masked_store(value, one or self._addresses(pointer, place, element), valid)

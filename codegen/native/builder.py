"""LLVM code as text, written through typed values: `Module` holds functions, `Builder` writes one.

Text rather than objects (llvmlite.ir), because a person reads it: values have names, the user's
lines stand as comments beside them. It is also several times quicker to make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tracejit.codegen.native.types import I32, I64, PTR, Type, Value, const
from tracejit.runtime.cpu import Level

UNROLLED = "Loops are unrolled."  # stands in the text of a module of which that is true


Operand = Value | int | float


def _alike(a: Operand, b: Operand) -> tuple[Value, Value]:
    """Two operands of one type; a number becomes a constant of the other's."""
    if isinstance(a, Value):
        b = b if isinstance(b, Value) else const(a.type, b)
    elif isinstance(b, Value):
        a = const(b.type, a)
    assert isinstance(a, Value) and isinstance(b, Value) and a.type == b.type, (a, b)
    return a, b


def _integer(number: Value | int) -> Value:
    """An i64."""
    return number if isinstance(number, Value) else const(I64, number)


@dataclass
class Module:
    """A module being written: declarations, constants and functions, each once, in order of first
    use."""

    comment: tuple[str, ...] = ()
    level: Level | None = None  # for what only some instruction sets have
    unrolled: bool = False  # loops are written out: little is left for LLVM's passes to find
    _declared: dict[str, str] = field(default_factory=dict)
    _functions: dict[str, str] = field(default_factory=dict)

    def declare(self, name: str, result: str, arguments: str) -> None:
        """Declare a function that lies outside (an intrinsic, the C library)."""
        self._declared.setdefault(name, f"declare {result} @{name}({arguments})")

    def declare_global(self, name: str, text: str) -> None:
        """A global: `@name = text`."""
        self._declared.setdefault(name, f"@{name} = {text}")

    def has(self, name: str) -> bool:
        return name in self._functions

    def add(self, name: str, text: str) -> None:
        """Add a whole function."""
        self._functions[name] = text

    def inline(
        self, name: str, result: Type, arguments: Sequence[Type], write: Callable[..., Value]
    ) -> None:
        """Define the function `name` once, always inlined: `write(builder, *arguments)` gives what
        it returns."""
        if name in self._functions:
            return
        self._functions[name] = ""  # its place: what it calls comes after
        builder = Builder(self)
        values = [Value(f"%a{k}", t) for k, t in enumerate(arguments)]
        builder.line(f"ret {write(builder, *values)}")
        head = f"define internal {result} @{name}({', '.join(map(str, values))}) alwaysinline {{"
        self._functions[name] = "\n".join([head, *builder.text(), "}"])

    def text(self) -> str:
        """The module, ready to be parsed; functions in order of first use."""
        comment = (*self.comment, UNROLLED) if self.unrolled else self.comment
        notes = "\n".join(f"; {line}".rstrip() for line in comment)
        parts = [notes, *self._functions.values(), "\n".join(sorted(self._declared.values()))]
        return "\n\n".join(p for p in parts if p) + "\n"


def _by(op: str) -> Callable[[Builder, Operand, Operand], Value]:
    """An operation of two as a method of Builder."""
    return lambda b, x, y: b.binary(op, x, y)


class Builder:
    """Writes the body of one function. Variables that change (`slot`) live in allocas of the entry
    block, which LLVM turns into registers."""

    def __init__(self, module: Module, rounds_halves: bool = False) -> None:
        """`rounds_halves`: the function may use the processor's instruction that rounds f32 to
        bf16, which takes denormals for zeros."""
        self.module, self.rounds_halves = module, rounds_halves
        self.lines: list[str] = []
        self.head: list[str] = []
        self.place: object = None  # the user's line that was named last
        self._count = 0

    def text(self) -> list[str]:
        """The lines of the body, allocas first."""
        return ["entry:", *(f"  {line}" for line in self.head), *self.lines]

    def line(self, text: str) -> None:
        """A raw instruction."""
        self.lines.append(f"  {text}")

    def comment(self, text: str) -> None:
        self.lines.append(f"  ; {text}")

    def fresh(self, name: str) -> str:
        """A name that nothing has yet."""
        self._count += 1
        return f"{name}.{self._count}"

    def let(self, type: Type, text: str, name: str = "t") -> Value:
        """`%name.N = text`"""
        value = Value(f"%{self.fresh(name)}", type)
        self.line(f"{value.text} = {text}")
        return value

    # Of two operands one may be a number: a constant of the other's type.

    def binary(self, op: str, a: Operand, b: Operand, name: str = "t") -> Value:
        """fadd, fsub, fmul, fdiv, frem, add, sub, mul, sdiv, udiv, srem, urem, and, or, xor, shl,
        lshr, ashr."""
        x, y = _alike(a, b)
        return self.let(x.type, f"{op} {x}, {y.text}", name)

    fadd, fsub, fmul, fdiv = _by("fadd"), _by("fsub"), _by("fmul"), _by("fdiv")
    add, sub, mul = _by("add"), _by("sub"), _by("mul")

    def divmod(self, a: Value, b: Operand) -> tuple[Value, Value]:
        """Quotient and remainder of integers that are not negative."""
        return self.binary("udiv", a, b), self.binary("urem", a, b)

    def smin(self, a: Operand, b: Operand) -> Value:
        """The smaller of two signed integers."""
        x, y = _alike(a, b)
        return self.intrinsic("llvm.smin", x.type, x, y)

    def smax(self, a: Operand, b: Operand) -> Value:
        """The greater of two signed integers."""
        x, y = _alike(a, b)
        return self.intrinsic("llvm.smax", x.type, x, y)

    def fneg(self, a: Value) -> Value:
        return self.let(a.type, f"fneg {a}")

    def fma(self, a: Value, b: Operand, c: Operand) -> Value:
        """a·b + c, rounded once."""
        return self.intrinsic("llvm.fma", a.type, a, _alike(a, b)[1], _alike(a, c)[1])

    def intrinsic(self, name: str, result: Type, *args: Value, suffix: str = "") -> Value:
        """A call of an overloaded intrinsic; its name ends with the result's type or `suffix`."""
        return self.call(f"{name}.{suffix or result.suffix}", result, *args)

    def call(self, name: str, result: Type, *args: Value) -> Value:
        """A call of a function, declared if the module does not define it."""
        if not self.module.has(name):
            self.module.declare(name, str(result), ", ".join(str(a.type) for a in args))
        return self.let(result, f"call {result} @{name}({', '.join(map(str, args))})")

    def call_void(self, name: str, *given: Value | int) -> None:
        """A number is an i64."""
        args = [_integer(a) for a in given]
        if not self.module.has(name):
            self.module.declare(name, "void", ", ".join(str(a.type) for a in args))
        self.line(f"call void @{name}({', '.join(map(str, args))})")

    def fcmp(self, predicate: str, a: Operand, b: Operand) -> Value:
        """predicate: oeq ogt oge olt ole one ord ueq … uno."""
        x, y = _alike(a, b)
        return self.let(x.type.of("i1"), f"fcmp {predicate} {x}, {y.text}")

    def icmp(self, predicate: str, a: Operand, b: Operand) -> Value:
        """predicate: eq ne sgt sge slt sle ugt uge ult ule."""
        x, y = _alike(a, b)
        return self.let(x.type.of("i1"), f"icmp {predicate} {x}, {y.text}")

    def select(self, condition: Value, yes: Operand, no: Operand) -> Value:
        x, y = _alike(yes, no)
        return self.let(x.type, f"select {condition}, {x}, {y}")

    def cast(self, op: str, a: Value, to: Type) -> Value:
        """fptosi, sitofp, fpext, fptrunc, zext, sext, trunc, bitcast, ptrtoint, inttoptr."""
        return a if a.type == to else self.let(to, f"{op} {a} to {to}")

    def bitcast(self, a: Value, kind: str) -> Value:
        """The same bits, lane by lane."""
        return self.cast("bitcast", a, a.type.of(kind))

    def splat(self, a: Value, lanes: int) -> Value:
        """A scalar in all lanes of a vector."""
        if not lanes or a.type.lanes:
            return a
        wide = Type(a.type.kind, lanes)
        if not a.text.startswith("%"):
            return Value(f"splat ({a})", wide)
        one = self.let(wide, f"insertelement {wide} poison, {a}, i64 0")
        return self.let(
            wide, f"shufflevector {one}, {wide} poison, <{lanes} x i32> zeroinitializer"
        )

    def shuffle(self, a: Value, b: Value | None, mask: Sequence[int]) -> Value:
        """Lanes picked out of two vectors; -1 for any."""
        spelled = ", ".join(f"i32 {k}" if k >= 0 else "i32 poison" for k in mask)
        other = f"{b}" if b is not None else f"{a.type} poison"
        return self.let(
            Type(a.type.kind, len(mask)),
            f"shufflevector {a}, {other}, <{len(mask)} x i32> <{spelled}>",
        )

    def extract(self, a: Value, lane: int | Value) -> Value:
        return self.let(a.type.scalar, f"extractelement {a}, {_integer(lane)}")

    def insert(self, a: Value, scalar: Value, lane: int | Value) -> Value:
        return self.let(a.type, f"insertelement {a}, {scalar}, {_integer(lane)}")

    # Memory. Pointers are opaque; indices count elements of `element`.

    def gep(self, base: Value, element: Type, index: Value | int) -> Value:
        """The address of element `index` behind `base`."""
        index = _integer(index)
        kind = replace(index.type, kind="ptr")
        return self.let(kind, f"getelementptr {element}, {base}, {index}", "p")

    def load(self, pointer: Value, type: Type, align: int = 0) -> Value:
        """align in bytes; 0: that of one element."""
        return self.let(type, f"load {type}, {pointer}, align {align or max(type.bits // 8, 1)}")

    def store(self, value: Value, pointer: Value, align: int = 0) -> None:
        self.line(f"store {value}, {pointer}, align {align or max(value.type.bits // 8, 1)}")

    def masked_load(self, place: Value, type: Type, mask: Value) -> Value:
        """The lanes of a mask, zeros for the others: of neighbours, or each at its own address."""
        align, name = const(I32, max(type.bits // 8, 1)), "gather" if place.type.lanes else "load"
        args = (place, align, mask, const(type, 0))
        suffix = f"{type.suffix}.{place.type.suffix}"
        return self.intrinsic(f"llvm.masked.{name}", type, *args, suffix=suffix)

    def masked_store(self, value: Value, place: Value, mask: Value | None) -> None:
        """Store the lanes of a mask (None: all) as neighbours, or each to its own address."""
        if place.type.lanes:
            name, mask = "scatter", mask or const(Type("i1", place.type.lanes), 1)
        elif mask is None:
            self.store(value, place)
            return
        else:
            name = "store"
        align = const(I32, max(value.type.bits // 8, 1))
        suffix = f"{value.type.suffix}.{place.type.suffix}"
        self.call_void(f"llvm.masked.{name}.{suffix}", value, place, align, mask)

    def prefetch(self, pointer: Value, ahead: int) -> None:
        """Fetch the cache line `ahead` bytes on into all caches; it need not be mapped."""
        place = self.gep(pointer, Type("i8"), const(I64, ahead))
        read, all_caches, data = (const(I32, n) for n in (0, 3, 1))
        self.call_void("llvm.prefetch.p0", place, read, all_caches, data)

    def alloca(self, type: Type, count: int = 1, align: int = 64, name: str = "m") -> Value:
        """Memory of this call, in the entry block."""
        value = Value(f"%{self.fresh(name)}", PTR)
        many = f", i64 {count}" if count != 1 else ""
        self.head.append(f"{value.text} = alloca {type}{many}, align {align}")
        return value

    def slot(self, first: Value, name: str = "v") -> Slot:
        """A variable that holds `first` from here on."""
        return Slot(self, first, name)

    # Control flow

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def jump(self, name: str) -> None:
        self.line(f"br label %{name}")

    def branch(self, condition: Value, yes: str, no: str) -> None:
        self.line(f"br {condition}, label %{yes}, label %{no}")

    @contextmanager
    def loop(
        self, start: Value | int, stop: Value | int, step: int | Value = 1, name: str = "i"
    ) -> Iterator[Value]:
        """for name in start, start + step, … while < stop (signed)."""
        counter = self.slot(_integer(start), name)
        head, body, done = (self.fresh(f"{name}_{part}") for part in ("head", "body", "done"))
        self.jump(head)
        self.label(head)
        current = counter.get()
        self.branch(self.icmp("slt", current, stop), body, done)
        self.label(body)
        yield current
        counter.set(self.add(current, step))
        self.jump(head)
        self.label(done)

    @contextmanager
    def when(self, condition: Value, name: str = "if") -> Iterator[None]:
        """What is written inside runs only if the scalar condition holds."""
        body, done = self.fresh(f"{name}_then"), self.fresh(f"{name}_end")
        self.branch(condition, body, done)
        self.label(body)
        yield
        self.jump(done)
        self.label(done)

    def either(self, condition: Value, yes: str, no: str) -> Iterator[bool]:
        """What is written for True runs if the condition holds, that for False if not. `yes` and
        `no` are their labels, new in this function."""
        done = f"{yes}_done"
        self.branch(condition, yes, no)
        for label in (yes, no):
            self.label(label)
            yield label == yes
            self.jump(done)
        self.label(done)


class Slot:
    """A variable of a Builder that changes its value."""

    def __init__(self, builder: Builder, first: Value, name: str) -> None:
        self.builder, self.type = builder, first.type
        self.pointer = builder.alloca(first.type, name=name)
        self.set(first)

    def get(self) -> Value:
        return self.builder.let(self.type, f"load {self.type}, {self.pointer}, align 64")

    def set(self, value: Value) -> None:
        assert value.type == self.type, (value, self.type)
        self.builder.line(f"store {value}, {self.pointer}, align 64")


def define(
    module: Module,
    name: str,
    parameters: Sequence[Value],
    write: Callable[..., None],
    attributes: str = "",
    body: bool = False,
) -> None:
    """Define `void @name(parameters)`: `write(builder, *parameters)` writes it. `body`: a part of a
    kernel, given its buffers, of which no two lie in the same memory; others are not inlined."""
    builder = Builder(module, rounds_halves="bf16" in attributes)
    write(builder, *parameters)
    builder.line("ret void")
    spelled = ", ".join(map(str, parameters))
    if body:
        spelled = spelled.replace("ptr %", "ptr noalias %")
    words = ["define internal void", f"@{name}({spelled})", "" if body else "noinline", attributes]
    head = " ".join(filter(None, [*words, "{"]))
    module.add(name, "\n".join([head, *builder.text(), "}"]))

"""The matrix unit of Intel's processors (AMX: Intel's "Architecture Instruction Set Extensions
Programming Reference", chapter 3): it multiplies a tile of 16 rows of 16 pairs of bf16 with one of
16 pairs of rows, and adds to a tile of 16×16 f32. Kernels that use it run on every processor of
their level: they ask (`available`) and have another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tracejit.codegen.native.builder import Builder, Module
from tracejit.codegen.native.types import I1, I8, PTR, Type, Value, const
from tracejit.runtime.cpu import Level

SIDE = 16  # rows of a tile, and pairs (or f32) in a row
DEPTH = 32  # bf16 in a row
TILE = SIDE * DEPTH  # bf16 in a tile
BYTES = 64  # of a row
TILES = 8
WORDS = Type("i32", SIDE)  # a row's pairs
Places = tuple[Sequence[Value], Value | int]  # where tiles begin; the bytes from row to row
_FEATURES = "+amx-tile,+amx-bf16,+avx512bf16"  # no processor has the first two alone
PERMISSION = "_ZN2at3cpu8init_amxEv"  # torch asks the system for the unit; false if there is none


def may_have(level: Level) -> bool:
    """Whether a processor of the level may have one."""
    return level.machine == "x86_64" and level.bytes == BYTES


def attributes(level: Level) -> str:
    """What LLVM must know of a function that uses it."""
    return f'"target-features"="{level.features},{_FEATURES}"'


def available(b: Builder) -> Value:
    """Whether there is one that this process may use; asked once."""
    if not b.module.has("amx"):
        _add_question(b.module)
    return b.call("amx", I1)


def _add_question(module: Module) -> None:
    b = Builder(module)
    module.declare_global("amx.known", "internal global i8 0")
    known = b.load(Value("@amx.known", PTR), I8)
    b.branch(b.icmp("eq", known, 0), "ask", "say")
    b.label("ask")
    found = b.call(PERMISSION, I1)
    b.store(b.select(found, const(I8, 2), const(I8, 1)), Value("@amx.known", PTR))
    b.line(f"ret {found}")
    b.label("say")
    b.line(f"ret {b.icmp('eq', known, 2)}")
    module.add("amx", "\n".join(["define internal i1 @amx() noinline {", *b.text(), "}"]))


@contextmanager
def configured(b: Builder) -> Iterator[None]:
    """Around what uses tiles: all of 16 rows of 64 bytes."""
    form = b.alloca(I8, BYTES, name="form")
    numbers = [1, *[0] * 15, *[BYTES, 0] * TILES, *[0] * 16, *[SIDE] * TILES, *[0] * 8]
    inside = ", ".join(f"i8 {n}" for n in numbers)
    b.store(Value(f"<{inside}>", Type("i8", BYTES)), form)
    b.call_void("llvm.x86.ldtilecfg", form)
    yield
    b.call_void("llvm.x86.tilerelease")


def zero(b: Builder, number: int) -> None:
    """Tile `number` = 0."""
    b.call_void("llvm.x86.tilezero", const(I8, number))


def load(b: Builder, number: int, place: Value, stride: int | Value) -> None:
    """Tile `number` from memory, `stride` bytes from row to row."""
    b.call_void("llvm.x86.tileloadd64", const(I8, number), place, stride)


def store(b: Builder, number: int, place: Value, stride: int) -> None:
    """Tile `number` to memory, `stride` bytes from row to row."""
    b.call_void("llvm.x86.tilestored64", const(I8, number), place, stride)


def add_products(b: Builder, left: Places, above: Places) -> None:
    """Tiles 0 … 3, two rows of two or fewer, += tiles left of them · tiles above them."""
    for first, (places, stride) in ((4, left), (6, above)):
        for k, place in enumerate(places):
            load(b, first + k, place, stride)
    for i in range(len(left[0])):
        for v in range(len(above[0])):
            numbers = (const(I8, n) for n in (2 * i + v, 4 + i, 6 + v))
            b.call_void("llvm.x86.tdpbf16ps", *numbers)

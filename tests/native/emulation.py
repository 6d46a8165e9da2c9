"""Kernels for AVX-512 and its matrix unit on a processor with AVX2 only: their text, with what only
the former have replaced by functions that do the same. For one thread."""

from __future__ import annotations

import re
from collections.abc import Callable

from tracejit.codegen.native import matrix_unit
from tracejit.codegen.native.builder import Builder, Module, define
from tracejit.codegen.native.matrix_tiles import WIDE
from tracejit.codegen.native.matrix_unit import SIDE, WORDS
from tracejit.codegen.native.types import I8, I32, I64, PTR, Value, named

# What llvm.x86.avx512.mask.reduce (of x to the whole number below), scalef and cvtneps2bf16 do for
# attention's weights: x is at most 0 or -inf.
VECTORS = """
declare <16 x float> @llvm.floor.v16f32(<16 x float>)
declare <16 x i32> @llvm.fptosi.sat.v16i32.v16f32(<16 x float>)
define internal <16 x float> @emulated.reduce(<16 x float> %x) {
  %floor = call <16 x float> @llvm.floor.v16f32(<16 x float> %x)
  %rest = fsub <16 x float> %x, %floor
  %infinite = fcmp oeq <16 x float> %x, splat (float 0xFFF0000000000000)
  %found = select <16 x i1> %infinite, <16 x float> zeroinitializer, <16 x float> %rest
  ret <16 x float> %found
}
define internal <16 x float> @emulated.scalef(<16 x float> %a, <16 x float> %x) {
  %floor = call <16 x float> @llvm.floor.v16f32(<16 x float> %x)
  %nan = fcmp uno <16 x float> %x, %x
  %low = fcmp olt <16 x float> %floor, splat (float -126.0)
  %whole = call <16 x i32> @llvm.fptosi.sat.v16i32.v16f32(<16 x float> %floor)
  %exponent = shl <16 x i32> %whole, splat (i32 23)
  %bits = add <16 x i32> %exponent, splat (i32 1065353216)
  %power = bitcast <16 x i32> %bits to <16 x float>
  %scaled = fmul <16 x float> %a, %power
  %small = select <16 x i1> %low, <16 x float> zeroinitializer, <16 x float> %scaled
  %found = select <16 x i1> %nan, <16 x float> %x, <16 x float> %small
  ret <16 x float> %found
}
define internal <16 x bfloat> @emulated.round(<16 x float> %x) {
  %bits = bitcast <16 x float> %x to <16 x i32>
  %upper = lshr <16 x i32> %bits, splat (i32 16)
  %odd = and <16 x i32> %upper, splat (i32 1)
  %half = add <16 x i32> %odd, splat (i32 32767)
  %up = add <16 x i32> %bits, %half
  %nan = fcmp uno <16 x float> %x, %x
  %kept = select <16 x i1> %nan, <16 x i32> splat (i32 2143289344), <16 x i32> %up
  %high = lshr <16 x i32> %kept, splat (i32 16)
  %cut = trunc <16 x i32> %high to <16 x i16>
  %found = bitcast <16 x i16> %cut to <16 x bfloat>
  ret <16 x bfloat> %found
}
"""
_F = r"<16 x float> [%\w.]+"
INSTEAD = {
    r'"target-features"="[^"]*"': "",
    rf"@llvm.x86.avx512.mask.reduce.ps.512\(({_F}),.*": r"@emulated.reduce(\1)",
    rf"@llvm.x86.avx512.mask.scalef.ps.512\(({_F}), ({_F}),.*": r"@emulated.scalef(\1, \2)",
    r"@llvm.x86.avx512bf16.cvtneps2bf16.512\(": "@emulated.round(",
    r"@llvm.x86.": "@emulated.",
}


def emulated(text: str, unit: bool) -> str:
    """The text of a kernel for AVX-512, for AVX2; `unit`: as if there were a matrix unit."""
    lines = [li for li in text.split("\n") if not li.startswith("declare") or ".x86." not in li]
    found = "\n".join(lines)
    for old, new in INSTEAD.items():
        found = re.sub(old, new, found)
    asked = f"call i1 @{matrix_unit.PERMISSION}()"
    found = found.replace(asked, f"icmp eq i8 0, {0 if unit else 1}")
    declared = set(re.findall(r"^declare .*$", found, re.MULTILINE))
    more = (_tiles() + VECTORS).split("\n")
    return "\n".join([found, *(line for line in more if line not in declared)])


def _tiles() -> str:
    """The matrix unit's eight tiles in memory."""
    module = Module()
    module.declare_global("tiles", "internal global [2048 x i32] zeroinitializer, align 64")
    tiles, number = Value("@tiles", PTR), named(I8, "number")
    memory = [*named(PTR, "place"), *named(I64, "stride")]

    def row(b: Builder, tile: Value, k: Value) -> Value:
        place = b.add(b.mul(b.cast("zext", tile, I64), SIDE * SIDE), b.mul(k, SIDE))
        return b.gep(tiles, I32, place)

    def rows(write: Callable[..., None]) -> Callable[..., None]:
        def body(b: Builder, *given: Value) -> None:
            with b.loop(0, SIDE) as k:
                write(b, k, *given)

        return body

    def load(b: Builder, k: Value, tile: Value, place: Value, stride: Value) -> None:
        b.store(b.load(b.gep(place, I8, b.mul(k, stride)), WORDS, 1), row(b, tile, k))

    def store(b: Builder, k: Value, tile: Value, place: Value, stride: Value) -> None:
        b.store(b.load(row(b, tile, k), WORDS), b.gep(place, I8, b.mul(k, stride)), 1)

    def zero(b: Builder, k: Value, tile: Value) -> None:
        b.store(Value("zeroinitializer", WORDS), row(b, tile, k))

    def multiply(b: Builder, k: Value, total: Value, left: Value, above: Value) -> None:
        with b.loop(0, SIDE) as pair:
            one = b.splat(b.load(b.gep(row(b, left, k), I32, pair), I32), SIDE)
            pairs, sums = (one, b.load(row(b, above, pair), WORDS)), b.load(row(b, total, k), WIDE)
            for op, by in (("shl", 16), ("and", -65536)):
                sums = b.fma(*(b.bitcast(b.binary(op, p, by), "float") for p in pairs), sums)
            b.store(sums, row(b, total, k))

    define(module, "emulated.tileloadd64", [*number, *memory], rows(load))
    define(module, "emulated.tilestored64", [*number, *memory], rows(store))
    define(module, "emulated.tilezero", number, rows(zero))
    define(module, "emulated.tdpbf16ps", named(I8, "total left above"), rows(multiply))
    define(module, "emulated.ldtilecfg", named(PTR, "form"), lambda b, form: None)
    define(module, "emulated.tilerelease", [], lambda b: None)
    return module.text()

"""Transcendental functions by word and kind: those of f32 inlined where there is a polynomial, else
computed in f64 and rounded.
"""

from __future__ import annotations

from tracejit.codegen.native import math_double, math_explog, math_trig
from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.math_registers import Writer, by_registers, in_halves
from tracejit.codegen.native.types import Value

_IN_FLOAT: dict[str, Writer] = {**math_explog.TABLE, **math_trig.TABLE}
WORDS = math_double.TABLE.keys()  # all have one for f64
_ANY_KIND = frozenset({"fmod", "nextafter"})  # of math_double, right for f32 as they are


def call(b: Builder, word: str, *args: Value) -> Value:
    """A word of the vocabulary that has no rule of its own; args of f32 or f64."""
    type = args[0].type
    name = f"{word}.{type.suffix}"

    def write(b: Builder, *values: Value) -> Value:
        return _write(b, word, *values)

    b.module.inline(name, type, [a.type for a in args], write)
    return b.call(name, type, *args)


def _write(b: Builder, word: str, *args: Value) -> Value:
    type, level = args[0].type, b.module.level
    assert level is not None, "functions are written for an instruction set"
    if type.kind == "double" or word in _ANY_KIND:
        return math_double.TABLE[word](b, *args)
    if word not in _IN_FLOAT:
        return _in_double(b, word, *args)
    if type.lanes != level.lanes(32):  # so that results are the same in any number of lanes
        return by_registers(level.lanes(32), lambda *some: call(b, word, *some), b, *args)
    return _IN_FLOAT[word](b, *args)


def _in_double(b: Builder, word: str, *args: Value) -> Value:
    """Of f32 through f64, and rounded."""
    level = b.module.level
    assert level is not None
    if args[0].type.lanes > level.lanes(64):
        return in_halves(lambda *half: _in_double(b, word, *half), b, *args)
    wide = [b.cast("fpext", a, a.type.of("double")) for a in args]
    return b.cast("fptrunc", call(b, word, *wide), args[0].type)

"""Transcendental functions: the C library's, lane by lane."""

from __future__ import annotations

from tracejit.codegen.native.builder import Builder, Value, const

LIBM = {"rsqrt": "", "erfinv": ""}


def call(b: Builder, word: str, *args: Value) -> Value:
    kind = args[0].type.kind
    name = word + ("f" if kind == "float" else "")
    if not args[0].type.lanes:
        return b.call(name, args[0].type, *args)
    result = const(args[0].type, 0)
    for k in range(args[0].type.lanes):
        lane = b.call(name, args[0].type.scalar, *(b.extract(a, k) for a in args))
        result = b.insert(result, lane, k)
    return result

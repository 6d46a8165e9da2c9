"""Transcendental functions in native code: against float64, and eager at the ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.executors import spilled
from tracejit.codegen.native import math, math_double, math_explog, math_trig
from tracejit.codegen.native.builder import Builder, Module
from tracejit.codegen.native.entry import Phase, add_body, add_entry
from tracejit.codegen.native.math_registers import Writer
from tracejit.codegen.native.math_trig import LARGE
from tracejit.codegen.native.objects import compile_text, undefined
from tracejit.codegen.native.types import F32, I64, Type, Value, const
from tracejit.runtime import cpu
from tracejit.runtime.devices.native import UNDEFINED, entry

LEVELS = [name for name in cpu.LEVELS if name in cpu.host_levels()]
each_level = pytest.mark.parametrize("level", LEVELS)
INLINED = (*math_explog.TABLE, *math_trig.TABLE)
EXACT = ("fmod", "nextafter")
WORDS = (*INLINED, *(w for w in math_double.TABLE if w not in (*INLINED, *EXACT)))
each_word = pytest.mark.parametrize("word", WORDS)
PAIRS = frozenset({"atan2", "hypot", "pow", "fmod", "nextafter"})  # words of two operands


# Eager's give inf near the largest numbers, and NaN for large quotients.
NOT_EAGERS = {"sinh": np.sinh, "cosh": np.cosh, "fmod": np.fmod}


def eager(word: str, *args: torch.Tensor) -> torch.Tensor:
    """What the word is of its operands: eager's result, where that is right."""
    if word in NOT_EAGERS:
        with np.errstate(all="ignore"):
            return torch.from_numpy(NOT_EAGERS[word](*(a.numpy() for a in args)))
    found: torch.Tensor = getattr(torch, word)(*args)
    return found


def writer(word: str) -> Writer:
    """What writes a call of the word."""
    return lambda b, *args: math.call(b, word, *args)


def arity(word: str) -> int:
    return 1 + (word in PAIRS)


def text(write: Writer, operands: int, type: Type, level: str, steps: int) -> str:
    """A module whose kernel applies a function to so many vectors (or scalars) in a row."""
    module = Module(level=cpu.LEVELS[level])
    module.inline("word", type, [type] * operands, write)
    names = [f"p{k}" for k in range(operands + 1)]

    def body(b: Builder, pointers: list[Value], begin: Value, end: Value) -> None:
        with b.loop(begin, end) as step:
            place = b.mul(step, const(I64, max(type.lanes, 1)))
            at = [b.gep(p, type.scalar, place) for p in pointers]
            b.store(b.call("word", type, *(b.load(p, type) for p in at[:-1])), at[-1])

    add_body(module, "body", names, body)
    add_entry(module, "kernel", len(names), [Phase("body", steps, steps)], 0)
    return module.text()


def apply(write: Writer, level: str, lanes: int, *args: torch.Tensor) -> torch.Tensor:
    """A function's values, computed so many lanes (0: scalars) at a time; f32 or f64."""
    whole = max(lanes, 1)
    size = args[0].numel()
    padded = [torch.nn.functional.pad(a, (0, -size % whole), value=1.0) for a in args]
    type = Type("float" if args[0].dtype == torch.float32 else "double", lanes)
    source = text(write, len(args), type, level, padded[0].numel() // whole)
    code, _ = compile_text(source, cpu.LEVELS[level])
    result = torch.empty_like(padded[0])
    run = entry("kernel", code, tuple(undefined(source)))
    run(*padded, result)
    return result[:size]


def errors(ours: torch.Tensor, true: np.ndarray) -> np.ndarray:
    """Of f32 results, in units of the last place at the true value (float64); inf where one is NaN
    or infinite and the other is not."""
    got, size = ours.numpy(), np.abs(true)
    rounded = true.astype(np.float32)
    same = (got == rounded) | (np.isnan(got) & np.isnan(true))
    exponent = np.clip(np.frexp(np.where(np.isfinite(size), size, 0))[1] - 1, -126, 127)
    found = np.abs(got.astype(np.float64) - true) / np.ldexp(1.0, exponent - 23)
    ends = ~np.isfinite(rounded) | ~np.isfinite(got)
    return np.where(ends, np.where(same, 0.0, np.inf), found)


def points(seed: int) -> torch.Tensor:
    """Bit patterns over all exponents, NaN and infinities among them; and dense regions."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 32, 400_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    dense = [rng.uniform(-top, top, 200_000) for top in (1.01, 4.0, 110.0, 2 * LARGE)]
    return torch.from_numpy(np.concatenate([bits, *(d.astype(np.float32) for d in dense)]))


@pytest.fixture(scope="module")
def samples() -> list[torch.Tensor]:
    """Two operands."""
    first, second = points(1), points(2)
    order = torch.randperm(second.numel(), generator=torch.Generator().manual_seed(3))
    second = torch.where(order % 2 == 0, second, second[order])  # also of unlike sizes
    return [first, second]


@each_level
@each_word
def test_error(word: str, level: str, samples: list[torch.Tensor]) -> None:
    """At most two units in the last place, on 1.2 million numbers."""
    args = samples[: arity(word)]
    true = eager(word, *(a.double() for a in args)).numpy()
    ours = apply(writer(word), level, cpu.LEVELS[level].lanes(), *args)
    with np.errstate(all="ignore"):
        found = errors(ours, true)
    worst = int(found.argmax())
    assert found[worst] <= 2, [*(a[worst] for a in args), ours[worst], true[worst]]
    if word in ("sin", "cos"):
        assert not bool((ours.abs() > 1).any())


@each_level
@pytest.mark.parametrize("word", ["sin", "cos", "tan"])
def test_next_to_multiples(word: str, level: str) -> None:
    """Numbers whose distance from a multiple of π/2 is tiny: only the last bits of it count."""
    near = np.arange(1, 200_000) * (np.pi / 2)
    hard = [16367173.0 * 2.0**72, 3.3739e30, LARGE, np.nextafter(np.float32(LARGE), np.float32(0))]
    x = np.concatenate([near, -near, hard, np.ldexp(1.0, np.arange(-20, 128))]).astype(np.float32)
    ours = apply(writer(word), level, cpu.LEVELS[level].lanes(), torch.from_numpy(x))
    assert errors(ours, eager(word, torch.from_numpy(x).double()).numpy()).max() <= 2


def specials(dtype: torch.dtype, operands: int) -> list[torch.Tensor]:
    """Zeros, ones, infinities, NaN, the least and the largest numbers; in all pairs."""
    info = torch.finfo(dtype)
    few = [0.0, 1.0, 0.5, torch.inf, info.tiny, info.tiny * info.eps, info.max]
    one = torch.tensor([torch.nan, *few, *(-x for x in few)], dtype=dtype)
    if operands == 1:
        return [one]
    return [one.repeat_interleave(one.numel()), one.repeat(one.numel())]


def same(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Where values and signs of zeros are equal."""
    signs = ours.signbit() == theirs.signbit()
    return (ours.isnan() & theirs.isnan()) | ((ours == theirs) & signs)


@each_level
@each_word
def test_special_values(word: str, level: str) -> None:
    """As eager's of f64, bit for bit where the operand or the result is special."""
    args = specials(torch.float32, arity(word))
    ours = apply(writer(word), level, cpu.LEVELS[level].lanes(), *args)
    theirs = eager(word, *(a.double() for a in args)).float()
    special = ~theirs.isfinite() | (theirs == 0) | ~args[0].isfinite()
    assert bool(same(ours, theirs)[special].all())
    torch.testing.assert_close(ours, theirs, rtol=2.5e-7, atol=0, equal_nan=True)


@each_level
@each_word
@pytest.mark.parametrize("registers", [0, 0.5, 4])
def test_any_number_of_lanes(word: str, level: str, registers: float) -> None:
    """A result does not depend on how many lanes there are, nor on what the other lanes hold."""
    one = cpu.LEVELS[level].lanes()
    args = [x[::97].contiguous() for x in (points(4), points(5))][: arity(word)]
    ours = apply(writer(word), level, int(one * registers), *args)
    assert bool(same(ours, apply(writer(word), level, one, *args)).all())


@pytest.mark.parametrize("level", cpu.LEVELS)
@pytest.mark.parametrize("word", INLINED)
def test_machine_code(word: str, level: str) -> None:
    """No calls but the kernel's own, and enough registers; also for levels that do not run here."""
    type = Type(F32.kind, cpu.LEVELS[level].lanes())
    source = text(writer(word), arity(word), type, level, 64)
    code, assembly = compile_text(source, cpu.LEVELS[level], assembly=True)
    assert code and (spilled(assembly) == 0 or word == "pow")
    assert set(undefined(source)) <= {*UNDEFINED}


# f64


@pytest.mark.parametrize("level", cpu.LEVELS)
@pytest.mark.parametrize("word", math_double.TABLE)
def test_double_compiles(word: str, level: str) -> None:
    for lanes in (0, cpu.LEVELS[level].lanes(64), 2 * cpu.LEVELS[level].lanes(64)):
        source = text(writer(word), arity(word), Type("double", lanes), level, 64)
        assert compile_text(source, cpu.LEVELS[level])[0]


@each_level
@pytest.mark.parametrize("word", math_double.TABLE)
def test_double_equals_eager(word: str, level: str) -> None:
    """Within two units in the last place of each other."""
    args = [x[::7].double() * (1 + 2.0**-30) for x in (points(6), points(7))][: arity(word)]
    ours = apply(writer(word), level, cpu.LEVELS[level].lanes(64), *args)
    theirs = eager(word, *args)
    far = 0 if word in EXACT else 1e-9 if word == "lgamma" else 9e-16
    near = {"atol": 1e-15 if word == "lgamma" else 1e-320, "rtol": far, "equal_nan": True}
    torch.testing.assert_close(ours, theirs, **near)


@each_level
@pytest.mark.parametrize("word", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_words(word: str, level: str, dtype: torch.dtype) -> None:
    args = [
        torch.cat([x[::7].to(dtype), s]) for x, s in zip((points(8), points(9)), specials(dtype, 2))
    ]
    ours = apply(writer(word), level, cpu.LEVELS[level].lanes(), *args)
    assert bool(same(ours, eager(word, *args)).all())

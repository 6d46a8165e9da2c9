"""Tensors that are more than their memory: conjugated or negated as they are read, memory seen as
another dtype. As inputs, written to, and as results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings

import tracejit
from tests.executors import BACKEND
from tests.semantics.cases import attempt, called
from tests.semantics.support import compare, difference
from tracejit.api import dispatcher_of
from tracejit.runtime.aliases import lazily, lazy_bits, physical, retyped

C = torch.complex64
Make = Callable[[], tuple[Any, ...]]


def numbers(*sizes: int) -> torch.Tensor:
    """Small whole numbers: every order of operations gives the same."""
    return torch.randint(1, 9, sizes).float()


def complexes(*sizes: int) -> torch.Tensor:
    return torch.complex(numbers(*sizes), numbers(*sizes))


def starting(at: int) -> torch.Tensor:
    """A matrix that begins `at` elements into its memory."""
    return numbers(40)[at : at + 32].view(8, 4)


LAZY: dict[str, Make] = {
    "neither": lambda: (complexes(3, 2),),
    "conjugated": lambda: (complexes(3, 2).conj(),),
    "negated": lambda: (torch._neg_view(complexes(3, 2)),),
    "both": lambda: (torch._neg_view(complexes(3, 2).conj()),),
    "adjoint": lambda: (complexes(2, 3).mH,),
    "part": lambda: (complexes(5, 2).conj()[2:],),
}
REAL: dict[str, Make] = {
    "imaginary part": lambda: (complexes(3, 2).conj().imag,),
    "negated": lambda: (torch._neg_view(numbers(3, 2)),),
    "real part": lambda: (complexes(3, 2).real,),
    "plain": lambda: (numbers(3, 2),),
}


def read(x: Any) -> Any:
    return x * 2, x.conj() * x, x.real + 1, x.imag.sum(), x.abs(), x.mH @ x


def views(x: Any) -> Any:
    half = x[1:]
    return x, half, x.conj(), half.conj(), x.imag, x.real.t(), torch._neg_view(x), x.resolve_conj()


def constants_written(x: Any) -> Any:
    x[0] = 1
    x[1, 1:] = 2 - 3.25j
    x.conj()[2] = 0.5j
    return x * torch.tensor(1e3 + 2j)


def of_computed(x: Any) -> Any:
    y = x * 2
    return y, y.conj(), y.conj().imag, y[1:].conj(), (x + 1).conj(), (x + 2).conj().imag, y.mH


def written(x: Any) -> Any:
    x.mul_(2)
    x[0] += 1
    return x


def parts_written(x: Any) -> Any:
    x.imag.add_(1)
    x.real[1:] *= 3
    return x.imag, x


def conjugate_written(x: Any) -> Any:
    y = x * 2
    y.conj().mul_(1j)
    torch.view_as_real(y)[..., 0] = 5
    return y.conj(), y


@pytest.mark.parametrize("kind", LAZY)
@pytest.mark.parametrize(
    "function",
    [read, views, of_computed, written, constants_written, parts_written, conjugate_written],
)
def test_complex_input(function: Any, kind: str) -> None:
    others = [make for name, make in LAZY.items() if name != kind]
    assert compare(called(function, LAZY[kind], *others)) == set()


def real_views(x: Any) -> Any:
    return x, x * 2, x + x.abs(), x[1:], torch._neg_view(x), x.view(-1) if x.is_contiguous() else x


def real_written(x: Any) -> Any:
    x.t()[0].add_(1)
    x.mul_(-2)
    return x[1:]


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("function", [real_views, real_written])
def test_real_input(function: Any, kind: str) -> None:
    others = [make for name, make in REAL.items() if name != kind]
    assert compare(called(function, REAL[kind], *others)) == set()


def reinterpreted(x: Any) -> Any:
    i = x.view(torch.int32)
    return i, x.view(torch.uint8)[:, 1::2], i.t()[1:], x


def computed_reinterpreted(x: Any) -> Any:
    y, alone = x * 2, x + 1
    wide = y.view(torch.int64)
    return y, y.view(torch.int16), wide, wide[1:, 0], alone.view(torch.int32), i_sum(y)


def i_sum(y: Any) -> Any:
    return y.view(torch.int32).sum()


def bits_written(x: Any) -> Any:
    i = x.view(torch.int32)
    i.bitwise_and_(-256)
    x += 1
    x.view(torch.int16)[1:, ::2] = 7
    return i


def halves_written(x: Any) -> Any:
    y = x * 2
    y.view(torch.int16)[..., 0].zero_()
    return y, y.view(torch.int32)[1:]


def pairs(x: Any) -> Any:
    z = torch.view_as_complex(x.view(8, 2, 2))
    z.mul_(2)
    return z, z.imag, z.conj(), torch.view_as_complex((x * 3).view(8, 2, 2))


@pytest.mark.parametrize(
    "function", [reinterpreted, computed_reinterpreted, bits_written, halves_written, pairs]
)
def test_other_dtype(function: Any) -> None:
    makes = [lambda: (starting(0),), lambda: (starting(4),), lambda: (starting(2),)]
    assert compare(called(function, *makes)) == set()


def flat(x: Any) -> Any:
    return x.view(torch.int32), (x * 2).view(torch.int16), x


@pytest.mark.parametrize("sizes", [(), (0, 4), (1,), (2, 3, 4)])
def test_other_dtype_of_any_sizes(sizes: tuple[int, ...]) -> None:
    if sizes:
        assert compare(called(flat, lambda: (numbers(*sizes),))) == set()
    same = [lambda: (numbers(*sizes),), lambda: (numbers(*sizes, 2)[..., 1],)]
    assert compare(called(lambda x: (x.view(torch.int32), x), *same)) == set()


@pytest.mark.parametrize("sizes", [(), (3,), (3, 2)])
def test_parts_of_complex_results(sizes: tuple[int, ...]) -> None:
    """One at a time: the result keeps the memory of the whole, as eager's does."""
    parts = {
        "real": lambda x: (x * 2).real,
        "imag": lambda x: (x * 2).imag,
        "conj imag": lambda x: (x * 2).conj().imag,
        "pairs": lambda x: torch.view_as_real(x * 2),
    }
    for name, part in parts.items():
        assert compare(called(part, lambda: (complexes(*sizes),))) == set(), name
        f = tracejit.compile(part, backend=BACKEND, wait=True)
        x = complexes(*sizes)
        f(x)
        wanted, found = (g(x).untyped_storage().nbytes() for g in (part, f))
        assert wanted == found, name


def wide(x: Any) -> Any:
    return x[1:].view(torch.int64), x


def test_where_memory_begins_is_guarded() -> None:
    """A wider dtype is a matter of alignment: eager's error where it does not fit."""
    f = tracejit.compile(wide, backend=BACKEND, wait=True)
    for at in (1, 3, 5, 2, 1, 0, 7):
        x = numbers(20)[at : at + 7]
        if at % 2 == 0:
            with pytest.raises(RuntimeError):
                f(x)
            continue
        view, same = f(x)
        assert same is x and torch.equal(view, x[1:].view(torch.int64))
        assert view.storage_offset() == (at + 1) // 2
        x.fill_(3)
        assert torch.equal(view, x[1:].view(torch.int64))
    assert len([e for e in dispatcher_of(f).entries if e.run is not None]) == 1


def test_results_share_memory() -> None:
    def f(x: Any) -> Any:
        y = x * 2
        return y, y.conj(), y.imag, torch.view_as_real(y), x.conj()

    c = tracejit.compile(f, backend=BACKEND, wait=True)
    for _ in range(3):
        x = complexes(4)
        y, conjugate, imaginary, pairs, of_input = c(x)
        pairs.fill_(7)
        x.fill_(1 + 2j)
        assert torch.equal(y, torch.full_like(y, 7 + 7j))
        assert torch.equal(conjugate.resolve_conj(), torch.full_like(y, 7 - 7j))
        assert torch.equal(imaginary, torch.full((4,), 7.0))
        assert torch.equal(of_input.resolve_conj(), torch.full_like(x, 1 - 2j).resolve_conj())
        assert conjugate.is_conj() and of_input.is_conj() and not y.is_conj()
    assert dispatcher_of(c).entries[0].run is not None


def test_two_objects_on_one_memory() -> None:
    x, y = complexes(3), complexes(3)

    def together(a: Any, b: Any) -> Any:
        return a * b, b, a.imag

    program = called(together, lambda: (x, x.conj()), lambda: (x, y), lambda: (x, y.conj()))
    assert compare(program) == set()


def test_gradients_do_not_lead_to_views() -> None:
    def f(x: Any) -> Any:
        return x.detach()[1:], x.view(torch.int32), x.detach().view(torch.int16)

    def g(x: Any) -> Any:
        with torch.no_grad():
            return x * 2, x.imag + 1, x.conj()[1:]

    def needs(x: torch.Tensor) -> torch.Tensor:
        return x.requires_grad_()

    assert compare(called(f, lambda: (needs(numbers(3)),), lambda: (numbers(3),))) == set()
    lazy = [lambda: (needs(complexes(3)).conj(),), lambda: (complexes(3).conj(),)]
    assert compare(called(g, *lazy)) == set()


def in_inference_mode(x: Any, z: Any) -> Any:
    y = x * 2
    pairs = torch.view_as_complex(x.view(2, 2))
    return x.view(torch.int32), y.view(torch.int16), z[1:], z.conj().imag, z.imag, pairs, z


def there_and_back(x: Any, z: Any) -> Any:
    return x.view(torch.int32).view(torch.float32), z


def both_written(x: Any, z: Any) -> Any:
    z.mul_(2)
    x.view(torch.int32).add_(1)
    return z.imag, z.conj()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("function", [in_inference_mode, there_and_back, both_written])
def test_modes(function: Any, inside: bool, mode: Any) -> None:
    """In inference mode, some views of tensors from outside it are of it, and some are not."""

    def program(c: Any) -> Any:
        f = c(function)
        for _ in range(4):
            with torch.inference_mode(inside):
                x, z = numbers(4), complexes(3).conj()
            with mode():
                yield attempt(f, x, z), x, z

    other = inside != (mode is torch.inference_mode)
    assert compare(program) == ({"output"} if other and function is there_and_back else set())


def test_a_kernel_that_reads_memory_as_it_is() -> None:
    """Eager's max_pool1d overlooks that a tensor is negated."""
    pool = lambda x: torch.nn.functional.max_pool1d(x, 2)  # noqa: E731
    lazy, plain = lambda: (torch._neg_view(numbers(1, 2, 6)),), lambda: (numbers(1, 2, 6),)
    assert compare(called(pool, lazy, plain)) == {"op"}


def test_an_output_begins_its_memory() -> None:
    """A copy of a part of something is no view of all of it."""
    f = tracejit.compile(lambda x: (x * 2)[1:].clone(), backend=BACKEND, wait=True)
    for _ in range(3):
        y = f(numbers(5))
        assert (y.storage_offset(), y.untyped_storage().nbytes()) == (0, 16)


def test_zeros_without_memory() -> None:
    """They look like any other tensor, and a kernel that reads them reads address 0."""
    f = tracejit.compile(lambda x: x + 1, backend=BACKEND, wait=True)
    for _ in range(3):
        assert torch.equal(f(torch.full((3,), 2.0)), torch.full((3,), 3.0))
        assert torch.equal(f(torch._efficientzerotensor((3,))), torch.ones(3))
    assert not dispatcher_of(f).reasons
    g = tracejit.compile(lambda x: x[1:], backend=BACKEND, wait=True)
    assert g(torch._efficientzerotensor((3,)))._is_zerotensor()
    assert {r.kind for r in dispatcher_of(g).reasons} == {"tensor"}


# --- chains of views and writes ---

VIEWS: dict[str, Callable[[Any], Any]] = {
    "conj": lambda a: a.conj(),
    "neg": lambda a: torch._neg_view(a),
    "real": lambda a: a.real,
    "imag": lambda a: a.imag,
    "as pairs": lambda a: torch.view_as_real(a),
    "as complex": lambda a: torch.view_as_complex(a),
    "tail": lambda a: a[1:],
    "every other": lambda a: a[::2],
    "first": lambda a: a[0],
    "turned": lambda a: a.transpose(0, -1),
    "flat": lambda a: a.view(-1),
    "last": lambda a: a[..., -1],
    "int32": lambda a: a.view(torch.int32),
    "int16": lambda a: a.view(torch.int16),
    "uint8": lambda a: a.view(torch.uint8),
    "int64": lambda a: a.view(torch.int64),
    "float32": lambda a: a.view(torch.float32),
    "complex64": lambda a: a.view(C),
    "parameter": lambda a: torch.nn.Parameter(a, requires_grad=False),
}
WRITES: dict[str, Callable[[Any], Any]] = {
    "zero": lambda a: a.zero_(),
    "copy": lambda a: a.copy_(a.flip(0)),
    "clone": lambda a: a.clone(),
    "resolve": lambda a: a.resolve_conj().resolve_neg(),
}
OPS = {**VIEWS, **WRITES}
STARTS = {**LAZY, "imaginary part": REAL["imaginary part"], "matrix": lambda: (starting(4),)}
Steps = list[tuple[str, int]]


def program(steps: Steps, kept: int) -> Callable[[Any], Any]:
    """A function that makes one tensor of another at each step and returns the last ones."""

    def run(x: Any) -> Any:
        made = [x]
        for name, which in steps:
            made.append(OPS[name](made[which]))
        return made[-kept:]

    return run


def possible(steps: Steps, make: Make) -> Steps:
    """The steps that eager takes without an error."""
    made, found = [make()[0]], []
    for name, which in steps:
        at = which % len(made)
        try:
            made.append(OPS[name](made[at]))
        except (RuntimeError, IndexError):
            continue
        found.append((name, at))
    return found


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(STARTS)),
    st.lists(st.tuples(st.sampled_from(sorted(OPS)), st.integers(0, 9)), min_size=2, max_size=8),
    st.integers(1, 9),
)
@example("both", [("imag", 0), ("int32", 1), ("zero", 2), ("conj", 0)], 5)
@example("matrix", [("parameter", 0), ("complex64", 1), ("conj", 2), ("zero", 3)], 5)
def test_chains(start: str, steps: Steps, kept: int) -> None:
    make = STARTS[start]
    found, seen = difference(called(program(possible(steps, make), kept), make))
    assert not found, found
    assert {r.kind for r in seen.reasons} <= {"mutation"}  # a write to elements that overlap


# --- what the runtime does ---


@pytest.mark.parametrize("kind", LAZY)
def test_memory_of_a_lazy_tensor(kind: str) -> None:
    (x,) = LAZY[kind]()
    memory = physical(x)
    assert lazy_bits(memory) == 0
    assert memory.data_ptr() == x.data_ptr() and memory.stride() == x.stride()
    assert torch.equal(lazily(memory, lazy_bits(x)).resolve_neg(), x.resolve_neg())


def test_memory_of_what_needs_gradients() -> None:
    x = complexes(3).requires_grad_().conj()
    assert not physical(x).requires_grad
    assert physical("x") is physical(None)  # nothing


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.complex64])
def test_retyped(dtype: torch.dtype) -> None:
    base = numbers(24)[4:20]
    view = retyped(base, (2,), (1,), 8, dtype, False)
    assert torch.equal(view, base[2:].view(dtype)[:2])
    base.fill_(5)
    assert torch.equal(view, base[2:].view(dtype)[:2])
    if dtype.itemsize == 8:
        with pytest.raises(AssertionError):
            retyped(base, (2,), (1,), 4, dtype, False)


def test_retyped_pairs() -> None:
    base = numbers(24)[4:20]
    numbers_of_pairs = retyped(base, (3,), (2,), 8, C, True)
    assert torch.equal(numbers_of_pairs, torch.view_as_complex(base[2:14].view(6, 2))[::2])
    assert torch.equal(
        retyped(numbers_of_pairs, (2, 3), (1, 2), -4, torch.float32, True), base[1:7].view(3, 2).T
    )
    empty = torch.zeros(0, dtype=C)
    assert retyped(empty, (0, 2), (2, 1), 0, torch.float32, True).shape == (0, 2)
    assert retyped(torch.zeros(0), (0,), (1,), 0, C, True).shape == (0,)

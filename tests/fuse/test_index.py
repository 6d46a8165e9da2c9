"""Index expressions: simplification never changes a value, and finds what makes views of views
collapse.
"""

from __future__ import annotations

import itertools

import sympy
from hypothesis import given
from hypothesis import strategies as st

from tracejit.fuse.index import Axis, FloorDiv, Index, Mod, delinear, linear

AXES = (Axis("i", 3), Axis("j", 4), Axis("k", 5))


def evaluate(index: Index, values: dict[Axis, int]) -> int:
    """The plain meaning of an index expression."""
    total = index.const
    for atom, coefficient in index.terms:
        if isinstance(atom, Axis):
            total += coefficient * values[atom]
        elif isinstance(atom, FloorDiv):
            total += coefficient * (evaluate(atom.index, values) // atom.divisor)
        else:
            assert isinstance(atom, Mod)
            total += coefficient * (evaluate(atom.index, values) % atom.divisor)
    return total


Step = tuple[str, int]
steps = st.lists(st.tuples(st.sampled_from("+*/%ab"), st.integers(1, 24)), min_size=1, max_size=7)


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-20, 20), steps)
def test_arithmetic_equals_integers(a: int, b: int, c: int, program: list[Step]) -> None:
    points = [
        dict(zip(AXES, p, strict=True)) for p in itertools.product(range(3), range(4), range(5))
    ]
    i, j, k = (Index.of(axis) for axis in AXES)
    index = i * a + j * b + k * c
    expected = [p[AXES[0]] * a + p[AXES[1]] * b + p[AXES[2]] * c for p in points]
    saved, saved_expected = index, expected
    for op, n in program:
        if op == "+":
            index, expected = index + n, [e + n for e in expected]
        elif op == "*":
            index, expected = index * n, [e * n for e in expected]
        elif op == "/":
            index, expected = index // n, [e // n for e in expected]
        elif op == "%":
            index, expected = index % n, [e % n for e in expected]
        elif op == "a":  # add an earlier expression: splits get a chance to rejoin
            index, expected = (
                index + saved * n,
                [e + n * s for e, s in zip(expected, saved_expected, strict=True)],
            )
        else:
            saved, saved_expected = index, expected
    assert [evaluate(index, p) for p in points] == expected
    low, high = index.bounds()
    assert low <= min(expected) and max(expected) <= high


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data())
def test_delinear_undoes_linear(sizes: list[int], data: st.DataObject) -> None:
    axes = [Axis(f"x{k}", size) for k, size in enumerate(sizes)]
    index = tuple(Index.of(a) for a in axes)
    assert delinear(linear(index, sizes), sizes) == index
    total = 1
    for size in sizes:
        total *= size
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    first = data.draw(st.sampled_from(divisors))
    other = (first, total // first)
    position = linear(index, sizes)
    there_and_back = linear(delinear(position, other), other)
    for point in itertools.product(*(range(s) for s in sizes)):
        values = dict(zip(axes, point, strict=True))
        assert evaluate(there_and_back, values) == evaluate(position, values)


def test_views_of_views_collapse() -> None:
    batch, row, column = Axis("b", 2), Axis("t", 6), Axis("c", 8)
    flat = linear([Index.of(a) for a in (batch, row, column)], (2, 6, 8))
    rows = delinear(flat, (12, 8))
    assert rows == (Index.of(batch) * 6 + Index.of(row), Index.of(column))
    one = Axis("p", 12)
    split = delinear(Index.of(one), (2, 6))
    assert linear(split, (2, 6)) == Index.of(one)


def test_converts_to_sympy() -> None:
    i, j = Index.of(AXES[0]), Index.of(AXES[1])
    expression = ((i * 5 + j) // 3 + (i + j) % 4 * 2 + 1).to_sympy()
    si, sj = (sympy.Symbol(n, integer=True, nonnegative=True) for n in "ij")
    for a, b in itertools.product(range(3), range(4)):
        assert expression.subs({si: a, sj: b}) == (a * 5 + b) // 3 + (a + b) % 4 * 2 + 1

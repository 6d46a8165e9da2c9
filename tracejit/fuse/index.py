"""Integer index expressions in a canonical form: const + sum of coefficient x atom.

An atom is an axis of the loop nest, a floor-division or a modulo of another index, or an integer
computed by the body (an indirect index). The form is canonical: equal expressions compare equal.
Simplification uses the atoms' bounds, which is what makes views of views collapse: `(4*i + j) // 4`
is `i` where `0 <= j < 4`. sympy is the language for sizes and proofs; this form exists because
index algebra is the hot spot of lowering, and it converts to sympy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from tracejit.fuse.scalar import Scalar


@dataclass(frozen=True)
class Axis:
    """One loop: its variable takes the values 0 … size-1. A reduction axis is combined over, a
    parallel one is not.
    """

    name: str
    size: int
    reduce: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FloorDiv:
    """`index // divisor`, divisor a positive int."""

    index: Index
    divisor: int

    def __str__(self) -> str:
        return f"({self.index}) // {self.divisor}"


@dataclass(frozen=True)
class Mod:
    """`index % divisor`, divisor a positive int, result in 0 … divisor-1."""

    index: Index
    divisor: int

    def __str__(self) -> str:
        return f"({self.index}) % {self.divisor}"


@dataclass(frozen=True)
class Indirect:
    """An i64 computed by the body and used as an index; `size` bounds it: the value is in 0 …
    size-1.
    """

    scalar: Scalar
    size: int

    def __str__(self) -> str:
        return f"[{self.scalar}]"


Atom = Union[Axis, FloorDiv, Mod, Indirect]


class Index:
    """An immutable index expression. Build with `Index.of` and arithmetic: + - * by int, // and %
    by positive int.
    """

    __slots__ = ("_hash", "const", "terms")
    const: int
    terms: tuple[tuple[Atom, int], ...]
    _hash: int

    def __init__(self, terms: Mapping[Atom, int], const: int) -> None:
        kept = [(a, c) for a, c in terms.items() if c != 0]
        if len(kept) > 1:
            if len({abs(c) for _, c in kept}) == len(kept):  # as nearly always: spelling is dear
                kept.sort(key=lambda t: -abs(t[1]))
            else:
                kept.sort(key=lambda t: (-abs(t[1]), str(t[0])))
        self.terms = tuple(kept)
        self.const = const
        self._hash = hash((self.terms, const))

    @staticmethod
    def of(what: int | Atom | Index) -> Index:
        """The index for an int or an atom; an Index is returned as it is."""
        if isinstance(what, Index):
            return what
        if isinstance(what, int):
            return Index({}, what)
        return _of_atom(what)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Index)
            and self._hash == other._hash
            and self.const == other.const
            and self.terms == other.terms
        )

    def __add__(self, other: int | Index) -> Index:
        if isinstance(other, int):
            return self if other == 0 else Index(dict(self.terms), self.const + other)
        if not other.terms:
            return self + other.const
        terms = dict(self.terms)
        for atom, coefficient in other.terms:
            terms[atom] = terms.get(atom, 0) + coefficient
        return _rejoin(Index(terms, self.const + other.const))

    __radd__ = __add__

    def __mul__(self, factor: int) -> Index:
        if factor == 1:
            return self
        return Index({a: c * factor for a, c in self.terms}, self.const * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Index:
        return self * -1

    def __sub__(self, other: int | Index) -> Index:
        return self + (-other)

    def __rsub__(self, other: int) -> Index:
        return -self + other

    def __floordiv__(self, divisor: int) -> Index:
        return _floordiv(self, divisor)

    def __mod__(self, divisor: int) -> Index:
        return _mod(self, divisor)

    @property
    def is_const(self) -> bool:
        return not self.terms

    def axes(self) -> set[Axis]:
        """All axes in the expression, inside divisions, modulos and indirect scalars too."""
        found: set[Axis] = set()
        for atom, _ in self.terms:
            if isinstance(atom, Axis):
                found.add(atom)
            elif isinstance(atom, Indirect):
                found |= atom.scalar.axes()
            else:
                found |= atom.index.axes()
        return found

    def indirects(self) -> list[Scalar]:
        """The scalars used as indirect indices, in order."""
        found: list[Scalar] = []
        for atom, _ in self.terms:
            if isinstance(atom, Indirect):
                found.append(atom.scalar)
            elif not isinstance(atom, Axis):
                found.extend(atom.index.indirects())
        return found

    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value, inclusive, each atom taken on its own (so possibly too wide,
        never too narrow).
        """
        low = high = self.const
        for atom, coefficient in self.terms:
            a, b = _atom_bounds(atom)
            low += coefficient * (a if coefficient > 0 else b)
            high += coefficient * (b if coefficient > 0 else a)
        return low, high

    def coefficient(self, axis: Axis) -> int:
        """Coefficient of the axis outside divisions and modulos."""
        return dict(self.terms).get(axis, 0)

    def replace(self, change: Callable[[Atom], Index | None]) -> Index:
        """Replace axes and indirect atoms by what `change` gives (None: keep), simplifying on the
        way up.
        """
        total = Index.of(self.const)
        for atom, coefficient in self.terms:
            new = change(atom)
            if new is None:
                if isinstance(atom, FloorDiv):
                    new = atom.index.replace(change) // atom.divisor
                elif isinstance(atom, Mod):
                    new = atom.index.replace(change) % atom.divisor
                else:
                    new = Index.of(atom)
            total = total + new * coefficient
        return total

    def __str__(self) -> str:
        parts = []
        for atom, coefficient in self.terms:
            text = f"({atom})" if isinstance(atom, (FloorDiv, Mod)) else str(atom)
            parts.append(text if coefficient == 1 else f"{coefficient}*{text}")
        if self.const or not parts:
            parts.append(str(self.const))
        return " + ".join(parts)

    __repr__ = __str__

    def to_sympy(self) -> Any:
        """The same expression in sympy; axes become symbols of their name. Indirect atoms become
        symbols too.
        """
        import sympy

        total = sympy.Integer(self.const)
        for atom, coefficient in self.terms:
            if isinstance(atom, FloorDiv):
                value = sympy.floor(atom.index.to_sympy() / atom.divisor)
            elif isinstance(atom, Mod):
                value = sympy.Mod(atom.index.to_sympy(), atom.divisor)
            else:
                value = sympy.Symbol(str(atom), integer=True, nonnegative=True)
            total += coefficient * value
        return total


ZERO = Index({}, 0)


@lru_cache(maxsize=1 << 14)
def _of_atom(atom: Atom) -> Index:
    if isinstance(atom, (Axis, Indirect)) and atom.size == 1:
        return ZERO  # an axis of one step is always 0
    return Index({atom: 1}, 0)


def _atom_bounds(atom: Atom) -> tuple[int, int]:
    if isinstance(atom, (Axis, Indirect)):
        return 0, max(atom.size - 1, 0)
    if isinstance(atom, Mod):
        return 0, atom.divisor - 1
    low, high = atom.index.bounds()
    return low // atom.divisor, high // atom.divisor


@lru_cache(maxsize=1 << 16)
def _floordiv(index: Index, divisor: int) -> Index:
    if divisor == 1:
        return index
    whole = {a: c // divisor for a, c in index.terms if c % divisor == 0}
    rest = Index({a: c for a, c in index.terms if c % divisor}, index.const % divisor)
    outside = Index(whole, index.const // divisor)
    if not rest.terms:
        return outside
    low, high = rest.bounds()
    if low // divisor == high // divisor:
        return outside + low // divisor
    # (k*(a) + b) // (k*m) == a // m when 0 <= b < k
    common = _common_factor(rest, divisor)
    if common > 1:
        return outside + _floordiv(_split(rest, common)[0], divisor // common)
    alone = _alone(rest)
    if isinstance(alone, FloorDiv):
        return outside + _floordiv(alone.index, alone.divisor * divisor)
    return outside + Index({FloorDiv(rest, divisor): 1}, 0)


@lru_cache(maxsize=1 << 16)
def _mod(index: Index, divisor: int) -> Index:
    if divisor == 1:
        return ZERO
    rest = Index(
        {a: c % divisor if c >= 0 else c for a, c in index.terms if c % divisor},
        index.const % divisor,
    )
    low, high = rest.bounds()
    if low // divisor == high // divisor:
        return rest - (low // divisor) * divisor
    common = _common_factor(rest, divisor)
    if common > 1:  # (k*a + b) % (k*m) == k*(a % m) + b when 0 <= b < k
        major, minor = _split(rest, common)
        return _mod(major, divisor // common) * common + minor
    alone = _alone(rest)
    if isinstance(alone, Mod) and alone.divisor % divisor == 0:
        return _mod(alone.index, divisor)
    return Index({Mod(rest, divisor): 1}, 0)


def _alone(index: Index) -> Atom | None:
    """The atom that the index is, if it is nothing more."""
    (atom, coefficient), *more = index.terms
    return None if more or coefficient != 1 or index.const else atom


def _split(index: Index, unit: int) -> tuple[Index, Index]:
    """major and minor: the index is unit·major + minor, whose terms `unit` does not divide."""
    major = {a: c // unit for a, c in index.terms if c % unit == 0}
    minor = {a: c for a, c in index.terms if c % unit}
    return Index(major, index.const // unit), Index(minor, index.const % unit)


def _common_factor(rest: Index, divisor: int) -> int:
    """The largest k dividing `divisor` such that the terms not divisible by k stay within 0 … k-1;
    1 if none.
    """
    candidates = {abs(c) for _, c in rest.terms if divisor % abs(c) == 0} - {1}
    for candidate in sorted(candidates, reverse=True):
        low, high = _split(rest, candidate)[1].bounds()
        if low >= 0 and high < candidate:
            return candidate
    return 1


def _rejoin(index: Index) -> Index:
    """Undo a split: `d*(x // d) + x % d` is `x`, and `d*((x // d) % m) + x % d` is `x % (d*m)`."""
    mods = [(a, c) for a, c in index.terms if isinstance(a, Mod)]
    if not mods:
        return index
    terms = dict(index.terms)
    for mod, coefficient in mods:
        for atom, other in index.terms:
            if (
                other != coefficient * mod.divisor
                or terms.get(mod) != coefficient
                or terms.get(atom) != other
            ):
                continue
            joined: Index | None = None
            if (
                isinstance(atom, FloorDiv)
                and atom.divisor == mod.divisor
                and atom.index == mod.index
            ):
                joined = mod.index
            elif isinstance(atom, Mod) and mod.index // mod.divisor == atom.index:
                joined = mod.index % (mod.divisor * atom.divisor)
            if joined is not None:
                del terms[mod], terms[atom]
                return Index(terms, index.const) + joined * coefficient
    return index


def unbroadcast(index: Sequence[Index], sizes: Sequence[int]) -> tuple[Index, ...]:
    """The index into a tensor of `sizes` that is broadcast to the shape `index` ranges over."""
    tail = index[len(index) - len(sizes) :]
    return tuple(ZERO if size == 1 else i for i, size in zip(tail, sizes, strict=True))


def linear(index: Sequence[Index], sizes: Sequence[int]) -> Index:
    """Row-major position of a multi-dimensional index."""
    strides = [1] * len(sizes)
    for k in range(len(sizes) - 1, 0, -1):
        strides[k - 1] = strides[k] * sizes[k]
    return dot(index, strides)


def delinear(position: Index, sizes: Sequence[int]) -> tuple[Index, ...]:
    """Multi-dimensional index of a row-major position; the inverse of `linear` for positions in
    range.
    """
    found: list[Index] = []
    step = 1
    for k, size in reversed(list(enumerate(sizes))):
        digit = position // step
        found.append(digit if k == 0 else digit % max(size, 1))
        step *= max(size, 1)
    return tuple(reversed(found)) if sizes else ()


def dot(index: Iterable[Index], strides: Iterable[int]) -> Index:
    """Memory position of a multi-dimensional index in elements."""
    terms: dict[Atom, int] = {}
    const = 0
    for part, stride in zip(index, strides, strict=True):
        const += part.const * stride
        for atom, coefficient in part.terms:
            terms[atom] = terms.get(atom, 0) + coefficient * stride
    return _rejoin(Index(terms, const))


def reach(index: Index) -> int:
    """A bound on every partial sum of the index's terms, and inside its divisions."""
    total, inside = abs(index.const), 0
    for atom, coefficient in index.terms:
        low, high = _atom_bounds(atom)
        total += abs(coefficient) * max(abs(low), abs(high))
        if isinstance(atom, (FloorDiv, Mod)):
            inside = max(inside, reach(atom.index) + atom.divisor)
    return max(total, inside)

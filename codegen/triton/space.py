"""The iteration space of a kernel as text: variables for rows and columns, their masks, and index
expressions.

Parallel axes are flattened to one variable, reduction axes to another; the nest's own axes come
back by `//` and `%` only where an index needs them. A variable is defined where it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tracejit.codegen.triton.names import Names
from tracejit.codegen.triton.rules import ADD, ATOM, MUL
from tracejit.codegen.triton.strategy import Strategy, is_wide
from tracejit.fuse.index import Atom, Axis, FloorDiv, Index, Indirect, delinear
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.scalar import Scalar

Piece = tuple[str, int]  # text and how tightly it binds


@dataclass
class Line:
    """Rows or columns: the flat variable, its mask, and how many there are."""

    axes: tuple[Axis, ...]
    flat: Axis
    block: str  # "XBLOCK" or "RBLOCK"
    masked: bool
    mask: str = ""
    digits: dict[Atom, Axis] = field(default_factory=dict)
    where: dict[Axis, Index] = field(default_factory=dict)  # the nest's axes in terms of `flat`


class Space:
    """Renders indices and masks. `rows` are the parallel axes, `columns` the reduction axes (None
    for pointwise).
    """

    def __init__(self, nest: LoopNest, strategy: Strategy, names: Names) -> None:
        self.strategy, self.names = strategy, names
        self.wide = is_wide(nest, strategy)
        self.pointwise = strategy.kind == "pointwise"
        self.flat_rows = (
            strategy.xblock == 1 and not self.pointwise
        )  # a program has one row: no dimension for it
        self.rows = self._line(
            nest.parallel, "element" if self.pointwise else "row", "XBLOCK", strategy.xblock
        )
        self.columns = self._line(nest.reduction, "column", "RBLOCK", strategy.rblock)
        self.variable: dict[Axis, str] = {}  # defined so far in the scopes in force
        self.define: Callable[[bool, str], None] = _nowhere  # (inner scope?, statement)
        self.piece: Callable[[Scalar], Piece] = _unknown

    def _line(self, axes: tuple[Axis, ...], name: str, block: str, size: int) -> Line:
        total = 1
        for axis in axes:
            total *= axis.size
        label = axes[0].name if len(axes) == 1 and self.pointwise else name
        flat = Axis(self.names.fresh(label), total, any(a.reduce for a in axes))
        masked = total % size != 0 if size else False
        line = Line(axes, flat, block, masked)
        line.where = dict(zip(axes, delinear(Index.of(flat), [a.size for a in axes]), strict=True))
        if len(axes) > 1:
            for axis, digit in line.where.items():
                if len(digit.terms) == 1 and digit.const == 0 and digit.terms[0][1] == 1:
                    line.digits.setdefault(digit.terms[0][0], axis)
        if masked:
            line.mask = self.names.fresh("mask" if self.pointwise else f"{name}_mask")
        return line

    def dims(self, axes: frozenset[Axis] | set[Axis]) -> tuple[bool, bool]:
        """Whether a value over these axes has the dimension of rows, and that of columns."""
        return any(not a.reduce for a in axes) and not self.flat_rows, any(a.reduce for a in axes)

    @property
    def shape(self) -> str:
        """The full tile."""
        return self.shape_of((True, True))

    def shape_of(self, dims: tuple[bool, bool]) -> str:
        """The shape of a value that has these dimensions."""
        if self.pointwise:
            return "[XBLOCK]"
        if self.flat_rows:
            return "[RBLOCK]"
        return f"[{'XBLOCK' if dims[0] else 1}, {'RBLOCK' if dims[1] else 1}]"

    def head(self, line: Line) -> str:
        """The definition of the flat variable, outside a loop."""
        block, wide = line.block, ".to(tl.int64)" if self.wide else ""
        across = f"tl.arange(0, {block})"
        if line is self.columns:
            return f"{line.flat.name} = {across}{wide}{'' if self.flat_rows else '[None, :]'}"
        if self.flat_rows:
            return f"{line.flat.name} = tl.program_id(0){wide}"
        down = "" if self.pointwise else "[:, None]"
        return f"{line.flat.name} = tl.program_id(0){wide} * {block} + {across}{down}"

    def head_in_loop(self) -> str:
        """The definition of the column variable inside the loop over chunks."""
        wide = ".to(tl.int64)" if self.wide else ""
        across = "" if self.flat_rows else "[None, :]"
        return f"{self.columns.flat.name} = start + tl.arange(0, RBLOCK){wide}{across}"

    def forget(self, line: Line) -> None:
        """The scope in which the variables of `line` were defined ended."""
        for axis in (line.flat, *line.axes):
            self.variable.pop(axis, None)
            self.variable.pop(Axis(f"{axis.name} mask", axis.size, axis.reduce), None)

    def flat(self, line: Line) -> str:
        """The flat variable of `line`, defined if it is not yet."""
        if line.flat not in self.variable:
            looped = line is self.columns and self.strategy.kind == "looped"
            self.define(line is self.columns, self.head_in_loop() if looped else self.head(line))
            self.variable[line.flat] = line.flat.name
        return line.flat.name

    def mask(self, line: Line) -> str:
        """The mask of `line`, defined if it is not yet; empty where every position is valid."""
        marker = Axis(f"{line.flat.name} mask", line.flat.size, line.flat.reduce)
        if line.masked and marker not in self.variable:
            flat = self.flat(line)
            self.define(line is self.columns, f"{line.mask} = {flat} < {line.flat.size}")
            self.variable[marker] = line.mask
        return line.mask

    def masks(self, dims: tuple[bool, bool]) -> list[str]:
        """The masks that an access with these dimensions needs."""
        lines = [line for line, has in zip((self.rows, self.columns), dims, strict=True) if has]
        return [m for m in map(self.mask, lines) if m]

    def axis(self, line: Line, axis: Axis) -> str:
        """A variable for one of several axes of `line`."""
        if axis not in self.variable:
            size, flat = line.flat.size, self.flat(line)
            inner = 1
            for other in reversed(line.axes):
                if other == axis:
                    break
                inner *= other.size
            text = f"{flat} // {inner}" if inner > 1 else flat
            if axis.size * inner < size:
                text = f"{text} % {axis.size}"
            name = self.names.fresh(axis.name)
            self.define(line is self.columns, f"{name} = {text}")
            self.variable[axis] = name
        return self.variable[axis]

    def flattened(self, index: Index) -> Index:
        """The index in terms of the flat variables."""

        def change(atom: Atom) -> Index | None:
            if not isinstance(atom, Axis):
                return None
            return (self.columns if atom.reduce else self.rows).where.get(atom)

        return index.replace(change)

    def terms(self, index: Index) -> list[Piece]:
        """The summands of an index as text, constant last; empty for 0."""
        index = self.flattened(index)
        found: list[Piece] = []
        for atom, coefficient in index.terms:
            text, level = self._atom(atom)
            if coefficient != 1:
                text, level = f"{_fit((text, level), MUL)} * {coefficient}", MUL
            found.append((text, level))
        if index.const:
            found.append((str(index.const), ATOM))
        return found

    def _atom(self, atom: Atom) -> Piece:
        if isinstance(atom, Axis):
            return self.flat(self.columns if atom.reduce else self.rows), ATOM
        if isinstance(atom, Indirect):
            return self.piece(atom.scalar)
        for line in (self.rows, self.columns):
            if atom in line.digits:
                return self.axis(line, line.digits[atom]), ATOM
        inner, symbol = atom.index, "//" if isinstance(atom, FloorDiv) else "%"
        low, _ = inner.bounds()
        lift = -(low // atom.divisor) if low < 0 else 0  # Triton's division rounds toward zero
        text = f"{_fit(self.sum(inner + lift * atom.divisor), MUL)} {symbol} {atom.divisor}"
        if lift and isinstance(atom, FloorDiv):
            return f"{text} - {lift}", ADD
        return text, MUL

    def sum(self, index: Index) -> Piece:
        """An index as one expression."""
        pieces = self.terms(index)
        if not pieces:
            return "0", ATOM
        if len(pieces) == 1:
            return pieces[0]
        return join([p[0] for p in pieces]), ADD

    def pointer(self, buffer: str, index: Index) -> str:
        """`buffer_ptr + …`"""
        return join([f"{buffer}_ptr", *(_fit(p, ADD) for p in self.terms(index))])


def join(parts: list[str]) -> str:
    """A sum; a part that begins with a minus is subtracted."""
    text = parts[0]
    for part in parts[1:]:
        text += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
    return text


def _fit(piece: Piece, level: int) -> str:
    return piece[0] if piece[1] >= level else f"({piece[0]})"


def _nowhere(inner: bool, statement: str) -> None:
    raise AssertionError(f"no scope is open for {statement!r}")


def _unknown(scalar: Scalar) -> Piece:
    raise AssertionError(f"{scalar!r} has not been computed")

"""Writes the statements of a kernel: one for each expression, or none where it reads well inside
its only user.
"""

from __future__ import annotations

from collections.abc import Iterable

from tracejit.codegen.triton.names import Names
from tracejit.codegen.triton.rules import (
    AND,
    ANY,
    ATOM,
    PHILOX,
    TL,
    Combine,
    Rule,
    bitcast_rule,
    cast_rule,
    combine_for,
    literal,
    literal_has_type,
    needs_type,
    rule_for,
    typed,
)
from tracejit.codegen.triton.rules import REPEATS as NAMED_OPERANDS
from tracejit.codegen.triton.space import Piece, Space
from tracejit.codegen.triton.strategy import Strategy
from tracejit.fuse.index import Index
from tracejit.fuse.loopnest import LoopNest, Store
from tracejit.fuse.reductions import identity, reduced_as
from tracejit.fuse.scalar import REDUCTIONS, SCANS, Load, Scalar
from tracejit.ir.graph import Origin

LONGEST_FOLD = 56  # characters of an expression that goes inside its user


class Emitter:
    """Statements go to `outer` (once a row), `inner` (for each chunk of columns) or `after` (when
    the loop is done).

    Without a loop the three are one list.

    """

    def __init__(self, nest: LoopNest, kernel: str, strategy: Strategy, names: Names) -> None:
        self.nest, self.kernel, self.names = nest, kernel, names
        self.looped = strategy.kind == "looped"
        self.space = Space(nest, strategy, names)
        self.space.define = self._define
        self.space.piece = lambda scalar: self.pieces[scalar.key]
        self.lines: list[str] = []
        self.inner: list[str] = self.lines
        self.after: list[str] = self.lines
        self.pieces: dict[int, Piece] = {}
        self.in_loop: set[int] = set()  # expressions that end with the current loop
        self.shown: set[Origin] = set()
        self.combines: dict[str, Combine] = {}
        self.users = self._users()
        self.varying = varying(nest)
        self.held = {s.value.key: s.buffer for s in reversed(nest.stores)}

    def _users(self) -> dict[int, list[Scalar | None]]:
        """Who uses an expression as an operand; None stands for an index or a store."""
        found: dict[int, list[Scalar | None]] = {}
        for scalar in self.nest.body():
            for arg in scalar.args:
                found.setdefault(arg.key, []).append(scalar)
            for arg in scalar.deps()[len(scalar.args) :]:
                found.setdefault(arg.key, []).append(None)
        for store in self.nest.stores:
            for needed in store.needs:
                found.setdefault(needed.key, []).append(None)
        return found

    # Statements

    def compute(self, roots: Iterable[Scalar]) -> None:
        """Write what the roots need and do not have yet."""
        for scalar in self._missing(tuple(roots)):
            self._emit(scalar)

    def _missing(self, roots: tuple[Scalar, ...]) -> list[Scalar]:
        """What is not computed yet, operands first; nothing below what is."""
        found: dict[int, Scalar] = {}
        stack = [(r, False) for r in reversed(roots)]
        while stack:
            scalar, ready = stack.pop()
            if scalar.key in self.pieces or scalar.key in found:
                continue
            if ready:
                found[scalar.key] = scalar
            else:
                stack.append((scalar, True))
                stack.extend((d, False) for d in reversed(scalar.deps()))
        return list(found.values())

    def store(self, store: Store) -> None:
        """Write one store; its value and index have been computed."""
        dims = self._dims(store.index)
        masks = self.space.masks(dims)
        where = self.space.pointer(store.buffer, store.index)
        wanted = dims
        for part in (store.value, store.mask) if store.mask is not None else ():
            rows, columns = self.space.dims(part.axes())[0], self.varies(part)
            wanted = (wanted[0] or rows, wanted[1] or columns)
        if dims != wanted:  # a mask picks the one place of many that is stored
            where += f" + tl.full({self.space.shape_of(wanted)}, 0, tl.int32)"
        value = self.operand(store.value, Rule("{0}"), 0)
        if store.mask is not None:
            need = AND + 1 if masks else ANY
            masks = [*masks, self.operand(store.mask, Rule("", needs=(need,)), 0)]
        mask = f", mask={' & '.join(masks)}" if masks else ""
        self._block(wanted[1]).append(f"tl.store({where}, {value}{mask})")

    def end_loop(self) -> None:
        """Forget what was computed for one chunk."""
        for key in self.in_loop:
            del self.pieces[key]
        self.in_loop.clear()
        self.space.forget(self.space.columns)

    def _define(self, inner: bool, statement: str) -> None:
        self._block(inner).append(statement)

    def _block(self, inner: bool) -> list[str]:
        return self.inner if inner else self.lines

    def _emit(self, scalar: Scalar) -> None:
        if scalar.op == "reduce":
            self._reduce(scalar)
        elif scalar.op == "const":
            self.pieces[scalar.key] = (typed(scalar.arg, scalar.dtype), ATOM)
        else:
            piece = self._expression(scalar)
            if not self._folds(scalar, piece):
                piece = self._bind(scalar, piece)
            self._keep(scalar, piece)

    def _keep(self, scalar: Scalar, piece: Piece) -> None:
        self.pieces[scalar.key] = piece
        if self.looped and self.varies(scalar):
            self.in_loop.add(scalar.key)

    def _bind(self, scalar: Scalar, piece: Piece) -> Piece:
        """A statement that gives the expression a name."""
        name = self._name(scalar)
        block = self._block(self.varies(scalar))
        self._comment(scalar, block)
        block.append(f"{name} = {piece[0]}")
        return name, ATOM

    def _comment(self, scalar: Scalar, block: list[str]) -> None:
        """The user's line, the first time that something from it is written."""
        origin = self.nest.line_of.get(scalar.key)
        if origin is not None and origin.file and origin not in self.shown:
            self.shown.add(origin)
            block.append(f"# {origin}")

    def _name(self, scalar: Scalar) -> str:
        source = scalar
        while source.op == "cast":
            source = source.args[0]
        if isinstance(source.arg, Load):
            return self.names.fresh(source.arg.buffer)
        if scalar.key in self.held:
            return self.names.fresh(self.held[scalar.key])
        if scalar.op == "scan":
            return self.names.fresh(f"running_{scalar.arg}")
        return self.names.temporary()

    def _folds(self, scalar: Scalar, piece: Piece) -> bool:
        """Whether the expression is written inside its user instead of having a name."""
        users = self.users.get(scalar.key, [])
        if len(users) != 1 or users[0] is None or scalar.op == "scan":
            return False
        user = users[0]
        if isinstance(scalar.arg, Load):
            return user.op == "cast" and len(piece[0]) <= LONGEST_FOLD + 20
        if (
            user.op in ("reduce", "scan")
            or user.op in NAMED_OPERANDS
            or self.varies(user) != self.varies(scalar)
        ):
            return False
        same_line = self.nest.line_of.get(user.key) == self.nest.line_of.get(scalar.key)
        return same_line and len(piece[0]) <= LONGEST_FOLD

    # Expressions

    def varies(self, scalar: Scalar) -> bool:
        """Whether the value differs from column to column."""
        return scalar.key in self.varying

    def _expression(self, scalar: Scalar) -> Piece:
        if scalar.op == "load":
            return self._load(scalar), ATOM
        if scalar.op == "index":
            assert isinstance(scalar.arg, Index)
            text, level = self.space.sum(scalar.arg)
            return f"{text if level >= ATOM else f'({text})'}.to(tl.int64)", ATOM
        if scalar.op == "scan":
            return self._scan(scalar), ATOM
        if scalar.op == "philox":
            beside = PHILOX.apart_from(self.kernel)
            self.combines[beside.name] = beside
            place, key = (self.operand(a, Rule(""), 0, explicit=True) for a in scalar.args)
            return f"{beside.name}({place}, {key})", ATOM
        if scalar.op == "cast":
            rule = cast_rule(scalar.args[0].dtype, scalar.dtype)
        elif scalar.op == "bitcast":
            rule = bitcast_rule(scalar.dtype)
        else:
            rule = rule_for(scalar)
        return self._apply(rule, scalar), rule.level

    def _apply(self, rule: Rule, scalar: Scalar) -> str:
        constants = all(a.op == "const" for a in scalar.args)
        operands = [
            self.operand(a, rule, k, constants and k == 0) for k, a in enumerate(scalar.args)
        ]
        return rule.template.format(*operands)

    def operand(self, scalar: Scalar, rule: Rule, position: int, explicit: bool = False) -> str:
        """An operand as text. Constants are bare where Triton gives a literal the right dtype."""
        need = rule.needs[position] if position < len(rule.needs) else ANY
        piece = self.pieces[scalar.key]
        if scalar.op == "const" and not explicit:
            infix = rule.infix and not needs_type(scalar.arg, scalar.dtype)
            bare = infix or literal_has_type(scalar.arg, scalar.dtype)
            if bare and need < ATOM:
                piece = literal(scalar.arg, scalar.dtype)
        return piece[0] if piece[1] >= need else f"({piece[0]})"

    def _dims(self, index: Index) -> tuple[bool, bool]:
        """Whether a position has the dimension of rows, and that of columns."""
        rows, columns = self.space.dims(index.axes())
        return rows, columns or any(self.varies(s) for s in index.indirects())

    def _load(self, scalar: Scalar) -> str:
        assert isinstance(scalar.arg, Load)
        index = scalar.arg.index
        dims = self._dims(index)
        wanted = (self.space.dims(scalar.axes())[0], self.varies(scalar))
        masks = self.space.masks(dims)
        if scalar.args:
            masks.append(
                self.operand(scalar.args[0], Rule("", needs=(AND + 1 if masks else ANY,)), 0)
            )
        where = self.space.pointer(scalar.arg.buffer, index)
        if dims != wanted:  # the mask varies where the position does not
            where += f" + tl.full({self.space.shape_of(wanted)}, 0, tl.int32)"
        if not masks:
            return f"tl.load({where})"
        other = ", other=0" if scalar.args or (dims[1] and self.space.columns.masked) else ""
        return f"tl.load({where}, mask={' & '.join(masks)}{other})"

    # Reductions and scans

    def _combine(self, name: str, word: str | None, dtype: str) -> str:
        found = combine_for(name, word, dtype).apart_from(self.kernel)
        self.combines[found.name] = found
        return found.name

    def _element(self, scalar: Scalar, dtype: str) -> str:
        """What is combined, in the dtype for that; the identity where there is no column."""
        element = scalar.args[0]
        text = self.operand(element, Rule("{0}"), 0, explicit=True)
        if element.dtype != dtype:
            level_needed = cast_rule(element.dtype, dtype)
            text = level_needed.template.format(
                self.operand(element, level_needed, 0, explicit=True)
            )
        mask = self.space.mask(self.space.columns) if scalar.op == "reduce" else ""
        unit = identity(scalar.arg, dtype)
        if mask and not (unit == 0 and _zero_outside(element)):
            bare = literal(unit, dtype)[0] if literal_has_type(unit, dtype) else typed(unit, dtype)
            return f"tl.where({mask}, {text}, {bare})"
        if not self.varies(element):
            return f"tl.broadcast_to({text}, {self.space.shape})"
        return text

    def _reduce(self, scalar: Scalar) -> None:
        name: str = scalar.arg
        word = REDUCTIONS[name]
        dtype = reduced_as(name, scalar.args[0].dtype)
        self._comment(scalar, self._block(True))
        if word is None:
            result = self._first_of(scalar, dtype)
        else:
            result = self._total(scalar, dtype, self._combine(name, word, dtype))
        self.pieces[scalar.key] = (result, ATOM)

    def _total(self, scalar: Scalar, dtype: str, combine: str) -> str:
        """A reduction whose result is a combined element."""
        element = self._element(scalar, dtype)
        if self.looped:
            partial = self.names.fresh("partial")
            unit = literal(identity(scalar.arg, dtype), dtype)[0]
            self.lines.append(f"{partial} = tl.full({self.space.shape}, {unit}, {TL[dtype]})")
            self.inner.append(f"{partial} = {combine}({partial}, {element})")
            element = partial
        result = self.names.fresh(f"row_{scalar.arg}")
        reduced = f"tl.reduce({element}, {self._axis}, {combine}){self._keep_dims}"
        self.after.append(f"{result} = {reduced}")
        if dtype != scalar.dtype:
            self.after.append(f"{result} = {result}{self._back(scalar.dtype, dtype)}")
        return result

    def _back(self, wanted: str, have: str) -> str:
        if wanted == "bool":
            return " != 0"
        return cast_rule(have, wanted).template.format("")

    def _first_of(self, scalar: Scalar, dtype: str) -> str:
        """argmax and argmin: pairs of a value and its position."""
        combine = self._combine(scalar.arg, None, dtype)
        value = self._element(scalar, dtype)
        column = self.space.flat(self.space.columns)
        if not self.space.flat_rows:
            wide = self.names.fresh("columns")
            self.inner.append(f"{wide} = tl.broadcast_to({column}, {self.space.shape})")
            column = wide
            if not any(not a.reduce for a in scalar.args[0].axes()):
                value = f"tl.broadcast_to({value}, {self.space.shape})"
        result = self.names.fresh(f"row_{scalar.arg}")
        if self.looped:
            best, place = self.names.fresh("best"), self.names.fresh("place")
            unit = literal(identity(scalar.arg, dtype), dtype)[0]
            width = 64 if self.space.wide else 32
            self.lines.append(f"{best} = tl.full({self.space.shape}, {unit}, {TL[dtype]})")
            self.lines.append(
                f"{place} = tl.full({self.space.shape}, {(1 << width - 1) - 1}, tl.int{width})"
            )
            self.inner.append(f"{best}, {place} = {combine}({best}, {place}, {value}, {column})")
            value, column = best, place
        unused = self.names.fresh("_")
        self.after.append(
            f"{unused}, {result} = tl.reduce(({value}, {column}), {self._axis}, {combine})"
        )
        self.after.append(f"{result} = {result}{self._keep_dims}.to(tl.int64)")
        return result

    def _scan(self, scalar: Scalar) -> str:
        name: str = scalar.arg
        dtype = reduced_as(name, scalar.args[0].dtype)
        combine = self._combine(name, SCANS[name], dtype)
        element = self._element(scalar, dtype)
        back = "" if dtype == scalar.dtype else self._back(scalar.dtype, dtype)
        text = f"tl.associative_scan({element}, {self._axis}, {combine})"
        if self.looped:
            carry = self.names.fresh("carry")
            unit = literal(identity(name, dtype), dtype)[0]
            shape = "[]" if self.space.flat_rows else "[XBLOCK, 1]"
            self.lines.append(f"{carry} = tl.full({shape}, {unit}, {TL[dtype]})")
            part = self.names.fresh("part")
            self.inner.append(f"{part} = {combine}({carry}, {text})")
            whole = f"tl.reduce({element}, {self._axis}, {combine}){self._keep_dims}"
            self.inner.append(f"{carry} = {combine}({carry}, {whole})")
            text = part
        return f"({text}{back})" if back.startswith(" ") else f"{text}{back}"

    @property
    def _axis(self) -> int:
        return 0 if self.space.flat_rows else 1

    @property
    def _keep_dims(self) -> str:
        return "" if self.space.flat_rows else "[:, None]"


def varying(nest: LoopNest) -> frozenset[int]:
    """The expressions (by key) that differ from column to column. A running total does, whatever it
    is a total of.
    """
    found: set[int] = set()
    for scalar in nest.body():
        index = scalar.arg.index if isinstance(scalar.arg, Load) else scalar.arg
        itself = isinstance(index, Index) and any(a.reduce for a in index.axes())
        below = any(d.key in found for d in scalar.deps())
        if scalar.op == "scan" or (scalar.op != "reduce" and (itself or below)):
            found.add(scalar.key)
    return frozenset(found)


def _zero_outside(element: Scalar) -> bool:
    """Whether the value is 0 where there is no column: a load is, and a cast keeps it."""
    while element.op == "cast":
        element = element.args[0]
    return element.op == "load" and _load_varies(element)


def _load_varies(load: Scalar) -> bool:
    assert isinstance(load.arg, Load)
    return any(a.reduce for a in load.arg.index.axes())

"""What a code object can read and write, found once by looking at its instructions.

This over-approximates: a name that the code loads as an attribute counts for every object that the
frame reaches.
"""

from __future__ import annotations

import dis
import functools
import opcode
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

_OP = opcode.opmap
_VERSION = sys.version_info[:2]
# Operations that name something: how the code uses the name, and how far the argument is shifted to
# leave room for flags, before it is an index into the names.
_NAMING = {
    _OP[name]: (kind, shift)
    for name, kind, shift in (
        ("LOAD_ATTR", "load", 1 if _VERSION >= (3, 12) else 0),
        ("LOAD_METHOD", "load", 0),
        ("LOAD_SUPER_ATTR", "load", 2),
        ("IMPORT_FROM", "load", 0),
        ("LOAD_GLOBAL", "global", 1 if _VERSION >= (3, 11) else 0),
        ("LOAD_NAME", "global", 0),
        ("LOAD_FROM_DICT_OR_GLOBALS", "global", 0),
        ("IMPORT_NAME", "import", 0),
        ("STORE_ATTR", "store", 0),
        ("DELETE_ATTR", "store", 0),
        ("STORE_GLOBAL", "global store", 0),
        ("DELETE_GLOBAL", "global store", 0),
        ("STORE_DEREF", "cell store", 0),
        ("DELETE_DEREF", "cell store", 0),
    )
    if name in _OP
}
_LOADS = frozenset(op for op, (kind, _) in _NAMING.items() if kind == "load")
_GLOBALS = frozenset(op for op, (kind, _) in _NAMING.items() if kind == "global")
_EXTENDED = _OP["EXTENDED_ARG"]
_POP_EXCEPT, _RAISE = _OP["POP_EXCEPT"], _OP["RAISE_VARARGS"]
_MATCH_CLASS = _OP["MATCH_CLASS"]  # reads attributes named in a constant or by the class

_READS = frozenset(("getattr", "hasattr"))
_WRITES = frozenset(("setattr", "delattr"))
_WHOLE = frozenset(("vars", "dir"))
# Attributes that lead to all others. `x.__getattribute__(n)` and the like: of `x`, or of the first
# argument.
_DOORS = frozenset(("__dict__", "__getattribute__", "__getstate__", "__reduce_ex__"))
_WRITE_DOORS = frozenset(("__setattr__", "__delattr__", "__dict__", "__setstate__"))
_SWALLOW = frozenset(("AttributeError", "Exception", "BaseException"))

# A parameter, free or global variable and attributes of it: `self.config` is ("self", "config").
Chain = tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A read or write of an attribute by a name in a variable, or of one that may be absent.

    `of`: the object, None if the code does not tell simply. `name`: None if it is computed.
    """

    of: Chain | None
    name: str | None
    write: bool = False


@dataclass(slots=True)
class Reads:
    """Names by how the code uses them."""

    loads: tuple[str, ...]  # attributes loaded
    stores: tuple[str, ...]  # attributes stored or deleted
    global_loads: tuple[str, ...]
    global_stores: tuple[str, ...]
    imports: tuple[str, ...]  # modules imported in the body
    cell_stores: tuple[str, ...]  # free variables stored
    optional: tuple[str, ...]  # attributes that any reached object may lack: hasattr(unknown, "x")
    computed: bool  # reads attributes of any reached object by names that the code computes
    computed_store: bool  # the same for writes
    asked: tuple[Asked, ...]  # the same of one object
    whole_globals: bool  # calls globals()
    counts: frozenset[str]  # names of which the code does nothing but `x.name += 1`
    catches: bool  # looks at exceptions that it catches
    raises: bool  # has a `raise`


def analyse(code: CodeType) -> Reads:
    """Look at one code object (not at those nested in it)."""
    found = _names(code)
    counts = _counts(code, found)
    for kind in ("load", "global"):
        found[kind] = {name: None for name in found[kind] if name not in counts}
    loads, stores = found["load"], found["store"]
    mentioned = loads.keys() | found["global"].keys()
    asked: list[Asked] = []
    if mentioned & (_READS | _WRITES | _WHOLE | _DOORS | _WRITE_DOORS | {"attrgetter"}):
        asked = list(_Uses(code).find())
    unknown = [each for each in asked if each.of is None]
    optional = {each.name: None for each in unknown if each.name and not each.write}
    if mentioned & _SWALLOW:
        optional.update(loads)
    loads.update({each.name: None for each in asked if each.name and not each.write})
    stores.update({each.name: None for each in asked if each.name and each.write})
    any_object = [each for each in unknown if each.name is None]
    by_name = "methodcaller" in mentioned  # `__getattribute__` and `__setattr__` among them
    operations = code.co_code[::2]
    return Reads(
        tuple(loads), tuple(stores), tuple(found["global"]),
        tuple(found["global store"]), tuple(found["import"]),
        tuple(n for n in found["cell store"] if n in code.co_freevars), tuple(optional),
        _MATCH_CLASS in operations or by_name or any(not e.write for e in any_object),
        by_name or any(each.write for each in any_object),
        tuple(each for each in asked if each.of is not None), "globals" in found["global"],
        counts, _POP_EXCEPT in operations and _catches(code), _RAISE in operations,
    )  # fmt: skip


def _names(code: CodeType) -> dict[str, dict[str, None]]:
    """Names by kind of use, each in order of first use."""
    found: dict[str, dict[str, None]] = {kind: {} for kind, _ in _NAMING.values()}
    raw, extended = code.co_code, 0
    for op, low in zip(raw[::2], raw[1::2]):
        arg = low | extended
        extended = arg << 8 if op == _EXTENDED else 0
        if op in _NAMING:
            found[_NAMING[op][0]][_name(code, op, arg)] = None
    return found


def _name(code: CodeType, op: int, arg: int) -> str:
    """What such an operation names."""
    kind, shift = _NAMING[op]
    return _cell_name(code, arg) if kind == "cell store" else code.co_names[arg >> shift]


def _cell_name(code: Any, arg: int) -> str:
    if _VERSION >= (3, 11):
        found: str = code._varname_from_oparg(arg)
        return found
    names: tuple[str, ...] = code.co_cellvars + code.co_freevars
    return names[arg]


def _catches(code: CodeType) -> bool:
    """Whether the code has an `except … as name` that uses the name: such a handler ends by
    setting it to None and deleting it."""
    steps = _steps(code)
    bound = {
        step.value
        for before, step in zip(steps, steps[1:])
        if step.name.startswith("DELETE_") and before.name.startswith("STORE_")
        if before.value == step.value
    }
    return any(step.name.startswith("LOAD_") and step.value in bound for step in steps)


_ADDS = frozenset(("BINARY_ADD", "BINARY_SUBTRACT", "INPLACE_ADD", "INPLACE_SUBTRACT"))
_ADD_ARGUMENTS = frozenset((0, 10, 13, 23))  # BINARY_OP's for +, -, += and -=


def _counts(code: CodeType, found: dict[str, dict[str, None]]) -> frozenset[str]:
    """Names of attributes, globals and free variables that the code only adds constants to."""
    loaded = found["load"].keys() | found["global"].keys() | frozenset(code.co_freevars)
    stored = found["store"].keys() | found["global store"].keys() | found["cell store"].keys()
    if not loaded & stored:
        return frozenset()
    steps = _steps(code)
    uses, counted = Counter[Any](), Counter[Any]()
    for at, step in enumerate(steps):
        if step.name.startswith(_NAMED):
            uses[step.value] += 1
            if step.name.startswith(_NAMED_STORES):
                counted[step.value] += 2 * _is_count(steps, at)
    return frozenset(name for name in loaded & stored if uses[name] == counted[name])


_NAMED_STORES = ("STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF")
_NAMED = (
    *(*_NAMED_STORES, "DELETE_", "LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "LOAD_GLOBAL"),
    *("LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_CLOSURE", "LOAD_FROM_DICT"),
)


def _is_count(steps: list[_Step], at: int) -> bool:
    """Whether the store at `at` ends `x.n += 1` or `x.n = x.n + 1`."""
    before = steps[max(at - 6, 0) : at]
    is_attribute = steps[at].name == "STORE_ATTR"
    swapped = bool(before) and before[-1].name in ("SWAP", "ROT_TWO")
    target = before.pop() if is_attribute and before else None
    if len(before) < 3:
        return False
    load, constant, add = before[-3:]
    adds = add.name in _ADDS or (add.name == "BINARY_OP" and add.arg in _ADD_ARGUMENTS)
    same = load.value == steps[at].value and load.name.startswith("LOAD_")
    if not (adds and same and constant.name.startswith(_NUMBERS) and type(constant.value) is int):
        return False
    if not is_attribute or swapped:
        return True
    owner = before[-4] if len(before) > 3 else None
    return owner is not None and target is not None and _same_variable(owner, target)


_NUMBERS = ("LOAD_CONST", "LOAD_SMALL_INT")


def _same_variable(one: _Step, other: _Step) -> bool:
    simple = one.name.startswith("LOAD_FAST") and not isinstance(one.value, tuple)
    return simple and (one.name, one.value) == (other.name, other.value)


_SILENT = frozenset(("CACHE", "KW_NAMES", "RESUME", "NOP", "EXTENDED_ARG"))
_CALLS = ("PRECALL", "CALL", "CALL_FUNCTION")
_BRANCHES = ("JUMP", "POP_JUMP", "FOR_ITER", "SEND", "RETURN", "YIELD")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_VARIABLES = ("LOAD_FAST", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME")
_NAMES = opcode.opname


@dataclass(slots=True)
class _Step:
    """One instruction: `name` of the operation, its argument, and what the argument stands for if
    that matters.
    """

    name: str
    op: int
    arg: int | None
    value: Any


def _steps(code: CodeType) -> list[_Step]:
    """The instructions that move values (several times faster than dis.get_instructions)."""
    found: list[_Step] = []
    raw, extended = code.co_code, 0
    for op, low in zip(raw[::2], raw[1::2]):
        arg = low | extended
        extended = arg << 8 if op == _EXTENDED else 0
        name = _NAMES[op]
        if name not in _SILENT:
            has_arg = op >= dis.HAVE_ARGUMENT
            found.append(_Step(name, op, arg if has_arg else None, _value(code, op, name, arg)))
    return found


def _value(code: CodeType, op: int, name: str, arg: int) -> Any:
    """The name or constant that an argument stands for; two names for two variables at once."""
    if op in _NAMING:
        return _name(code, op, arg)
    if name.startswith("LOAD_CONST"):
        return code.co_consts[arg]
    if name == "LOAD_SMALL_INT":
        return arg
    if name.count("_FAST") == 2 and name.startswith("LOAD_FAST") and "AND_CLEAR" not in name:
        return code.co_varnames[arg >> 4], code.co_varnames[arg & 15]
    if name in ("STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST"):
        return code.co_varnames[arg >> 4], code.co_varnames[arg & 15]
    if "_FAST" in name and arg < len(code.co_varnames):
        return code.co_varnames[arg]
    return _cell_name(code, arg) if name.endswith("_DEREF") else None


class _Uses:
    """Finds `getattr`, `vars`, `__dict__` and the like in one code object, and what they are
    applied to.
    """

    def __init__(self, code: CodeType) -> None:
        self.steps = _steps(code)
        assigned: set[str] = set()
        for step in self.steps:
            if step.name.startswith(("STORE_FAST", "STORE_DEREF", "DELETE_FAST")):
                assigned.update(step.value if isinstance(step.value, tuple) else (step.value,))
        count = code.co_argcount + code.co_kwonlyargcount
        loaded = {step.value for step in self.steps if step.op in _GLOBALS}
        stored = _names(code)["global store"].keys()
        self.simple = {*code.co_varnames[:count], *code.co_freevars} - assigned
        self.simple |= loaded - stored
        self.first = code.co_varnames[0] if code.co_argcount else ""

    def find(self) -> Iterator[Asked]:
        """Every use, in order."""
        for at, step in enumerate(self.steps):
            name = step.value
            if step.op in _GLOBALS and name in _READS | _WRITES:
                of, second = self.arguments(at + 1)
                yield Asked(of, second, name in _WRITES)
            elif step.op in _GLOBALS and name in _WHOLE:
                yield Asked(self.arguments(at + 1)[0], None)
            elif name == "attrgetter":
                yield Asked(None, None)
            elif step.op in _LOADS and name in _DOORS | _WRITE_DOORS:
                of = self.owner(at)
                if name in _DOORS:
                    yield Asked(of, None)
                if name in _WRITE_DOORS:
                    yield Asked(of, None, write=True)

    def chain(self, at: int, end: int) -> Chain | None:
        """The variable and attributes that instructions `at` to `end` push, if nothing else."""
        steps = self.steps[at:end]
        if not steps or not steps[0].name.startswith(_VARIABLES):
            return None
        name, rest = steps[0].value, steps[1:]
        if isinstance(name, tuple):  # two variables at once, of which the first is meant
            name = name[0]
        if name not in self.simple or any(step.name not in _ATTRIBUTES for step in rest):
            return None
        return (name, *(step.value for step in rest))

    def owner(self, at: int) -> Chain | None:
        """What `x.__dict__` at instruction `at` is of: `x`, or for `super()` and `object` the first
        argument.
        """
        back = at - 1
        while back > 0 and self.steps[back].name in _ATTRIBUTES:
            back -= 1
        before = self.steps[back]
        if self.steps[at].name == "LOAD_SUPER_ATTR" or before.name.startswith("CALL"):
            supers = [s.value for s in self.steps[max(0, back - 3) : at + 1]]
            return (self.first,) if "super" in supers and self.first in self.simple else None
        if before.value == "object" and before.op in _GLOBALS:
            return self.arguments(at + 1)[0]
        return None if isinstance(before.value, tuple) else self.chain(back, at)

    def arguments(self, at: int) -> tuple[Chain | None, str | None]:
        """The first argument of the call whose function was pushed before instruction `at`, and the
        second if it is a constant string. None for what is not that simple.
        """
        depth, start = 0, -1  # where the second argument begins
        second: _Step | None = None
        for index, step in enumerate(self.steps[at:], at):
            if step.name.startswith(_BRANCHES):
                return None, None
            if step.name in _CALLS and step.arg == depth > 0:
                first = self.chain(at, index if start < 0 else start)
                name = second.value if second and second.name.startswith("LOAD_CONST") else None
                return first, name if isinstance(name, str) else None
            before = depth
            depth += dis.stack_effect(step.op, step.arg)
            if depth <= 0:
                return None, None
            if before < 2 <= depth:
                second, start = (step, index) if before == 1 else (None, index + 1)
            elif depth < 2:
                second, start = None, -1
            elif depth == 2:  # something is done with what began the second argument
                second = None
        return None, None


@functools.lru_cache(maxsize=4096)
def passes_on(code: CodeType, name: str) -> bool:
    """Whether code loads what a name stands for and does anything but call it: then C code may call
    it, which no profile hook sees."""
    steps = _steps(code)
    named = (
        at
        for at, step in enumerate(steps)
        if step.name.startswith("LOAD_") and step.value == name and "CONST" not in step.name
    )
    return any(not _is_called(steps, at) for at in named)


def _is_called(steps: list[_Step], at: int) -> bool:
    """Whether the value that instruction `at` pushes is what a call calls, as far as the code tells
    simply."""
    depth = 0
    for step in steps[at + 1 :]:
        arg = step.arg or 0
        if step.name.startswith(_BRANCHES):
            return True  # perhaps
        plain = step.name in _CALLS and depth in (arg, arg + 1)
        spread = step.name in ("CALL_KW", "CALL_FUNCTION_KW") and depth in (arg + 1, arg + 2)
        if plain or spread or (step.name == "CALL_FUNCTION_EX" and depth <= 2 + (arg & 1)):
            return True
        depth += dis.stack_effect(step.op, step.arg)
        if depth < 0:
            return False
    return False

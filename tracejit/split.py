"""A function that can only run eagerly, run so that the calls in it are compiled on their own.

Its source is read and compiled again with one change: whatever it calls passes through
`Parts.pick`, which gives the compiled form of modules and functions and anything else as it is. The
new function shares globals, closure and defaults with the old one and has its lines, so that all
that it does is done as before. Whether the source is the right one is checked first: compiled
without the change, it must give the very code that the function has.
"""

from __future__ import annotations
import __future__

import ast
import copy
import functools
import inspect
import textwrap
import weakref
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tracejit.runtime import private, state
from tracejit.runtime.origins import LIBRARY, USER, origin_of_code
from tracejit.runtime.paths import STEPS, instance_dict

if TYPE_CHECKING:
    from tracejit.dispatch import Dispatcher

PICK = "_tracejit_pick"
# Functions that look at the frame that calls them.
LOOKING = frozenset(("super", "locals", "globals", "vars", "dir", "eval", "exec"))
MOST_PARTS = 256  # compiled for one function; later ones run as they are
_FUTURES = functools.reduce(
    int.__or__, (getattr(__future__, n).compiler_flag for n in __future__.all_feature_names)
)


class Part(NamedTuple):
    """What is called, and that compiled."""

    called: Any
    compiled: Any
    dispatcher: Dispatcher


class Parts:
    """What one function's calls are compiled into. `wrap` compiles what is called, and gives also
    what knows whether that does more than run eagerly."""

    def __init__(self, wrap: Callable[[Any], tuple[Any, Dispatcher]]) -> None:
        self.wrap = wrap
        self.made: dict[Any, Part] = {}  # by the identity of what is called
        self.functions: weakref.WeakKeyDictionary[FunctionType, Split | None]
        self.functions = weakref.WeakKeyDictionary()

    def of(self, function: Any) -> Callable[..., Any] | None:
        """`function` with its calls compiled; None if its source is not to be had, or is not all
        that a call of it runs."""
        if isinstance(function, torch.nn.Module):
            if _has_hooks(function):
                return None
            function = function.forward
        if isinstance(function, MethodType):
            inner = self.of(function.__func__)
            return inner and functools.partial(inner, function.__self__)
        if isinstance(function, functools.partial):
            inner = self.of(function.func)
            return inner and functools.partial(inner, *function.args, **function.keywords)
        if not isinstance(function, FunctionType):
            return None
        found = self.functions.get(function)
        if found is None and function not in self.functions or found and not found.fits(function):
            pick = functools.partial(self.pick, function)
            found = self.functions[function] = _split(function, pick)
        return found.made if found is not None else None

    def pick(self, caller: FunctionType, called: Any) -> Any:
        """What is called in place of something."""
        if not _is_part(called, caller):
            return called
        owner = called.__self__ if isinstance(called, MethodType) else None
        key = id(called) if owner is None else (id(owner), id(called.__func__))
        known = self.made.get(key)
        if known is None:
            if len(self.made) >= MOST_PARTS:
                return called
            known = self.made[key] = Part(called, *self.wrap(called))
        return known.compiled if known.dispatcher.helps else called


def _is_part(called: Any, caller: FunctionType) -> bool:
    """Whether something called is worth compiling on its own, and lives on between calls."""
    if isinstance(called, torch.nn.Module):
        inner = instance_dict(called).get("_modules")
        layer = type(called).__module__.startswith("torch.nn.") and not inner
        return not layer and not isinstance(called, torch.jit.ScriptModule)
    if isinstance(called, MethodType):
        if not isinstance(called.__self__, torch.nn.Module):
            return False
        called = called.__func__
    if not isinstance(called, FunctionType):
        return False
    lasting = "<locals>" not in called.__qualname__ or _closes_over(caller, called)
    return lasting and origin_of_code(called.__code__) in (USER, LIBRARY)


def _closes_over(function: FunctionType, value: Any) -> bool:
    """Whether a variable of an enclosing function holds the value."""
    return any(STEPS["cell"](function, name) is value for name in function.__code__.co_freevars)


def _has_hooks(module: torch.nn.Module) -> bool:
    """Whether a call of a module runs more than its forward."""
    plain = type(module).__call__ is torch.nn.Module.__call__
    own = any(instance_dict(module).get(name) for name in private.HOOKS)
    return not plain or own or state.global_hooks() > 0 or private.is_compiled_module(module)


class Split:
    """A function compiled anew, and what it was made of."""

    def __init__(self, function: FunctionType, made: FunctionType) -> None:
        self.made = made
        self.of = (function.__code__, function.__defaults__, function.__kwdefaults__)

    def fits(self, function: FunctionType) -> bool:
        """Whether the function is still what it was."""
        now = (function.__code__, function.__defaults__, function.__kwdefaults__)
        return all(a is b for a, b in zip(now, self.of))


def _split(function: FunctionType, pick: Callable[[Any], Any]) -> Split | None:
    """The function with its calls passed through `pick`; None without a source that is surely
    its."""
    try:
        tree, around = _source(function)
        if not _alike(_compiled(tree, function, (), around), function.__code__):
            return None
        changed = _compiled(_Calls().visit(copy.deepcopy(tree)), function, (PICK,), around)
    except Exception:  # no source, or one that cannot be read: it runs as it is
        return None
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    cells[PICK] = CellType(pick)
    closure = tuple(cells[name] for name in changed.co_freevars)
    made = FunctionType(
        changed, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__, made.__module__ = function.__qualname__, function.__module__
    return Split(function, made)


def _source(function: FunctionType) -> tuple[ast.FunctionDef, list[ast.stmt]]:
    """The definition, without decorators, with its lines; and imports of the names that its module
    imports: Python 3.11 compiles `name.f()` in another way for those."""
    lines, first = inspect.getsourcelines(function.__code__)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    (definition,) = tree.body
    if not isinstance(definition, ast.FunctionDef) or function.__code__.co_flags & GENERATORS:
        raise ValueError("no plain function")
    definition.decorator_list = []
    imported = _imported("".join(inspect.findsource(function.__code__)[0]))
    imports = ast.Import([ast.alias(name) for name in imported])
    return ast.increment_lineno(definition, first - 1), [imports] if imported else []


@functools.lru_cache(maxsize=64)
def _imported(text: str) -> tuple[str, ...]:
    """Names that a module's source imports, outside of functions and classes."""
    found: list[str] = []
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found += [(a.asname or a.name).partition(".")[0] for a in node.names if a.name != "*"]
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.expr)):
            waiting += ast.iter_child_nodes(node)
    return tuple(dict.fromkeys(found))


GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def _compiled(
    definition: ast.FunctionDef,
    function: FunctionType,
    more: tuple[str, ...],
    before: list[ast.stmt],
) -> CodeType:
    """The code of a definition whose free variables are the function's, and `more`, in a module
    that begins with the statements `before`."""
    names = [*function.__code__.co_freevars, *more]
    around = ast.FunctionDef(
        name="around",
        args=ast.arguments([], [ast.arg(name) for name in names], None, [], [], None, []),
        body=[definition],
        decorator_list=[],
    )
    module = ast.Module([*before, around], [])
    ast.fix_missing_locations(module)
    flags = function.__code__.co_flags & _FUTURES
    code: CodeType = compile(
        module, function.__code__.co_filename, "exec", flags, dont_inherit=True
    )
    for _ in range(2):
        code = next(c for c in code.co_consts if isinstance(c, CodeType))
    return code


def _alike(one: CodeType, other: CodeType) -> bool:
    """Whether two code objects do the same, wherever they stand."""
    names = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars")
    if any(getattr(one, name) != getattr(other, name) for name in names):
        return False
    if (one.co_flags ^ other.co_flags) & ~inspect.CO_NESTED:
        return False
    return len(one.co_consts) == len(other.co_consts) and all(
        _alike(a, b) if isinstance(a, CodeType) and isinstance(b, CodeType) else _same(a, b)
        for a, b in zip(one.co_consts, other.co_consts)
    )


def _same(a: Any, b: Any) -> bool:
    """Whether two constants are the same. (Python 3.10 has qualified names among them.)"""
    if isinstance(a, str) and isinstance(b, str) and "<locals>" in a and "<locals>" in b:
        return a.rpartition(".")[2] == b.rpartition(".")[2]
    return type(a) is type(b) and repr(a) == repr(b)


class _Calls(ast.NodeTransformer):
    """`f(x)` becomes `pick(f)(x)`, but for functions that look at the frame they are called in.
    Functions defined inside stay as they are."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in LOOKING:
            return node
        name = ast.copy_location(ast.Name(PICK, ast.Load()), node.func)
        node.func = ast.copy_location(ast.Call(name, [node.func], []), node.func)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if not hasattr(self, "inside"):
            self.inside = True
            node.body = [self.visit(part) for part in node.body]
        return node

    def _as_it_is(self, node: ast.AST) -> ast.AST:
        return node

    visit_Lambda = visit_AsyncFunctionDef = visit_ClassDef = _as_it_is

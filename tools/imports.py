"""Which module of the package imports which: cycles, and arrows against the design's direction.

Imports inside functions count. Those for types only (`if TYPE_CHECKING:`) make no cycle, but they
do point somewhere.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tracejit", "codegen", "runtime", "benchmarks")


class Layer(NamedTuple):
    """Modules by the beginnings of their names, and the layers that they may import."""

    modules: tuple[str, ...]
    may: tuple[str, ...]


COMPILER = ("runtime", "words", "ops", "ir", "fuse", "codegen", "trace")
# A stage imports the stages it consumes, never the one that calls it; the runtime imports none.
LAYERS: dict[str, Layer] = {
    "runtime": Layer(("tracejit.runtime",), ()),
    # What graphs and loop nests are written in, which the table of ops is written in too.
    "words": Layer(
        ("tracejit.ir.graph", "tracejit.ir.dtypes", "tracejit.fuse.index", "tracejit.fuse.scalar"),
        ("runtime",),
    ),
    "ops": Layer(("tracejit.ops",), ("runtime", "words")),
    "ir": Layer(("tracejit.ir",), ("runtime", "words", "ops")),
    "fuse": Layer(("tracejit.fuse",), ("runtime", "words", "ops", "ir")),
    "codegen": Layer(("tracejit.codegen",), ("runtime", "words", "ir", "fuse")),
    "trace": Layer(("tracejit.trace",), ("runtime", "words", "ops")),
    "front": Layer(("tracejit",), COMPILER),
    "benchmarks": Layer(("tracejit.benchmarks",), (*COMPILER, "front")),
    "cli": Layer(("tracejit.cli",), (*COMPILER, "front", "benchmarks")),
    "commands": Layer(("tracejit.__main__", "tracejit.benchmarks.__main__"), ("benchmarks", "cli")),
}
NEVER = {"runtime": "sympy"}  # a warm process starts without it


class Import(NamedTuple):
    """One import statement: what it names, and whether only for types."""

    name: str
    line: int
    for_types: bool


def sources() -> dict[str, Path]:
    """Every module by its name, each once (the links inside tracejit/ are followed to the end)."""
    paths = {p.resolve() for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")}
    found = {}
    for path in sorted(paths):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "tracejit" else ("tracejit", *parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(text: str) -> Iterator[Import]:
    """Every import of a module's text; `from a import b` names `a.b`."""

    def walk(node: ast.AST, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            guarded = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            if isinstance(child, ast.Import):
                yield from (Import(a.name, child.lineno, for_types) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    yield Import(f"{child.module}.{alias.name}", child.lineno, for_types)
            yield from walk(child, for_types or guarded)

    return walk(ast.parse(text), False)


def graph() -> dict[str, list[Import]]:
    """For each module what it imports, modules of ours by their own names."""
    modules = sources()
    found: dict[str, list[Import]] = {}
    for name, path in modules.items():
        found[name] = [
            Import(module_of(item.name, modules), item.line, item.for_types)
            for item in imports(path.read_text())
        ]
    return found


def module_of(name: str, modules: Mapping[str, object]) -> str:
    """The module in which something imported lies: `a.b` itself, or `a`."""
    return name if name in modules else name.rpartition(".")[0] or name


def cycles(found: Mapping[str, list[Import]]) -> list[list[str]]:
    """Groups of modules that lead to one another at run time."""
    after = {
        name: {item.name for item in items if not item.for_types and item.name in found} - {name}
        for name, items in found.items()
    }
    reach = {name: reached(name, after) for name in after}
    groups = {tuple(sorted(b for b in reach[a] if a in reach[b])) for a in after if a in reach[a]}
    return sorted(map(list, groups))


def reached(start: str, after: Mapping[str, set[str]]) -> set[str]:
    """All modules that importing one leads to."""
    found: set[str] = set()
    todo = [start]
    while todo:
        new = after[todo.pop()] - found
        found |= new
        todo += new
    return found


def layer_of(module: str) -> str:
    """The layer with the longest beginning of a module's name."""
    fits = [
        (len(start), layer)
        for layer, (starts, _) in LAYERS.items()
        for start in starts
        if f"{module}.".startswith(f"{start}.")
    ]
    return max(fits)[1]


def arrows(found: Mapping[str, list[Import]]) -> list[str]:
    """Imports against the direction, each as a sentence."""
    against = []
    for module, items in found.items():
        here = layer_of(module)
        for item in items:
            if item.name in found:
                there = layer_of(item.name)
                wrong = there != here and there not in LAYERS[here].may
            else:
                wrong = item.name.partition(".")[0] == NEVER.get(here)
            if wrong:
                against.append(f"{module}:{item.line} ({here}) imports {item.name}")
    return against

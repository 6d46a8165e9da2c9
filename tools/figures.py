"""The tree in figures, for `make check`: sizes of files and functions, ops, flags, and what is not
meant to grow."""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import imports

from tracejit.runtime.config import FLAGS

ROOT = imports.ROOT
BROAD = {"Exception", "BaseException"}
BLANK = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}


def sources() -> list[Path]:
    """Every module of the package but the harness."""
    return [path for name, path in imports.sources().items() if "benchmarks" not in name]


def code_lines(text: str) -> int:
    """Lines that hold code: no docstring, comment or blank line."""
    tree = ast.parse(text)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    firsts = [node.body[0] for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    said = {
        line
        for first in firsts
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        for line in range(first.lineno, (first.end_lineno or first.lineno) + 1)
    }
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in BLANK and token.string:
            held.update(range(token.start[0], token.end[0] + 1))
    return len(held - said)


def broad_excepts(text: str) -> Iterator[int]:
    """Lines of handlers that take any exception."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or ast.unparse(kind) in BROAD for kind in kinds):
                yield node.lineno


def type_ignores(text: str) -> Iterator[int]:
    """Lines of which the type checker is told to say nothing."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and "type: ignore" in token.string:
            yield token.start[0]


def function_lengths(text: str) -> list[tuple[int, str]]:
    """Lines and name of each function, methods and nested ones included."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, kinds)]
    return [((n.end_lineno or n.lineno) - n.lineno + 1, n.name) for n in nodes]


def ops_rows() -> int:
    """Rows of the table of core ops, all modules of tracejit.ops loaded."""
    import importlib
    import pkgutil

    import tracejit.ops
    from tracejit.ops.table import OPS

    for module in pkgutil.iter_modules(tracejit.ops.__path__):
        importlib.import_module(f"tracejit.ops.{module.name}")
    return len(OPS)


def main() -> None:
    texts = {path: path.read_text() for path in sources()}
    lines = {path: text.count("\n") for path, text in texts.items()}
    functions = sorted(
        (length, f"{path.name}:{name}")
        for path, text in texts.items()
        for length, name in function_lengths(text)
    )
    largest = max(lines, key=lambda path: lines[path])
    lengths = [length for length, _ in functions]
    p95 = lengths[int(0.95 * (len(lengths) - 1))]
    print(
        f"files      {len(lines)}, {sum(lines.values())} lines; median "
        f"{statistics.median(lines.values()):.0f}, largest {lines[largest]} "
        f"({largest.relative_to(ROOT)})"
    )
    print(
        f"functions  {len(lengths)}; median {statistics.median(lengths):.0f}, "
        f"95th percentile {p95}, longest {lengths[-1]} ({functions[-1][1]})"
    )
    print(f"code       {sum(map(code_lines, texts.values()))} lines that are no words or blank")
    print(f"ops        {ops_rows()} rows")
    print(f"flags      {len(FLAGS)}")
    every = [path.read_text() for path in imports.sources().values()]
    print(f"ignored    {sum(len([*type_ignores(text)]) for text in every)} types")
    print(f"caught     {sum(len([*broad_excepts(text)]) for text in every)} times any exception")
    found = imports.graph()
    print(
        f"imports    {len(imports.cycles(found))} circles, {len(imports.arrows(found))} backwards"
    )


if __name__ == "__main__":
    main()

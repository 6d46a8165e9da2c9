"""The tree in figures, for `make check`: sizes of files and functions, ops, flags."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

from tracejit.runtime.config import FLAGS

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tracejit", "codegen", "runtime")


def sources() -> list[Path]:
    """Every module of the package, each once (the links inside tracejit/ are skipped)."""
    found = (p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
    return sorted({p.resolve() for p in found})


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
    print(f"ops        {ops_rows()} rows")
    print(f"flags      {len(FLAGS)}")


if __name__ == "__main__":
    main()

"""What the type checker is told not to see, and what catches any exception, says why beside it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("imports"), importlib.import_module("figures")


def comments(line: str) -> list[str]:
    return [part.strip() for part in line.split("  # ")[1:]]


def unexcused(text: str, figures: Any) -> list[int]:
    lines = text.splitlines()
    bare = [n for n in figures.broad_excepts(text) if not comments(lines[n - 1])]
    bare += [n for n in figures.type_ignores(text) if len(comments(lines[n - 1])) < 2]
    return bare


def test_each_has_its_reason(tools: tuple[Any, Any]) -> None:
    imports, figures = tools
    texts = {path: path.read_text() for path in imports.sources().values()}
    assert {p: found for p, text in texts.items() if (found := unexcused(text, figures))} == {}


def test_one_without_is_found(tools: tuple[Any, Any]) -> None:
    text = (
        "try: x = f()  # type: ignore[a]\nexcept (OSError, Exception): pass\n"
        "try: y = f()  # type: ignore[a]  # since\nexcept Exception:  # since\n  pass\n"
        "try: z = 'type: ignore'\nexcept OSError: pass\n"
        "try: z = 1\nexcept: pass\n"
    )
    assert unexcused(text, tools[1]) == [2, 9, 1]


def test_lines_of_code(tools: tuple[Any, Any]) -> None:
    text = (
        '"""Words."""\n\n# why\ndef f():\n    """Words\n    more."""\n    return """a\n    b"""\n'
    )
    assert tools[1].code_lines(text) == 3

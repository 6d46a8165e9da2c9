"""docs/reference.md names every setting, error, warning and reason kind, and nothing else."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from tracejit.runtime import errors
from tracejit.runtime.config import FLAGS
from tracejit.runtime.reasons import KINDS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def section(title: str) -> str:
    """The text under a heading of the reference, up to the next heading of the same level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", REFERENCE, re.S | re.M)
    assert found, f"docs/reference.md has no section {title!r}"
    return found[1]


def named(text: str) -> list[str]:
    """The first cell of each row of the tables in `text`, without its backticks."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.M)


def classes(base: type) -> list[str]:
    return [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == errors.__name__
    ]


@pytest.mark.parametrize(
    ("title", "code"),
    [
        ("Environment variables", [flag.name for flag in FLAGS]),
        ("Errors", classes(errors.TracejitError)),
        ("Warnings", classes(errors.TracejitWarning)),
        ("Reasons", list(KINDS)),
    ],
)
def test_reference_and_code_agree(title: str, code: list[str]) -> None:
    assert sorted(named(section(title))) == sorted(code)


def test_reference_has_the_legal_values() -> None:
    rows = section("Environment variables")
    for flag in FLAGS:
        row = next(line for line in rows.splitlines() if line.startswith(f"| `{flag.name}` |"))
        assert flag.legal in row


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))],
)
def test_paths_named_in_documents_exist(document: str) -> None:
    path = ROOT / document if (ROOT / document).exists() else ROOT / "docs" / document
    text = path.read_text()
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    spelled = re.findall(
        r"`((?:tracejit|codegen|runtime|tests|docs|examples|benchmarks|tools)/[\w./-]*)`", text
    )
    missing = [p for p in linked if not (path.parent / p).exists()]
    missing += [p for p in spelled if not (ROOT / p).exists()]
    assert missing == []


def test_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = [
        path
        for folder in ("tracejit", "codegen", "runtime", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.startswith("__")
    ]
    assert [str(p) for p in modules if not re.search(rf"`([\w/]+/)?{p.name}`", text)] == []

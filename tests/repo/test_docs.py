"""docs/reference.md names every setting, error, warning, reason, key and format, and nothing else;
docs/cli.md every option."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from tracejit.api import LEGAL, Options
from tracejit.runtime import bundle, claims, errors, upkeep
from tracejit.runtime.cache import ENTRIES, Kernel, StoredPlan, kernel_item, plan_item
from tracejit.runtime.config import FLAGS
from tracejit.runtime.kernel import Binary, KernelSource
from tracejit.runtime.reasons import KINDS
from tracejit.runtime.targets import BACKENDS
from tracejit.runtime.version import FORMATS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    {
        path.resolve()
        for folder in ("tracejit", "codegen", "runtime", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
)
FOLDERS = (*upkeep.KINDS, upkeep.HOSTS, upkeep.HITS, claims.FOLDER, upkeep.DAMAGED, bundle.KIND)
KEYS = ("kernel", "plan", "function", "record", "host")
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
    """It and all classes under it, wherever in the package they are defined."""
    found = {base.__name__}
    nodes = [n for path in SOURCES for n in ast.walk(ast.parse(path.read_text()))]
    defined = [n for n in nodes if isinstance(n, ast.ClassDef)]
    for _ in range(5):  # classes of classes
        found |= {n.name for n in defined if found & {ast.unparse(b) for b in n.bases}}
    return sorted(found)


@pytest.mark.parametrize(
    ("title", "code"),
    [
        ("Environment variables", [flag.name for flag in FLAGS]),
        ("Errors", classes(errors.TracejitError)),
        ("Warnings", classes(errors.TracejitWarning)),
        ("Reasons", list(KINDS)),
        ("Keys of the cache", [*ENTRIES, *KEYS]),
        ("Files", [*FOLDERS, *FORMATS]),
    ],
)
def test_reference_and_code_agree(title: str, code: list[str]) -> None:
    assert sorted(named(section(title))) == sorted(code)


def test_reference_has_the_legal_values() -> None:
    rows = section("Environment variables")
    for flag in FLAGS:
        row = next(line for line in rows.splitlines() if line.startswith(f"| `{flag.name}` |"))
        assert flag.legal in row


def test_reference_has_the_options_of_compile() -> None:
    listed = rows("Options of tracejit.compile")
    assert list(listed) == [field.name for field in fields(Options)] == list(LEGAL)
    for name, legal in LEGAL.items():
        ours = [v for v in legal if v not in BACKENDS or "tracejit" in BACKENDS[v].__module__]
        assert [repr(value) for value in ours] == re.findall(
            r"`([^`]+)`", listed[name].partition(" | ")[0]
        )


def test_every_reason_is_given_somewhere() -> None:
    texts = [path.read_text() for path in SOURCES if path.name != "reasons.py"]
    assert [kind for kind in KINDS if not any(f'"{kind}"' in text for text in texts)] == []


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


def rows(title: str) -> dict[str, str]:
    """Name -> the rest of its row, of all tables of a section."""
    return dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", section(title), re.M))


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_of_formats(name: str) -> None:
    assert rows("Files")[name].startswith(f"{FORMATS[name]} |")
    assert f"`tracejit {FORMATS['file']} <kind>" in " ".join(section("Files").split("\n"))


def test_formats_have_no_other_numbers() -> None:
    """A number of a format is in runtime/version.py and nowhere else."""
    pattern = re.compile(r"^\s*\w*(FORMAT|SCHEMA|VERSION)\w* *(:.*)?= *\d+\b", re.M)
    assert [path for path in SOURCES if pattern.search(path.read_text())] == []


def test_parts_of_files() -> None:
    source = KernelSource("k", "text", "cuda:90", (), (), {}, 1)
    kernel = Kernel("k", source, Binary(b"code", "cubin"))
    plan = StoredPlan("p", "text", {}, {"k": kernel})
    for kind, item in (("kernels", kernel_item(kernel)), ("plans", plan_item(plan))):
        assert all(f"`{part}`" in rows("Files")[kind] for part in item.parts)


ASKING = ("os.environ.get", "os.environ.pop", "os.getenv")


def variables(tree: ast.Module) -> Iterator[str]:
    """Names of environment variables that a module asks for: read, tested, or by os.getenv."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ASKING:
            yield literal(node.args[0])
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield literal(node.slice)
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
            yield literal(node.left)


def literal(node: ast.expr) -> str:
    """A name that stands in the source, "" for one that is computed from data."""
    return node.value if isinstance(node, ast.Constant) else ""


# Computed names: paths of guards, and the table of our own variables.
COMPUTED: dict[str, set[str]] = {
    "runtime/paths.py": set(),
    "runtime/config.py": set(),
    "tracejit/cli/doctor/checks.py": set(),
    "tracejit/cli/__init__.py": {"_TRACEJIT_COMPLETE"},
}


def test_variables_of_other_programs() -> None:
    found: set[str] = set()
    for path in SOURCES:
        asked = set(variables(ast.parse(path.read_text())))
        if "" in asked:
            asked |= COMPUTED[str(path.relative_to(ROOT))]
        found |= asked - {""}
    assert sorted(found) == sorted(rows("Variables of other programs"))


def test_variables_are_found_whichever_way_they_are_asked_for() -> None:
    text = "os.environ.get('A'); os.getenv('B', ''); os.environ['C']; 'D' in os.environ; f('E')"
    assert sorted(variables(ast.parse(text))) == ["A", "B", "C", "D"]


def test_options_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("cli_options")
    text = tool.PAGE.read_text()
    table = text.partition(tool.BEGIN)[2].partition(tool.END)[0]
    assert table == tool.table(), "run `python tools/cli_options.py`"
    assert table.count("\n") > 50

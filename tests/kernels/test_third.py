"""What a generator costs that the package does not have: one file, and a row in each table."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import tracejit
from tests.executors import FOUND, OTHERS
from tests.generators import plain_c
from tracejit.runtime import targets

ROOT = Path(__file__).resolve().parents[2]
MOST = 200  # lines of its file


def block(x: torch.Tensor) -> torch.Tensor:
    x = torch.nn.functional.layer_norm(x, x.shape[-1:])
    return torch.nn.functional.gelu(x).softmax(-1).cumsum(0)


def test_it_is_small_and_nothing_else_names_it() -> None:
    own = Path(plain_c.__file__)
    assert len(own.read_text().splitlines()) <= MOST
    folders = (ROOT / name for name in ("tracejit", "codegen", "runtime", "tests"))
    files = {path for folder in folders for path in folder.rglob("*.py")} - {own, Path(__file__)}
    assert len(files) > 300
    assert not [path for path in files if re.search(r"plain_?c\b", path.read_text(), re.I)]
    assert plain_c in FOUND and len(PLACES) > 5


PLACES = re.findall(
    r"`([\w.]+)`(?: of| in)\s+`([\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text()
)


@pytest.mark.parametrize(("name", "path"), PLACES)
def test_the_rows_that_contributing_names_are_there(name: str, path: str) -> None:
    path = path.removesuffix("/__init__.py").removesuffix(".py")
    home = "" if path.startswith(("tests", "tracejit")) else "tracejit."
    found: Any = import_module(home + path.replace("/", "."))
    for part in name.split("."):
        found = getattr(found, part)


@pytest.mark.skipif(not OTHERS, reason="no C compiler here that knows _Float16")
def test_programs_are_compiled_stored_and_found_again(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that `tracejit.compile` asks; the kernels' machine code comes from the disk later."""
    monkeypatch.setitem(targets.BACKENDS, "c", lambda device: targets.Choice("c"))
    made: list[str] = []
    library = plain_c.library
    monkeypatch.setattr(plain_c, "library", lambda text: made.append(text) or library(text))
    x = torch.randn(6, 48)
    for source in ("recorded", "disk"):
        compiled = tracejit.compile(block, backend="c", wait=True, strict=True)
        compiled(x)
        torch.testing.assert_close(compiled(x), block(x))
        (entry,) = tracejit.explain(compiled, x).to_json()["entries"]
        assert (entry["source"], entry["target"]) == (source, "c")
        assert len(made) == len(entry["program"]["kernels"]) > 0

"""Whose code it is: what pip installed is covered by its version, wherever pip put it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import tracejit
from tracejit.api import dispatcher_of
from tracejit.runtime.origins import LIBRARY, USER, origin_of_file

SOURCE = """
import functools
__version__ = "1.2"
@functools.lru_cache
def parsed(text):
    return [int(word) for word in text.split()]
def scaled(x, text):
    return x * sum(parsed(text))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as `pip install --target` leaves it, where a user then put a module beside."""
    for name in ("targeted_library", "written_beside"):
        (tmp_path / f"{name}.py").write_text(SOURCE)
    info = tmp_path / "targeted_library-1.2.dist-info"
    info.mkdir()
    (info / "RECORD").write_text(f"targeted_library.py,,\n{info.name}/RECORD,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("targeted_library", "written_beside"):
        sys.modules.pop(name, None)


def _loaded(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_what_pip_installed_into_a_folder_is_a_library(folder: Path) -> None:
    library, own = _loaded("targeted_library"), _loaded("written_beside")
    assert origin_of_file(str(library.__file__)) == LIBRARY
    assert origin_of_file(str(own.__file__)) == USER


def test_results_that_a_library_remembers(folder: Path) -> None:
    """A library is the same as long as its version is; a user's function may change."""
    x = torch.ones(3)
    for name, kinds in (("targeted_library", []), ("written_beside", ["unguardable"])):
        scaled = _loaded(name).scaled
        compiled = tracejit.compile(lambda x, scaled=scaled: scaled(x, "1 2"), wait=True)
        with torch.no_grad():
            assert all(compiled(x).equal(x * 3) for _ in range(3))
        assert [reason.kind for reason in dispatcher_of(compiled).reasons] == kinds

"""The tool that runs the sessions of docs/cli.md notices what it should, and nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def docs() -> Any:
    spec = importlib.util.spec_from_file_location("cli_docs", ROOT / "tools" / "cli_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(session: str, name: str = "ls") -> str:
    return f"<!-- session: {name} -->\n```console\n{session}\n```\n<!-- end -->\n"


def test_keys_times_and_sizes_are_not_compared(docs: Any) -> None:
    before = page("$ tracejit cache ls\nkernel  f2446eb09876  softmax  45.9 KiB   2 s")
    after = page("$ tracejit cache ls\nkernel  0c1d2e3f4a5b  softmax  102.4 KiB  11 s")
    assert docs.masked(before) == docs.masked(after)


def test_words_are_compared(docs: Any) -> None:
    before = page("$ tracejit cache ls\nkernel  f2446eb09876  softmax")
    assert docs.masked(before) != docs.masked(before.replace("softmax", "layer_norm"))
    assert docs.masked(before) != docs.masked(before.replace("kernel", "plan"))
    assert docs.masked("text 12") != docs.masked("text 13")  # outside of sessions all is compared


def test_what_names_a_machine_is_not_compared(docs: Any) -> None:
    assert docs.masked(page("cpu ok AMD", "doctor")) == docs.masked(page("cpu ok Intel", "doctor"))

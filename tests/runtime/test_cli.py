"""The command line: listing and showing the cache, short keys, and one sentence where a package is
missing."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tracejit.cli
from tracejit.cli.commands import tracejit as command
from tracejit.runtime.cache import Cache, Kernel, StoredPlan
from tracejit.runtime.kernel import KernelSource

SOURCE = KernelSource(
    "relu", "def relu(x):\n    pass\n", "interpret", (("x", "*fp32"),), ("x",), {}, 1
)
MANIFEST = {"launches": 1, "calls": 2}
PLAN = StoredPlan("abc" + "0" * 61, "# model.f for interpret\ndef run(): pass\n", MANIFEST, {})


@pytest.fixture
def directory(tmp_path: Path) -> str:
    cache = Cache(tmp_path / "cache")
    cache.write_kernel(Kernel("abd" + "0" * 61, SOURCE))
    cache.write_plan(PLAN)
    return str(tmp_path / "cache")


def run(*words: str) -> Any:
    return CliRunner().invoke(command, words)


def test_list(directory: str) -> None:
    found = run("cache", "ls", "--dir", directory)
    assert found.exit_code == 0
    assert "relu for interpret" in found.output and "model.f for interpret" in found.output
    assert "2 entries" in found.output


def test_list_as_json(directory: str) -> None:
    rows = json.loads(run("cache", "ls", "--dir", directory, "--json", "--kind", "plans").output)
    assert [row["key"] for row in rows] == [PLAN.key]


def test_show_by_a_unique_beginning(directory: str) -> None:
    found = run("cache", "show", "abd", "--dir", directory)
    assert found.exit_code == 0 and "def relu(x):" in found.output
    data = json.loads(run("cache", "show", PLAN.key, "--dir", directory, "--json").output)
    assert data["texts"]["plan.py"] == PLAN.text and data["fields"]["manifest"] == MANIFEST


def test_keys_that_do_not_name_one_entry(directory: str) -> None:
    assert "beginning of 2 keys" in str(run("cache", "show", "ab", "--dir", directory).exception)
    assert "begins with 'zz'" in str(run("cache", "show", "zz", "--dir", directory).exception)


def test_help_has_examples() -> None:
    for words in ((), ("cache",), ("cache", "ls"), ("cache", "show")):
        assert "Examples:" in run(*words, "--help").output


def test_missing_packages_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        tracejit.cli.main()
    assert capsys.readouterr().err == (
        "tracejit: the command line needs click and rich: pip install 'tracejit[cli]'\n"
    )


def test_errors_are_one_line(
    directory: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tracejit", "cache", "show", "zz", "--dir", directory])
    with pytest.raises(SystemExit) as caught:
        tracejit.cli.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("tracejit: no entry of the cache at")

"""The command line: listing and showing the cache, short keys, and one sentence where a package is
missing."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

import tracejit.cli
from tracejit.cli import commands, listing
from tracejit.cli.commands import tracejit as command
from tracejit.runtime.cache import Cache, Kernel, StoredPlan
from tracejit.runtime.kernel import Binary, KernelSource

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
    assert set(data) == {"kind", "key", "about", "fields", "guards", "texts", "used_by"}
    assert data["texts"]["plan.py"] == PLAN.text and data["fields"]["manifest"] == MANIFEST


def test_show_a_kernel_with_machine_code(directory: str) -> None:
    """Its sizes, registers and spills, the plan that uses it; assembly only when asked for."""
    binary = Binary(b"\x7fELF", "cubin", {}, "// ptx\nret;\n", 38, 16, 512, 0.25)
    source = replace(SOURCE, target="cuda:90", constants={"BLOCK": 64}, reads=12, writes=8)
    kernel = Kernel("fe" + "0" * 62, source, binary)
    cache = Cache(Path(directory))
    cache.write_plan(StoredPlan("fd" + "0" * 62, PLAN.text, MANIFEST, {"relu": kernel}))
    shown = run("cache", "show", "fe", "--dir", directory).output
    for words in (
        "1 programs, 4 warps each, 1 stages; BLOCK = 64",
        "reads 12 bytes, writes 8 bytes in a launch",
        "machine code: 4 bytes of cubin, 38 registers, 16 spilled, 512 bytes of shared memory, "
        "compiled in 250 ms",
        "used by plan fd0000000000 model.f for interpret: 1 launches, 2 calls",
        "assembly: 2 lines (--assembly shows them)",
    ):
        assert words in shown
    assert "ret;" not in shown
    assert "ret;" in run("cache", "show", "fe", "--dir", directory, "--assembly").output
    data = json.loads(run("cache", "show", "fe", "--dir", directory, "--json").output)
    assert data["texts"]["assembly"] == "// ptx\nret;\n"
    assert [user["key"] for user in data["used_by"]] == ["fd" + "0" * 62]


def test_source_is_coloured_in_a_terminal_only(directory: str) -> None:
    found = listing.entry(Cache(Path(directory)), "abd")
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, color_system="256", width=80)
        with redirect_stdout(out):
            commands._print(found, console)
        assert ("\x1b[" in out.getvalue()) is terminal
        assert "relu" in out.getvalue()


def test_long_lines_are_whole_in_a_file(directory: str) -> None:
    line = "x = " + "y + " * 50 + "y"
    source = replace(SOURCE, text=line)
    Cache(Path(directory)).write_kernel(Kernel("fa" + "0" * 62, source))
    assert line in run("cache", "show", "fa", "--dir", directory).output.splitlines()


def test_help_describes_the_json() -> None:
    rows = run("cache", "ls", "--help").output
    assert '{"kind", "key", "what", "bytes", "used"}' in rows
    text = run("cache", "show", "--help").output
    for name in ("kind", "key", "about", "fields", "guards", "texts", "used_by"):
        assert f"\n    {name} " in text


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

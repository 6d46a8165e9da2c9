"""`tracejit cache show`: one text alone, and keys that are shortened."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from rich.console import Console

from tests.cli.caches import (
    COMPILED,
    PLAN,
    SOURCE,
    add_kernel,
    document,
    fails,
    filled,
    handwritten,
    only,
    path,
    run,
    text,
)
from tracejit.cli import terminal
from tracejit.cli.cache import describe, parts, show
from tracejit.cli.cache.commands import cache
from tracejit.cli.cache.index import opened
from tracejit.runtime.cache import Cache
from tracejit.runtime.config import config
from tracejit.runtime.kernel import Binary


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def little(tmp_path: Path) -> Path:
    return handwritten(tmp_path)


# texts alone


def test_source_alone(directory: Path) -> None:
    kernel, plan = only(directory, "kernels", "interpret"), only(directory, "plans", "interpret")
    found = Cache(directory).read_plan(plan)
    assert found is not None
    (stored,) = found.kernels.values()
    assert text(directory, "show", kernel, "--source") == stored.source.text
    assert text(directory, "show", plan, "--source") == found.text
    record = only(directory, "records", "interpret")
    assert text(directory, "show", record, "--source") == found.text


@pytest.mark.parametrize("kind", ["kernels", "plans", "records"])
def test_graph_alone(directory: Path, kind: str) -> None:
    """Of a kernel or record, that of the plan."""
    shown = text(directory, "show", only(directory, kind, "interpret"), "--graph")
    assert shown.startswith("# recorded\ngraph(x: f32[8, 16]") and "aten._softmax" in shown
    assert "# after the passes\n" in shown and "aten.exp" in shown


def test_ptx_alone(directory: Path) -> None:
    shown = text(directory, "show", only(directory, "kernels", "cuda:90"), "--ptx")
    assert shown.lstrip().startswith("//") and ".target sm_90" in shown and "ret;" in shown


def test_sass_alone(directory: Path) -> None:
    shown = text(directory, "show", only(directory, "kernels", "cuda:90"), "--sass")
    assert ".text.add_pow_mean_rsqrt_more" in shown and "EXIT" in shown


def test_options_combine(directory: Path) -> None:
    kernel = only(directory, "kernels", "cuda:90")
    shown = text(directory, "show", kernel, "--source", "--ptx")
    source = text(directory, "show", kernel, "--source")
    assembly = text(directory, "show", kernel, "--ptx")
    assert shown == f"# source\n{source}\n# ptx\n{assembly}"
    texts = document(directory, "show", kernel, "--source", "--graph", "--sass")["texts"]
    assert texts["source"] == texts["kernel.py"] == source
    assert texts["assembly"] == assembly and "EXIT" in texts["sass"] and "graph.txt" in texts


def test_no_machine_code(directory: Path, little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each case has its sentence."""
    interpreted = only(directory, "kernels", "interpret")
    for option, what in (("--ptx", "assembly"), ("--sass", "machine code")):
        words = f"kernel {interpreted[:12]} has no {what}: for interpret it runs from its source"
        assert fails(directory, "show", interpreted, option) == words
    plan, kernel = only(directory, "plans", "cuda:90"), only(directory, "kernels", "cuda:90")
    sentence = fails(directory, "show", plan, "--sass")
    assert sentence.startswith("a plan has no machine code of its own; ask for a kernel: ")
    assert kernel[:12] in sentence
    hip = Binary(b"\x7fELF", "hsaco", {}, "s_endpgm\n")
    add_kernel(little, "fe", replace(SOURCE, target="hip:gfx942"), hip)
    assert text(little, "show", "fe", "--ptx") == "s_endpgm\n"
    assert "is for hip:gfx942" in fails(little, "show", "fe", "--sass")
    add_kernel(little, "fa", replace(SOURCE, target="cuda:90"), Binary(b"no code", "cubin"))
    assert "nvdisasm does not read kernel fa0" in fails(little, "show", "fa", "--sass")
    assert "stored without its assembly" in fails(little, "show", "fa", "--ptx")
    assert "stored without its graph" in fails(little, "show", "abc", "--graph")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "--sass needs nvdisasm" in fails(directory, "show", kernel, "--sass")


def test_nvdisasm_by_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As triton has it."""
    tool = tmp_path / "mine"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("TRITON_NVDISASM_PATH", str(tool))
    assert parts.nvdisasm() == str(tool)


@pytest.mark.parametrize("on_terminal", [True, False])
def test_source_is_coloured_in_a_terminal_only(little: Path, on_terminal: bool) -> None:
    found = describe.subject(opened(little), opened(little).find("abd"))
    out = io.StringIO()
    colours = "256" if on_terminal else "auto"
    console = Console(file=out, force_terminal=on_terminal, color_system=colours, width=80)
    with redirect_stdout(out):
        show.print_rows(console, found)
        rows = out.getvalue()
        terminal.source(console, parts.source(found))
    for printed in (rows, out.getvalue().removeprefix(rows)):
        assert ("\x1b[" in printed) is on_terminal and "relu" in printed


def test_long_lines_are_whole_in_a_file(little: Path) -> None:
    line = "x = " + "y + " * 50 + "y"
    add_kernel(little, "fa", replace(SOURCE, text=line, strategy="long " * 50), None)
    lines = text(little, "show", "fa").splitlines()
    assert line in lines and any(("long " * 50).rstrip() in line for line in lines)


def test_json_is_one_document(directory: Path) -> None:
    found = run(directory, "show", only(directory, "kernels", "cuda:90"), "--json", "--sass")
    assert json.loads(found.stdout)["texts"]["sass"]


# keys


def test_keys_that_do_not_name_one_entry(little: Path) -> None:
    sentence = fails(little, "show", "ab")
    assert "'ab' is the beginning of 2 keys" in sentence
    assert "abc000000000 (plan model.f)" in sentence and "abd000000000 (kernel relu)" in sentence
    assert "begins with 'zz'" in fails(little, "show", "zz")
    assert "begins with 'ab'" in fails(little, "show", "ab", "--kind", "records")
    assert text(little, "show", "ab", "--kind", "plans").startswith("plan abc0")


def test_a_name_does_where_no_key_begins_so(directory: Path) -> None:
    key = only(directory, "kernels", "cuda:90")
    name = opened(directory).find(key).name
    assert text(directory, "show", name, "--ptx") == text(directory, "show", key, "--ptx")
    assert text(directory, "show", name[:-1]).startswith(f"kernel {key[:12]}")
    found = fails(directory, "show", COMPILED)
    assert f"(plan {COMPILED})" in found and f"(record {COMPILED})" in found
    assert text(directory, "show", COMPILED, "--kind", "plans").startswith("plan ")


def test_a_record_by_its_function(directory: Path) -> None:
    """`function/record`, as the folder is called."""
    file = path(directory, "records", "interpret")
    key = f"{file.parent.name}/{file.name[:5]}"
    assert text(directory, "show", key).startswith(f"record {file.name}")


def test_no_cache_yet(tmp_path: Path) -> None:
    assert "begins with 'ab'" in fails(tmp_path / "none", "show", "ab")
    assert not (tmp_path / "none").exists()


def test_keys_are_completed(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what they are; among those of --kind and in --dir."""
    complete = ShellComplete(cache, {}, "cache", "_COMPLETE")
    words = ["show", "--dir", str(little)]
    found = {c.value: c.help for c in complete.get_completions(words, "ab")}
    assert found == {"abc000000000": "plan model.f", "abd000000000": "kernel relu"}
    found = [c.value for c in complete.get_completions([*words, "--kind", "plans"], "")]
    assert found == ["abc000000000"]
    longer = PLAN.key[:20]
    assert [c.value for c in complete.get_completions(words, longer)] == [longer]
    monkeypatch.setattr(config, "cache_dir", str(little / "none"))
    assert complete.get_completions(["show"], "") == []


def test_help_has_examples() -> None:
    for words in ([], *([name] for name in cache.commands)):
        assert "Examples:" in CliRunner().invoke(cache, [*words, "--help"]).output

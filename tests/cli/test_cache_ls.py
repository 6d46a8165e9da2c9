"""`tracejit cache ls`: text, JSON, filters, sorting, and that looking changes nothing."""

from __future__ import annotations

import io
import os
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.cli.caches import (
    COMPILED,
    INTERPRETED,
    PLAN,
    document,
    fails,
    filled,
    handwritten,
    keys,
    other_format,
    path,
    run,
    snapshot,
    text,
)
from tracejit.cli import columns
from tracejit.cli.cache.filters import like


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("ls"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return filled(tmp_path)


def listed(directory: Path, *words: str) -> list[tuple[str, str]]:
    """Kind and model of each entry, in order."""
    rows = document(directory, "ls", *words)["entries"]
    return [(row["kind"], row["models"][0]) for row in rows]


def test_text(directory: Path) -> None:
    lines = text(directory, "ls").splitlines()
    head = ["kind", "key", "what", "model", "target", "size", "hits", "used", "written"]
    assert lines[0].split() == head
    assert lines[-1].startswith("6 entries, ") and lines[-1].endswith(f" in {directory}")
    (kernel,) = (line for line in lines if line.startswith("kernel") and "cuda:90" in line)
    (key,) = keys(directory, "kernels", "cuda:90")
    assert key[:12] in kernel and COMPILED in kernel and "KiB" in kernel
    (plan,) = (line for line in lines if line.startswith("plan") and "interpret" in line)
    assert "1 launch, 1 call" in plan and INTERPRETED in plan
    (record,) = (line for line in lines if line.startswith("record") and "interpret" in line)
    assert f"plan {keys(directory, 'plans', 'interpret')[0][:12]}" in record


def test_json(directory: Path) -> None:
    data = document(directory, "ls")
    assert data["directory"] == str(directory)
    files = [p for kind in ("kernels", "plans", "records") for p in (directory / kind).rglob("*")]
    size = sum(p.stat().st_size for p in files if p.is_file())
    assert data["total"] == {"entries": 6, "bytes": size} and len(data["entries"]) == 6
    for row in data["entries"]:
        assert len(row["key"]) == 64 and row["state"] == "ok" and row["why"] == ""
        assert (directory / row["kind"] / row["function"] / row["key"]).is_file()
        assert (row["function"] != "") is (row["kind"] == "records")
        assert row["hits"] == (1 if row["target"] == "interpret" else 0)
        for name in ("used", "written"):
            assert row[name].endswith("+00:00")


def test_help_describes_the_json(directory: Path) -> None:
    words = run(directory, "ls", "--help").output
    data = document(directory, "ls")
    for name in (*data, *data["entries"][0]):
        assert name == "schema" or name in words, name
    assert "Examples:" in words


K, P, R = "kernels", "plans", "records"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--kind", K), {(K, COMPILED), (K, INTERPRETED)}),
        (("--model", "norm"), {(K, COMPILED), (P, COMPILED), (R, COMPILED)}),
        (("--model", "*.NORM"), {(K, COMPILED), (P, COMPILED), (R, COMPILED)}),
        (("--model", "norm*"), set()),
        (("--kernel", "softmax"), {(K, INTERPRETED), (P, INTERPRETED), (R, INTERPRETED)}),
        (("--target", "cuda"), {(K, COMPILED), (P, COMPILED), (R, COMPILED)}),
        (("--target", "hip:*"), set()),
        (("--larger-than", "10KB"), {(K, COMPILED)}),
        (("--smaller-than", "10KB", "--kind", K), {(K, INTERPRETED)}),
        (("--min-hits", "1"), {(K, INTERPRETED), (P, INTERPRETED), (R, INTERPRETED)}),
        (("--unused", "--kind", P), {(P, COMPILED)}),
        (("--older-than", "1h"), set()),
        (("--newer-than", "1h", "--kind", R), {(R, COMPILED), (R, INTERPRETED)}),
    ],
)
def test_filters(directory: Path, words: tuple[str, ...], expected: set[tuple[str, str]]) -> None:
    found = listed(directory, *words)
    assert set(found) == expected and len(found) == len(expected)
    last = text(directory, "ls", *words).splitlines()[-1]
    assert last.startswith(f"{len(expected)} of 6 entries, ")


def test_age(own: Path) -> None:
    old = path(own, "kernels", "interpret")
    os.utime(old, (time.time() - 3 * 86400,) * 2)
    assert listed(own, "--older-than", "2d") == [(K, INTERPRETED)]
    assert len(listed(own, "--newer-than", "2d")) == 5
    assert " 3 d " in text(own, "ls", "--older-than", "2d")
    assert listed(own)[-1] == (K, INTERPRETED)


@pytest.mark.parametrize(
    ("sort", "value", "falling"),
    [
        ("used", lambda row: row["used"], True),
        ("written", lambda row: row["written"], True),
        ("size", lambda row: row["bytes"], True),
        ("hits", lambda row: row["hits"], True),
        ("name", lambda row: row["name"], False),
        ("model", lambda row: row["models"], False),
        ("target", lambda row: row["target"], False),
    ],
)
def test_sorting(directory: Path, sort: str, value: Any, falling: bool) -> None:
    rows = document(directory, "ls", "--sort", sort)["entries"]
    assert len(rows) == 6
    assert [value(r) for r in rows] == sorted(map(value, rows), reverse=falling)
    back = document(directory, "ls", "--sort", sort, "--reverse")["entries"]
    assert [value(r) for r in back] == [value(r) for r in rows][::-1]


def test_limit(directory: Path) -> None:
    rows = document(directory, "ls", "--sort", "size")["entries"]
    assert document(directory, "ls", "--sort", "size", "--limit", "2")["entries"] == rows[:2]
    assert "2 of 6 entries" in text(directory, "ls", "--limit", "2")


@pytest.mark.parametrize(
    "words",
    [
        ("--older-than", "soon"),
        ("--larger-than", "much"),
        ("--sort", "colour"),
        ("--min-hits", "-1"),
        ("--kind", "kernel"),
    ],
)
def test_a_wrong_value_is_a_mistake(directory: Path, words: tuple[str, ...]) -> None:
    found = run(directory, "ls", *words)
    assert found.exit_code == 2 and f"Invalid value for '{words[0]}'" in found.stderr


def test_what_cannot_be_read_is_listed_and_not_touched(own: Path) -> None:
    """Damage, another version's file and a stranger's, in every row a word why."""
    damaged, other = path(own, "plans", "interpret"), path(own, "kernels", "cuda:90")
    damaged.write_bytes(b"")
    other_format(other)
    (own / "records" / "notes.txt").write_text("mine")
    before = snapshot(own)
    states = {row["key"]: row for row in document(own, "ls")["entries"]}
    assert states[damaged.name]["state"] == "damaged"
    assert "its beginning is lost" in states[damaged.name]["why"]
    assert states[other.name]["state"] == "other format"
    assert states["notes.txt"]["state"] == "damaged"
    lines = text(own, "ls")
    assert "damaged: it is not a file that tracejit wrote" in lines
    assert "other format: it has format 99" in lines
    assert snapshot(own) == before and not (own / "damaged").exists()


def test_only_the_beginning_of_a_file_is_read(own: Path) -> None:
    """A byte that is lost further down is for `verify` to find."""
    kernel = path(own, "kernels", "cuda:90")
    kernel.write_bytes(kernel.read_bytes()[:-1])
    assert all(row["state"] == "ok" for row in document(own, "ls")["entries"])


def test_fields_of_another_kind(own: Path) -> None:
    """A file that is whole, and whose fields are not those of its kind."""
    kernel = path(own, "kernels", "interpret")
    kernel.write_bytes(kernel.read_bytes().replace(b'"source":', b'"sauce":', 1))
    (row,) = (r for r in document(own, "ls")["entries"] if r["key"] == kernel.name)
    assert row["state"] == "damaged" and row["why"] == "its fields are not those of kernels"


def test_entries_that_say_little(tmp_path: Path) -> None:
    """No record leads to them: no hits, and the plan's own title names its model."""
    directory = handwritten(tmp_path)
    rows = {row["kind"]: row for row in document(directory, "ls")["entries"]}
    assert rows["plans"]["key"] == PLAN.key and rows["plans"]["models"] == ["model.f"]
    assert rows["plans"]["what"] == "1 launch, 2 calls" and rows["plans"]["hits"] == 0
    assert rows["kernels"]["name"] == "relu" and rows["kernels"]["models"] == []
    assert "2 entries" in text(directory, "ls")


def test_no_cache_yet(tmp_path: Path) -> None:
    directory = tmp_path / "none"
    assert text(directory, "ls") == f"no cache yet: {directory} does not exist\n"
    assert document(directory, "ls")["entries"] == []
    assert not directory.exists()


def test_an_empty_cache(tmp_path: Path) -> None:
    assert text(tmp_path, "ls") == f"0 entries, 0 B in {tmp_path}\n"


def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = run(tmp_path / "file", "ls")
    assert found.exit_code == 2 and "is a file" in found.stderr
    if os.getuid():  # root reads everything
        (tmp_path / "closed").mkdir(mode=0)
        assert "cannot be read: Permission denied" in fails(tmp_path / "closed", "ls")


def test_columns_fit_a_terminal() -> None:
    shown = _printed([("plan", "a_very_long_name_of_a_kernel", "package.model.Block.forward")], 40)
    head, line = shown.splitlines()
    assert head.split() == ["kind", "what", "model"] and len(line) == 40
    assert line.startswith("plan  a_very_lo") and line.endswith("forward") and line.count("…") == 2


def test_columns_are_whole_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    out = Console(width=40)
    columns.print_columns(out, _COLUMNS, [("plan", "n" * 50, "m" * 50)])
    assert "n" * 50 + "  " + "m" * 50 in capsys.readouterr().out


_COLUMNS = [
    columns.Column("kind"),
    columns.Column("what", cut="end"),
    columns.Column("model", cut="start"),
]


def _printed(rows: list[tuple[str, ...]], width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, no_color=True, width=width)
    with redirect_stdout(out):
        columns.print_columns(console, _COLUMNS, rows)
    return out.getvalue()


def test_globs() -> None:
    assert like("norm", "model.LayerNorm") and like("*norm", "model.LayerNorm")
    assert not like("norm*", "model.LayerNorm") and like("gpt[12]", "GPT2")

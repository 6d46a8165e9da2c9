"""Whole runs of the command: with real peers, stopped by Ctrl-C, and misused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.bench.documents import whole
from tracejit.benchmarks.document import MEASURES, Document, read
from tracejit.benchmarks.traffic import TIMES
from tracejit.cli.bench import bench, names_of_workloads


def command(*words: str, **environ: str) -> Any:
    """The real command as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "tracejit.benchmarks", *words],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_end_to_end(tmp_path: Path) -> None:
    """A small run with all measures: its JSON, files, progress, and nothing left."""
    (tmp_path / "tmp").mkdir()
    stored, picture = tmp_path / "r.json", tmp_path / "r.svg"
    words = ("pointwise", "--peer", "tracejit", "--quick", "--threads", "1", "--json")
    files = ("--out", str(stored), "--plot", str(picture))
    process = command(*words, *files, TMPDIR=str(tmp_path / "tmp"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert list((tmp_path / "tmp").iterdir()) == []
    lines = err.splitlines()
    assert lines[1].startswith("[2/8] pointwise: eager, cold start (about ")
    assert lines[-1].startswith("[8/8] pointwise: recording (about ")
    assert lines[0].startswith("[1/8] what this machine's memory moves in a second (about ")
    document = json.loads(out)
    assert json.loads(stored.read_text()) == document
    assert read(stored).to_json() == {k: v for k, v in document.items() if k != "schema"}
    check_head(document)
    check_rows({(r["measure"], r["peer"]): r for r in document["rows"]})
    check_said(document, stored, picture)
    check_compared(stored)


def check_head(document: dict[str, Any]) -> None:
    """What the figures depend on."""
    assert set(document) == {"schema", *Document.__dataclass_fields__}
    assert document["schema"] == 1 and (document["device"], document["threads"]) == ("cpu", 1)
    assert set(document["machine"]) == {"processor", "cores", "features", "memory", "system"}
    assert {"python", "torch", "triton", "tracejit"} <= set(document["versions"])
    assert list(document["peers"]) == ["eager", "tracejit", "eager again"]
    assert document["traffic"] == {"pointwise": 3 * 2048 * 1024 * 4}
    assert {name: len(found) for name, found in document["bandwidth"].items()} == {
        "triad": TIMES,
        "fresh": TIMES,
    }


def check_rows(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Every measure of every peer, with as many samples as rounds."""
    assert len(rows) == len(MEASURES) * 3
    assert {r["status"] for r in rows.values()} == {"ok"}, rows
    for measure in ("steady", "overhead", "recording"):
        found = [rows[measure, p]["series"]["call"] for p in ("eager", "tracejit", "eager again")]
        assert [len(s) for s in found] == [5, 5, 5] and all(x > 0 for s in found for x in s)
    start = rows["startup", "tracejit"]["series"]
    assert {"import torch", "import", "cold", "warm"} <= set(start)
    assert "warm" not in rows["startup", "eager"]["series"]
    assert rows["memory", "tracejit"]["series"]["warm start"][0] > 1 << 20


def check_said(document: dict[str, Any], stored: Path, picture: Path) -> None:
    """What tracejit compiled for is said, and each measure has its line."""
    remark = document["peers"]["tracejit"]["remark"]
    assert document["peers"]["tracejit"]["note"].startswith("kernels for native:") and not remark
    shown = CliRunner().invoke(bench, ["--from", str(stored)])
    assert shown.exit_code == 0
    steady = [line for line in shown.output.splitlines() if line.startswith("pointwise  tracejit")]
    assert len(steady) == 5
    assert "tracejit" in picture.read_text()


def check_compared(stored: Path) -> None:
    """With itself: nothing changed."""
    words = ["--from", str(stored), "--compare", str(stored)]
    shown = CliRunner().invoke(bench, words)
    assert "0 of 21 figures changed beyond the noise, 21 did not." in shown.output
    found = json.loads(CliRunner().invoke(bench, [*words, "--json"]).output)
    assert found["compared"]["machines_differ"] == [] and len(found["compared"]["changes"]) == 21


@pytest.mark.parametrize("measure", ["startup", "overhead"])
def test_ctrl_c_leaves_nothing(measure: str, tmp_path: Path) -> None:
    """Neither of a start nor of the processes that wait for their turn."""
    words = ("gpt", "--peer", "tracejit", "--measure", measure)
    process = command(*words, TMPDIR=str(tmp_path))
    assert process.stderr.readline().startswith("[")  # the first step's child begins
    time.sleep(0.5)
    (folder,) = tmp_path.iterdir()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "tracejit: stopped"
    assert list(tmp_path.iterdir()) == []
    assert not [text for text in commands_running() if str(folder) in text]


def commands_running() -> list[str]:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text())
        except OSError:
            continue
    return found


def test_a_wrong_result_is_exit_status_1(tmp_path: Path) -> None:
    rows = [replace(whole().rows[0], status="wrong", why="output 0: dtype", series={})]
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema": 1, **replace(whole(), rows=rows).to_json()}))
    shown = CliRunner().invoke(bench, ["--from", str(path)])
    assert shown.exit_code == 1 and "wrong: output 0: dtype" in shown.output


def test_list() -> None:
    lines = CliRunner().invoke(bench, ["--list"]).output.splitlines()
    assert lines[0] == "pointwise            gelu(a·b + a)·sigmoid(b) on 2 M floats"
    assert "gpt16                the same with 16 blocks (only if named)" in lines
    found = json.loads(CliRunner().invoke(bench, ["--list", "--json"]).output)["workloads"]
    beginnings = dict.fromkeys("/".join(row["name"].split("/")[:2]) for row in found)
    assert list(beginnings) == [line.split()[0] for line in lines]
    single = {row["name"] for row in found if not row["default"] and "/" not in row["name"]}
    assert single == {"gpt16"}


def test_completion() -> None:
    assert names_of_workloads(None, None, "gp") == ["gpt", "gpt16", "gpt2"]
    assert names_of_workloads(None, None, "mi") == ["micro"]
    assert names_of_workloads(None, None, "micro/so") == ["micro/softmax"]
    assert names_of_workloads(None, None, "micro/softmax/16/") == [
        "micro/softmax/16/fp32",
        "micro/softmax/16/bf16",
    ]


def test_a_suite(tmp_path: Path) -> None:
    """One table for the peers beside each other, and what they come to in the JSON."""
    words = ("micro/softmax/16/fp32", "--peer", "tracejit", "--quick", "--threads", "1", "--json")
    process = command(*words, TMPDIR=str(tmp_path))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert {row["measure"] for row in document["rows"]} == {"steady"}
    assert {row["status"] for row in document["rows"]} == {"ok"}, document["rows"]
    (everything, *_) = document["summary"]["micro"]
    assert everything["name"] == "all" and list(everything["versus"]) == ["eager"]


def test_help_has_examples_and_the_json() -> None:
    text = CliRunner().invoke(bench, ["--help"]).output
    assert "Examples:" in text
    for name in (*Document.__dataclass_fields__, "summary", "compared"):
        assert name in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gptt",), "workload='gptt' is not one of pointwise, "),
        (("--peer", "jax"), "'jax' is not one of 'eager', 'torch.compile', "),
        (("--measure", "speed"), "'speed' is not one of 'startup', 'steady', "),
        (("--plot", "x.pdf"), "x.pdf must end in .png or .svg"),
        (("--plot", "no/such/x.png"), "there is no directory no/such"),
        (("--out", "no/such/x.json"), "there is no directory no/such"),
        (("--compare", "none.json"), "'none.json' does not exist"),
    ],
)
def test_mistakes(words: tuple[str, ...], said: str) -> None:
    process = command(*words)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert said in err and len(err.splitlines()) == 1, err

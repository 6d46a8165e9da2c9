"""What suites come to: means over groups, the worst case, bytes per second; and how it is shown."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.bench.documents import document, row
from tracejit.benchmarks import panels, plot, traffic
from tracejit.benchmarks.document import Document, Row
from tracejit.benchmarks.summary import rate, ratio, streaming, summary, to_json
from tracejit.benchmarks.table import print_document
from tracejit.cli.bench import bench

# Least times by workload and peer, in ms; the other rounds take as long or longer.
LEAST = {
    "micro/gate/16/fp32": {"eager": 8.0, "torch.compile": 16.0, "tracejit": 2.0},
    "micro/gate/16M/fp32": {"eager": 32.0, "torch.compile": 8.0, "tracejit": 16.0},
    "micro/sum-all/16/fp32": {"eager": 4.0, "torch.compile": 4.0, "tracejit": 2.0},
    "models/gpt/b1/fp32": {"eager": 20.0, "torch.compile": 10.0, "tracejit": 5.0},
}


def suites() -> Document:
    """Two suites, a failure, and bytes."""
    rows = []
    for name, found in LEAST.items():
        for peer, least in found.items():
            rows.append(row(name, "steady", peer, call=[least * f / 1e3 for f in (1, 2, 1, 1, 1)]))
        rows.append(row(name, "steady", "eager again", call=[found["eager"] / 1e3] * 5))
        rows.append(Row(name, "steady", "jax.jit", "missing", "written for PyTorch only"))
    peers = dict.fromkeys((*LEAST["models/gpt/b1/fp32"], "jax.jit", "eager again"))
    return document(
        rows,
        workloads=dict.fromkeys(LEAST, "a kernel"),
        peers={name: {"note": f"what {name} does", "remark": ""} for name in peers},
        traffic={"micro/gate/16/fp32": 192, "micro/gate/16M/fp32": 192 << 20},
        bandwidth={"triad": [20e9, 25e9], "fresh": [8e9, 10e9]},
    )


def test_a_ratio_is_of_the_least_times_and_its_spread_of_each_third() -> None:
    found = ratio([([2.0, 1.0, 4.0], [4.0, 4.0, 2.0])])
    assert (found.value, found.low, found.high, found.count) == (2.0, 0.5, 4.0, 1)
    both = ratio([([1.0] * 5, [2.0] * 5), ([1.0] * 12, [8.0] * 12)])
    assert (both.value, both.low, both.high, both.count) == pytest.approx((4.0, 4.0, 4.0, 2))


def test_groups_of_a_suite() -> None:
    found = {group.name: group for group in summary(suites(), "micro")}
    assert list(found) == ["all", "gate", "sum-all", "16", "16M", "fp32"]
    versus = {name: group.versus["torch.compile"].value for name, group in found.items()}
    expected = {"all": 2.0, "gate": 2.0, "sum-all": 2.0, "16": 4.0, "16M": 0.5, "fp32": 2.0}
    assert versus == pytest.approx(expected)
    assert found["all"].versus["eager"].value == pytest.approx((4 * 2 * 2) ** (1 / 3))
    assert set(found["all"].versus) == {"eager", "torch.compile"} and found["all"].count == 3


def test_the_worst_is_beside_the_best_of_the_others() -> None:
    worst = {group.name: group.worst for group in summary(suites(), "micro")}
    assert worst["all"] is not None and worst["16"] is not None
    said = (worst["all"].workload, worst["all"].other, worst["all"].ratio.value)
    assert said == ("micro/gate/16M/fp32", "torch.compile", 0.5)
    assert (worst["16"].workload, worst["16"].ratio.value) == ("micro/sum-all/16/fp32", 2.0)


def test_without_the_subject_there_is_no_summary() -> None:
    found = suites()
    found.rows = [r for r in found.rows if r.peer != "tracejit"]
    assert to_json(found) == {"micro": [], "models": []}


def test_only_what_no_cache_holds_shows_the_memory() -> None:
    assert streaming(suites()) == ["micro/gate/16M/fp32"]
    assert rate(suites(), "micro/gate/16M/fp32", "tracejit") == (192 << 20) / 0.016
    assert rate(suites(), "micro/gate/16M/fp32", "jax.jit") == 0.0


def test_memory_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "ELEMENTS", 1 << 16)
    found = traffic.stream()
    assert set(found) == {"triad", "fresh"}
    assert all(len(rates) == traffic.TIMES and min(rates) > 1e6 for rates in found.values())


def printed() -> list[list[str]]:
    out = io.StringIO()
    print_document(suites(), Console(file=out, width=10_000))
    lines = out.getvalue().splitlines()
    return [[c.strip() for c in line.split("  ") if c.strip()] for line in lines]


def test_tables() -> None:
    found, eager = printed(), "1.00× (1.00…1.00×)"
    for cells in (
        ["Steady state of micro"],
        ["micro", "eager", "torch.compile", "tracejit", "jax.jit", "eager again"],
        ["gate/16M/fp32", "32.0 ms", "4.00× (4.00…4.00×)", "2.00× (2.00…2.00×)", "missing", eager],
        ["jax.jit missing: written for PyTorch only (micro/gate/16/fp32 and 2 more workloads)"],
        ["tracejit in micro"],
        ["16M", "1", "2.00× (2.00…2.00×)", "0.50× (0.50…0.50×)", "0.50× (0.50…0.50×)",
         "micro/gate/16M/fp32 (torch.compile)"],
        ["Steady state of models"],
        ["micro/gate/16M/fp32", "192.0 MiB", "6.3 GB/s (25 %)", "25.2 GB/s (101 %)",
         "12.6 GB/s (50 %)"],
    ):  # fmt: skip
        assert cells in found, cells
    assert any("triad 25.0 GB/s, copy into fresh memory 10.0 GB/s." in c[0] for c in found if c)
    assert not any(cells[:2] == ["micro/gate/16/fp32", "eager"] for cells in found)  # not twice


def test_panels(tmp_path: Path) -> None:
    found = list(plot.panels_of(suites()))
    assert [panel.draw for panel in found] == [panels.steady, panels.by_size, panels.roofline]
    assert [panel.lines for panel in found] == [["models/gpt/b1/fp32"], [], ["micro/gate/16M/fp32"]]
    plot.draw(suites(), tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    for words in ("tracejit", "triad, warm buffer", "micro/gate/16M/fp32", "16M", "GB/s"):
        assert words in text
    one = replace(suites(), rows=[r for r in suites().rows if r.workload.startswith("micro/g")])
    assert [panel.draw for panel in plot.panels_of(replace(one, bandwidth={}))] == [panels.by_size]


def test_list() -> None:
    lines = CliRunner().invoke(bench, ["--list"]).output.splitlines()
    assert "micro/softmax        softmax over the last axis (10 workloads)" in lines
    assert "models/mlp           4 linear layers, 2048 wide, with GELU (4 workloads)" in lines
    named = CliRunner().invoke(bench, ["--list", "micro/softmax/16"]).output.splitlines()
    assert [line.split()[0] for line in named] == [
        "micro/softmax/16/fp32",
        "micro/softmax/16/bf16",
    ]

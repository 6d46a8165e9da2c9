"""What is printed, drawn, stored and compared, of documents made by hand."""

from __future__ import annotations

import importlib.util
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench.documents import MACHINE, document, row, whole
from tracejit.benchmarks import plot
from tracejit.benchmarks.columns import between, seconds, signed, times
from tracejit.benchmarks.compare import changes, differs, print_changes
from tracejit.benchmarks.document import Document, NotAResult, read
from tracejit.benchmarks.stats import spread
from tracejit.benchmarks.table import print_document
from tracejit.runtime.errors import MissingExtra


def printed(show: object, *documents: Document) -> str:
    out = io.StringIO()
    show(*documents, Console(file=out, width=10_000))  # type: ignore[operator]
    return out.getvalue()


def lines(text: str) -> list[list[str]]:
    """Each line's cells: what two spaces separate."""
    return [[c.strip() for c in line.split("  ") if c.strip()] for line in text.splitlines()]


def test_table() -> None:
    found = lines(printed(print_document, whole()))
    assert found[0] == ["Example 9000, 2 cores, 8.0 GiB; 2 threads; device cpu"]
    for cells in (
        ["gpt", "torch.compile", "–", "20.0 s", "–", "1.00×", "4.00 s", "–", "1.00×"],
        ["gpt", "tracejit", "20.0 ms", "500 ms", "490…520 ms", "40.0×", "50.0 ms", "–", "80.0×",
         "calls run eagerly here"],
        ["gpt", "eager", "10.0 ms", "10.5 ms", "10.0…11.2 ms", "–", "–"],
        ["gpt", "torch.compile", "–", "–", "–", "–", "–", "failed: RuntimeError: no compiler"],
        ["gpt", "tracejit", "5.00 ms", "5.25 ms", "5.00…5.62 ms", "0.50×", "0.50…0.50×",
         "calls run eagerly here"],
        ["gpt", "eager again", "10.0 ms", "11.0 ms", "10.0…12.0 ms", "1.00×",
         "1.00…1.02×"],
        ["gpt", "tracejit", "12.0 µs", "12.0 µs", "12.0…12.2 µs", "+2.00 µs",
         "+2.00…+2.00 µs", "calls run eagerly here"],
        ["gpt", "tracejit", "20.0 ms", "20.0 ms", "20.0…22.5 ms", "2.00×", "2.00…2.25×",
         "50.0 ms"],
        ["gpt", "tracejit", "9.0 MiB", "3.0 MiB", "4.0 MiB", "2.00×", "calls run eagerly here"],
        ["tracejit: compiles for cuda:90"],
    ):  # fmt: skip
        assert cells in found, cells


def test_table_in_a_file_is_plain() -> None:
    text = printed(print_document, whole())
    assert "\x1b" not in text and not [line for line in text.splitlines() if line != line.rstrip()]


def test_a_busy_machine_is_named() -> None:
    assert "busy" not in printed(print_document, whole())
    assert "(load 1.5): expect noise" in printed(print_document, replace(whole(), load=1.5))


@pytest.mark.parametrize(
    ("value", "words"),
    [(14.07, "14.1 s"), (0.00472, "4.72 ms"), (1.5e-5, "15.0 µs"), (2e-8, "20.0 ns")],
)
def test_seconds(value: float, words: str) -> None:
    assert seconds(value) == words
    assert signed(-value) == f"−{words}" and signed(value) == f"+{words}"


def test_times() -> None:
    assert [times(v) for v in (0.456, 36.84, 152.3)] == ["0.46×", "36.8×", "152×"]


def test_between() -> None:
    assert between(spread([0.0126, 0.013, 0.0134]), seconds) == "12.8…13.2 ms"
    assert between(spread([0.9e-3, 1.1e-3]), seconds) == "950 µs…1.05 ms"
    assert between(spread([-1e-6, 2e-6]), signed) == "−250 ns…+1.25 µs"
    assert between(spread([0.5]), times) == "0.50…0.50×"


@pytest.mark.parametrize(("width", "beside"), [(200, True), (100, False), (40, False)])
def test_remarks_are_never_cut(width: int, beside: bool) -> None:
    """Beside the figures where there is room, else below them; the figures are whole."""
    out = io.StringIO()
    print_document(whole(), Console(file=out, force_terminal=True, color_system=None, width=width))
    text = out.getvalue()
    assert ("tracejit* calls run eagerly here" in text) is not beside
    assert ("gpt, torch.compile* failed: RuntimeError: no compiler" in text) is not beside
    rows = [cells for cells in lines(text) if "5.25 ms" in cells]
    remarks = ["calls run eagerly here"] if beside else []
    peer = "tracejit" if beside else "tracejit*"
    assert rows == [["gpt", peer, "5.00 ms", "5.25 ms", "5.00…5.62 ms", "0.50×", "0.50…0.50×",
                     *remarks]]  # fmt: skip


def test_stored_and_read(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"schema": 1, **whole().to_json()}))
    assert read(path) == whole()


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2}', '{"schema": 1}', '{"a": 1}'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(NotAResult, match="is not a result of tracejit bench"):
        read(path)


def run(eager: list[float], again: list[float], ours: list[float], cold: float = 0.5) -> Document:
    return document(
        [
            row("gpt", "steady", "eager", call=eager),
            row("gpt", "steady", "tracejit", call=ours),
            row("gpt", "steady", "eager again", call=again),
            row("gpt", "startup", "eager", cold=[0.02]),
            row("gpt", "startup", "tracejit", cold=[cold]),
            row("gpt", "startup", "eager again", cold=[0.03]),
        ]
    )


def verdicts(old: Document, new: Document) -> dict[tuple[str, str], str]:
    return {(c.measure, c.peer): c.verdict for c in changes(old, new)}


CALM = [1.0, 1.0, 1.0, 1.0]
OLD = run(CALM, CALM, [0.5] * 4)


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (run(CALM, CALM, [0.51] * 4), "same"),  # below what is ever called a change
        (run(CALM, CALM, [0.55] * 4), "worse"),
        (run(CALM, CALM, [0.45] * 4), "better"),
        (run(CALM, [1.0, 1.2, 1.2, 1.2], [0.55] * 4), "same"),  # eager differs from itself by more
        (run([1.2] * 4, [1.2] * 4, [0.55] * 4), "same"),  # the same torch was slower too
    ],
)
def test_verdict_in_rounds(new: Document, verdict: str) -> None:
    assert verdicts(OLD, new)["steady", "tracejit"] == verdict


def test_verdict_of_another_torch() -> None:
    """What eager gained may be torch's, so it is no measure of the noise between the runs."""
    new = replace(run([0.8] * 4, [0.8] * 4, [0.4] * 4), versions={"torch": "2.14.0"})
    assert verdicts(OLD, new) == {
        ("steady", "eager"): "better",
        ("steady", "tracejit"): "better",
        ("steady", "eager again"): "better",
        ("startup", "eager"): "same",
        ("startup", "tracejit"): "same",
        ("startup", "eager again"): "same",
    }
    assert "torch: 2.13.0 then, 2.14.0 now" in printed(print_changes, OLD, new)


@pytest.mark.parametrize(("cold", "verdict"), [(0.55, "same"), (0.7, "worse"), (0.3, "better")])
def test_verdict_of_a_start(cold: float, verdict: str) -> None:
    new = run(CALM, CALM, [0.5] * 4, cold)
    assert verdicts(OLD, new)["startup", "tracejit"] == verdict


def test_what_changed_is_printed() -> None:
    text = printed(print_changes, OLD, run(CALM, CALM, [0.55] * 4))
    cells = ["gpt", "steady", "tracejit", "500 ms", "550 ms", "1.10×", "±3 %", "worse"]
    assert cells in lines(text)
    assert text.splitlines()[-1] == "1 of 6 figures changed beyond the noise, 5 did not."


def test_a_peer_that_fails_now_is_named() -> None:
    new = run(CALM, CALM, [0.5] * 4)
    new.rows[1] = replace(new.rows[1], status="wrong", why="output 0: dtype", series={})
    said = "gpt, steady, tracejit: ok then, wrong now: output 0: dtype"
    assert said in printed(print_changes, OLD, new).splitlines()
    assert "gpt, steady, tracejit: wrong then, ok now" in printed(print_changes, new, OLD)


def test_other_machines_are_not_compared_silently() -> None:
    new = replace(OLD, machine=MACHINE | {"processor": "Other 1"}, threads=1)
    assert differs(OLD, new) == [
        "processor: Example 9000 then, Other 1 now",
        "threads: 2 then, 1 now",
    ]
    assert set(verdicts(OLD, new).values()) == {"other machine"}
    text = printed(print_changes, OLD, new)
    assert text.startswith("These are results of different machines")
    assert text.splitlines()[-1] == "6 figures, none judged."


def test_plot(tmp_path: Path) -> None:
    png, svg, again = tmp_path / "p.png", tmp_path / "p.svg", tmp_path / "again.svg"
    for path in (png, svg, again):
        plot.draw(whole(), path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_bytes() == again.read_bytes()
    text = svg.read_text()
    for words in ("tracejit", "(calls run eagerly here)", "eager against itself", "gpt"):
        assert words in text
    assert "<dc:date>" not in text


def test_plot_of_one_measure(tmp_path: Path) -> None:
    rows = [r for r in whole().rows if r.measure == "memory"]
    plot.draw(document(rows), tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 0


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"needs matplotlib: pip install 'tracejit\[bench\]'"):
        plot.need()

"""Writes the README's comparison: figures of the committed result of `tracejit bench`.

    python tools/readme_bench.py [--check]

With --check nothing is written; the exit status is 1 if the README shows other figures than
benchmarks/results/cpu.json holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import marked

from tracejit.benchmarks.columns import NONE, Rows, seconds, times
from tracejit.benchmarks.document import Document, read, samples
from tracejit.benchmarks.peers import CONTROL, EAGER
from tracejit.benchmarks.stats import ratios, spread

ROOT = Path(__file__).resolve().parent.parent
README, RESULT = ROOT / "README.md", ROOT / "benchmarks" / "results" / "cpu.json"
BEGIN = "<!-- figures: written by tools/readme_bench.py -->\n"
END = "<!-- end of figures -->\n"
PEERS = ("torch.compile", "max-autotune", "tracejit")


def block() -> str:
    """What stands between the two marks of the README."""
    document = read(RESULT)
    return "\n".join([*_heading(document), "", *_table(document), "", *_notes(document)]) + "\n"


def _heading(document: Document) -> Iterator[str]:
    machine = document.machine
    versions = " and ".join(f"{name} {document.versions[name]}" for name in ("torch", "triton"))
    yield (
        f"Own seconds, cold / warm, on {machine['processor']} with {machine['cores']} cores, "
        f"{versions}, {document.date[:10]}:"
    )


def _table(document: Document) -> Iterator[str]:
    heads = ("workload", *PEERS, "eager against itself")
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'---:|' * (len(heads) - 1)}"
    for name, rows in document.groups("startup"):
        cells = [_start(rows, peer) for peer in PEERS]
        yield f"| {name} | {' | '.join(cells)} | {_control(document.of('steady', name))} |"


def _start(rows: Rows, peer: str) -> str:
    """Cold and warm own seconds, or why there are none."""
    if peer not in rows or rows[peer].status != "ok":
        return rows[peer].status if peer in rows else NONE
    cold, warm = (spread(samples(rows, peer, name)).median for name in ("cold", "warm"))
    return f"{seconds(cold)} / {seconds(warm)}"


def _control(rows: Rows) -> str:
    """The control's ratio to eager in the steady state, with its quartiles."""
    eager, again = samples(rows, EAGER, "call"), samples(rows, CONTROL, "call")
    if not eager or len(eager) != len(again):
        return NONE
    found = spread(ratios(again, eager))
    return f"{times(found.median)} ({found.low:.2f}…{found.high:.2f})"


def _notes(document: Document) -> Iterator[str]:
    for peer in PEERS:
        if peer in document.peers:
            yield f"- `{peer}`: {document.peers[peer]['note']}."


if __name__ == "__main__":
    raise SystemExit(marked.main(README, BEGIN, END, block()))

"""Writes the README's comparison: figures of the committed results of `tracejit bench`.

    python tools/readme_bench.py [--check]

With --check nothing is written; the exit status is 1 if the README shows other figures than the
files in benchmarks/results hold: cpu.json (start-up of the default workloads), models.json and
micro.json (steady state of the suites).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import marked

from tracejit.benchmarks.columns import NONE, Rows, seconds, times
from tracejit.benchmarks.document import Document, read, samples
from tracejit.benchmarks.peers import CONTROL, EAGER
from tracejit.benchmarks.stats import ratios, spread
from tracejit.benchmarks.summary import summary

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
BEGIN = "<!-- figures: written by tools/readme_bench.py -->\n"
END = "<!-- end of figures -->\n"
PEERS = ("torch.compile", "max-autotune", "jax.jit", "tf.function", "tracejit")
SUITES = ("models", "micro")


def block() -> str:
    """What stands between the two marks of the README."""
    document = read(RESULTS / "cpu.json")
    paths = {name: RESULTS / f"{name}.json" for name in SUITES}
    suites = {name: read(path) for name, path in paths.items() if path.exists()}
    steady = [*_suites_heading(suites), "", *_suites(suites)]
    lines = [*_heading(document), "", *_table(document), "", *steady, "", *_notes(document)]
    return "\n".join(lines) + "\n"


def _machine(document: Document) -> str:
    about = document.machine
    return f"{about['processor']} with {about['cores']} cores, {document.date[:10]}"


def _heading(document: Document) -> Iterator[str]:
    names = [name for name in ("torch", "triton", "jax", "tensorflow") if name in document.versions]
    versions = ", ".join(f"{name} {document.versions[name]}" for name in names)
    yield f"Own seconds, cold / warm, on {_machine(document)}; {versions}:"


def _suites_heading(suites: dict[str, Document]) -> Iterator[str]:
    machines = {name: _machine(document) for name, document in suites.items()}
    where = "; ".join(f"{name} on {machine}" for name, machine in machines.items())
    yield f"Steady state, how many times faster tracejit is (geometric mean), {where}:"


def _suites(suites: dict[str, Document]) -> Iterator[str]:
    others = [EAGER, *(peer for peer in PEERS if peer != "tracejit")]
    heads = (
        "suite",
        "calls",
        *(f"than {peer}" for peer in others),
        "beside the best of all, at worst",
    )
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'---:|' * (len(heads) - 1)}"
    for suite, document in suites.items():
        for group in summary(document, suite):
            cells = [f"{group.versus[p].value:.2f}×" if p in group.versus else NONE for p in others]
            worst = group.worst
            last = f"{worst.ratio.value:.2f}× ({worst.workload})" if worst else NONE
            yield f"| {suite}: {group.name} | {group.count} | {' | '.join(cells)} | {last} |"


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

"""Suites for a person: a line for each workload with the peers beside each other, what it comes to,
and how near to the memory's speed they are."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from tracejit.benchmarks.columns import NONE, joined, seconds, times
from tracejit.benchmarks.document import Document, Row, samples
from tracejit.benchmarks.peers import CONTROL, EAGER
from tracejit.benchmarks.printing import plain_table, print_table
from tracejit.benchmarks.summary import SUBJECT, Ratio, rate, ratio, streaming, summary
from tracejit.runtime.words import plural, size_words

CAPTION = (
    "How many times faster than eager, by the least times; in brackets the same of each third of "
    "the rounds, the least and the most. “eager again” is the control."
)
BESIDE = (
    f"How many times faster {SUBJECT} is than each: the geometric mean by the least times; in "
    "brackets the same of each third of the rounds, the least and the most. Last, the workload in "
    "which it is furthest behind the best of the others, or least ahead of it."
)
ROOF = (
    "Bytes that a call must move (each argument and result once) by its least time, and the part "
    "of the triad into a warm buffer that this is."
)


def print_suites(document: Document, out: Console) -> None:
    """All that is to say of each suite, and of the memory's speed."""
    for suite in document.suites():
        if any(document.of("steady", name) for name in document.suites()[suite]):
            out.print(f"\nSteady state of {suite}", style="bold", soft_wrap=True)
            print_table(cells_table(document, suite), out)
            for line in reasons(document, suite):
                out.print(line, style="yellow", soft_wrap=True)
            out.print(CAPTION, style="dim", soft_wrap=True)
            _print_summary(document, suite, out)
    _print_roofline(document, out)


def _print_summary(document: Document, suite: str, out: Console) -> None:
    groups = summary(document, suite)
    if not groups:
        return
    peers = [name for name in document.peers if name in groups[0].versus]
    table = plain_table()
    table.add_column(suite, no_wrap=True)
    for column in ("count", *peers, "beside the best"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("in", no_wrap=True)
    for group in groups:
        cells = [_bracketed(group.versus[p]) if p in group.versus else NONE for p in peers]
        last = (NONE, "")
        if group.worst is not None:
            last = _bracketed(group.worst.ratio), f"{group.worst.workload} ({group.worst.other})"
        table.add_row(group.name, str(group.count), *cells, *last)
    out.print(f"\n{SUBJECT} in {suite}", style="bold", soft_wrap=True)
    print_table(table, out)
    out.print(BESIDE, style="dim", soft_wrap=True)


def cells_table(document: Document, suite: str) -> Table:
    """Eager's time, and how many times faster each peer is."""
    peers = [name for name in measured(document, suite) if name != EAGER]
    table = plain_table()
    table.add_column(suite, no_wrap=True)
    for column in (EAGER, *peers):
        table.add_column(column, justify="right", no_wrap=True)
    for name in document.suites()[suite]:
        rows = document.of("steady", name)
        eager = samples(rows, EAGER, "call")
        first = seconds(min(eager)) if eager else rows[EAGER].status
        cells = [_faster(rows, peer, eager) for peer in peers]
        table.add_row(name.partition("/")[2], first, *cells)
    return table


def measured(document: Document, suite: str) -> list[str]:
    """Peers that have rows of the suite's steady state, in their order."""
    found = {peer for name in document.suites()[suite] for peer in document.of("steady", name)}
    return [name for name in document.peers if name in found]


def _faster(rows: dict[str, Row], peer: str, eager: list[float]) -> str:
    """The ratio with its spread, or why there is none in a word."""
    mine = samples(rows, peer, "call")
    if mine and eager:
        return _bracketed(ratio([(mine, eager)]))
    return rows[peer].status if peer in rows else NONE


def _bracketed(found: Ratio) -> str:
    return f"{times(found.value)} ({joined(times(found.low), times(found.high))})"


def reasons(document: Document, suite: str) -> Iterator[str]:
    """Each reason for which a peer has no figures, with the first workload that it is about."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name in document.suites()[suite]:
        for row in document.of("steady", name).values():
            if row.status != "ok":
                found.setdefault((row.peer, row.status, row.why), []).append(name)
    for (peer, status, why), names in found.items():
        more = f" and {plural(len(names) - 1, 'more workload')}" if len(names) > 1 else ""
        yield f"{peer} {status}: {why} ({names[0]}{more})"


def _print_roofline(document: Document, out: Console) -> None:
    """Bytes per second of the workloads that memory bounds."""
    large = streaming(document)
    if not large or not document.bandwidth:
        return
    able = {row.peer for row in document.rows if row.workload in large and row.status == "ok"}
    peers = [name for name in document.peers if name in able and name != CONTROL]
    table = plain_table()
    table.add_column("workload", no_wrap=True)
    for column in ("bytes", *peers):
        table.add_column(column, justify="right", no_wrap=True)
    for name in large:
        rates = [rate(document, name, peer) for peer in peers]
        cells = [_of_stream(document, found) if found else NONE for found in rates]
        table.add_row(name, size_words(document.traffic[name]), *cells)
    out.print("\nRoofline", style="bold", soft_wrap=True)
    print_table(table, out)
    speeds = {name: f"{max(found) / 1e9:.1f} GB/s" for name, found in document.bandwidth.items()}
    out.print(
        f"{ROOF} Measured here on {plural(document.threads, 'thread')}: triad {speeds['triad']}, "
        f"copy into fresh memory {speeds['fresh']}.",
        style="dim",
        soft_wrap=True,
    )


def _of_stream(document: Document, found: float) -> str:
    part = 100 * found / max(document.bandwidth["triad"])
    return f"{found / 1e9:.1f} GB/s ({part:.0f} %)"

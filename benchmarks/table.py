"""The result for a person: a table for each measure, what the figures depend on, and what each peer
does."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from tracejit.benchmarks.columns import BASELINE, LAYOUTS, NONE
from tracejit.benchmarks.document import Document, Row
from tracejit.benchmarks.printing import natural_width, plain_table, print_table
from tracejit.benchmarks.suitetable import print_suites
from tracejit.runtime.words import plural, size_words

BUSY = 0.5  # a load per core above which figures are noisy
STYLES = {"wrong": "bold red", "failed": "red", "missing": "dim"}
REMARKED = ("startup", "steady", "overhead", "memory")  # recording is the same for every target


def print_document(document: Document, out: Console) -> None:
    """Everything, in the order of the measures."""
    for line in heading(document):
        out.print(line, soft_wrap=True)
    for measure, layout in LAYOUTS.items():
        if any(listed(document, measure)):
            out.print(f"\n{layout.title}", style="bold", soft_wrap=True)
            _print_measure(document, measure, out)
            out.print(layout.caption, style="dim", soft_wrap=True)
            if layout.of_baseline and BASELINE in document.peers:
                out.print(layout.of_baseline, style="dim", soft_wrap=True)
    print_suites(document, out)
    out.print()
    for name, words in document.peers.items():
        out.print(f"{name}: {words['note']}", soft_wrap=True)


def listed(document: Document, measure: str) -> Iterator[tuple[str, dict[str, Row]]]:
    """The workloads of a measure that have a line for each peer: the steady state of suites has a
    table of its own."""
    for name, rows in document.groups(measure):
        if measure != "steady" or "/" not in name:
            yield name, rows


def heading(document: Document) -> Iterator[str]:
    """Machine, versions, and a warning if the machine was busy."""
    machine, cores = document.machine, document.machine["cores"]
    yield (
        f"{machine.get('gpu') or machine['processor']}, {cores} cores, "
        f"{size_words(machine['memory'])}; {plural(document.threads, 'thread')}; "
        f"device {document.device}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in document.versions.items())
    yield f"{versions}; {document.date}"
    if document.load > BUSY * cores:
        yield f"The machine was busy before this began (load {document.load}): expect noise."


def _print_measure(document: Document, measure: str, out: Console) -> None:
    """Remarks stand beside their figures; below the table where the terminal is too narrow."""
    table = measure_table(document, measure, beside=True)
    if natural_width(table, out) <= out.width:
        print_table(table, out)
        return
    print_table(measure_table(document, measure, beside=False), out)
    for line in below(document, measure):
        out.print(line, style="yellow", soft_wrap=True)


def measure_table(document: Document, measure: str, beside: bool) -> Table:
    """One row for each workload and peer; `beside`: a last column for remarks and failures."""
    layout, table = LAYOUTS[measure], plain_table()
    for column in ("workload", "peer"):
        table.add_column(column, no_wrap=True)
    for column in layout.columns:
        table.add_column(column, justify="right", no_wrap=True)
    if beside:
        table.add_column("", style="dim", no_wrap=True)
    for place, (workload, rows) in enumerate(listed(document, measure)):
        if place:
            table.add_row()
        for peer, row in rows.items():
            cells = [NONE] * len(layout.columns)
            if row.status == "ok":
                cells = layout.cells(rows, peer)
            said = remark(document, row)
            name = f"{peer}*" if said and not beside else peer
            last = [said] if beside else []
            table.add_row(workload, name, *cells, *last, style=STYLES.get(row.status, ""))
    return table


def remark(document: Document, row: Row) -> str:
    """What must stand beside a row's figures, or why there are none."""
    if row.status != "ok":
        return f"{row.status}: {row.why}"
    return document.peers[row.peer]["remark"] if row.measure in REMARKED else ""


def below(document: Document, measure: str) -> Iterator[str]:
    """The remarks as lines: one for a peer, and one for each row without figures."""
    said = set()
    for workload, rows in listed(document, measure):
        for peer, row in rows.items():
            words = remark(document, row)
            name = f"{peer}*" if row.status == "ok" else f"{workload}, {peer}*"
            if words and (name, words) not in said:
                said.add((name, words))
                yield f"{name} {words}"

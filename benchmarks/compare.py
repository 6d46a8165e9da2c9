"""What changed since a stored result, beyond the noise of the control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tracejit.benchmarks.columns import Rows, seconds, times
from tracejit.benchmarks.document import Document, control, samples
from tracejit.benchmarks.printing import plain_table, print_table
from tracejit.benchmarks.stats import ratios, spread
from tracejit.runtime.words import size_words

FLOOR = 0.03  # a smaller change is never called one
ONE_SAMPLE = 0.15  # … nor is this much, of a figure that was measured once
SINGLE = ("startup", "memory")  # measures of one process for each figure
SERIES = {
    "startup": ("cold", "warm"),
    "steady": ("call",),
    "overhead": ("call",),
    "recording": ("call",),
    "memory": ("cold start", "warm start", "cold steady", "warm steady"),
}


@dataclass(frozen=True)
class Change:
    """A figure then and now (medians), the noise as a part of it, and what that means."""

    workload: str
    measure: str
    series: str
    peer: str
    old: float
    new: float
    noise: float
    verdict: str  # "same", "better", "worse", "other machine"

    @property
    def ratio(self) -> float:
        return self.new / self.old if self.old else float("inf")


def differs(old: Document, new: Document) -> list[str]:
    """What makes figures of the two incomparable, in words: machine, device, threads."""
    then, now = old.machine, new.machine
    pairs = [
        (key, then.get(key), now.get(key)) for key in ("processor", "cores", "features", "gpu")
    ]
    pairs += [("device", old.device, new.device), ("threads", old.threads, new.threads)]
    return [f"{name}: {_plain(a)} then, {_plain(b)} now" for name, a, b in pairs if a != b]


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value or "none")


def changes(old: Document, new: Document) -> Iterator[Change]:
    """Every figure that both have."""
    foreign = bool(differs(old, new))
    same_torch = old.versions.get("torch") == new.versions.get("torch")
    for row in new.rows:
        before = old.of(row.measure, row.workload)
        now = new.of(row.measure, row.workload)
        for series in SERIES[row.measure]:
            a, b = samples(before, row.peer, series), samples(now, row.peer, series)
            if not a or not b:
                continue
            then, today = spread(a).median, spread(b).median
            noise = noise_of(row.measure, series, (before, now), then, same_torch)
            verdict = "other machine" if foreign else judged(then, today, noise)
            yield Change(row.workload, row.measure, series, row.peer, then, today, noise, verdict)


def noise_of(
    measure: str, series: str, runs: tuple[Rows, Rows], figure: float, same_torch: bool
) -> float:
    """The part of a figure within which nothing is a change: what eager differs from itself by, in
    either run and, if it is of the same torch, between the two."""
    pairs = [control(rows, _eager(series)) for rows in runs]
    if measure in SINGLE:
        known = [spread(found).median for pair in pairs for found in pair if found]
        apart = max(known) - min(known) if known else 0.0
        return max(ONE_SAMPLE, apart / figure if figure else 0.0)
    noise = [FLOOR]
    for eager, again in pairs:
        if eager and again:
            ratio = spread(ratios(again, eager))
            noise += [abs(value - 1) for value in (ratio.low, ratio.median, ratio.high)]
    (then, _), (today, _) = pairs
    if then and today and same_torch:
        noise.append(abs(spread(today).median / spread(then).median - 1))
    return max(noise)


def _eager(series: str) -> str:
    """Eager has no warm start: its figure is that of its only one."""
    return series.replace("warm", "cold")


def turned(old: Document, new: Document) -> list[str]:
    """Rows that have figures in one of the two only, in words."""
    found = []
    for row in new.rows:
        before = old.of(row.measure, row.workload).get(row.peer)
        if before is not None and before.status != row.status:
            why = f": {row.why}" if row.why else ""
            name = f"{row.workload}, {row.measure}, {row.peer}"
            found.append(f"{name}: {before.status} then, {row.status} now{why}")
    return found


def judged(old: float, new: float, noise: float) -> str:
    """Less is better, in all measures."""
    if abs(new - old) <= noise * abs(old):
        return "same"
    return "better" if new < old else "worse"


def print_changes(old: Document, new: Document, out: Console) -> None:
    """Those beyond the noise, and how many are within it; all of them if the machines differ."""
    foreign, found = differs(old, new), list(changes(old, new))
    if foreign:
        out.print(
            "These are results of different machines, so that no difference can be put down to the "
            f"programs: {'; '.join(foreign)}.",
            style="yellow",
            soft_wrap=True,
        )
    for name in sorted({*old.versions, *new.versions}):
        then, now = old.versions.get(name, "none"), new.versions.get(name, "none")
        if then != now:
            out.print(f"{name}: {then} then, {now} now", soft_wrap=True)
    for line in turned(old, new):
        out.print(line, style="yellow", soft_wrap=True)
    shown = [c for c in found if c.verdict != "same"]
    if shown:
        print_table(_table(shown), out)
    same = len(found) - len(shown)
    changed = f"{len(shown)} of {len(found)} figures changed beyond the noise, {same} did not."
    out.print(f"{len(found)} figures, none judged." if foreign else changed)


def _table(found: list[Change]) -> Table:
    table = plain_table()
    for column in ("workload", "measure", "peer"):
        table.add_column(column, no_wrap=True)
    for column in ("old", "new", "new ÷ old", "noise"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for c in found:
        words = size_words if c.measure == "memory" else seconds
        what = c.measure if c.series == "call" else f"{c.measure}, {c.series}"
        noise = f"±{100 * c.noise:.0f} %"
        row = (c.workload, what, c.peer, words(c.old), words(c.new), times(c.ratio), noise)
        style = {"better": "green", "worse": "red"}.get(c.verdict, "")
        table.add_row(*row, c.verdict, style=style)
    return table


def to_json(old: Document, new: Document) -> dict[str, object]:
    """For the JSON document: what differs about the machines, rows that have figures in one of the
    two only, and every change."""
    return {
        "date": old.date,
        "machines_differ": differs(old, new),
        "turned": turned(old, new),
        "changes": [vars(c) | {"ratio": c.ratio} for c in changes(old, new)],
    }

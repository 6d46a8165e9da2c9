"""What the many figures of a suite come to: how many times faster tracejit is than each peer, over
groups of workloads, and where it is furthest behind the best of the others.

Ratios are of least times. Their spread is the least and the most of the same ratio, each third of
the rounds by itself: of one workload it always encloses the ratio.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tracejit.benchmarks.document import Document, samples
from tracejit.benchmarks.peers import CONTROL
from tracejit.benchmarks.stats import geomean, speedup

SUBJECT = "tracejit"
LARGE = 32 << 20  # bytes that no cache is expected to hold
THIRDS = tuple(slice(first, None, 3) for first in range(3))
Samples = dict[str, list[float]]  # of one workload, by peer


@dataclass(frozen=True)
class Ratio:
    """How many times faster, from the least to the most, over so many workloads."""

    value: float
    low: float
    high: float
    count: int = 1


@dataclass(frozen=True)
class Worst:
    """The workload in which the subject is furthest behind (or least ahead of) another."""

    workload: str
    other: str
    ratio: Ratio


@dataclass(frozen=True)
class Group:
    """Workloads of a suite that share a part of their names; "all" of them."""

    name: str
    count: int
    versus: dict[str, Ratio]  # by peer
    worst: Worst | None


def summary(document: Document, suite: str) -> list[Group]:
    """All groups of a suite; empty if the subject was not measured."""
    cells = dict(_cells(document, suite))
    if not any(SUBJECT in found for found in cells.values()):
        return []
    groups = _groups(cells).items()
    return [_group(group, {n: cells[n] for n in names}) for group, names in groups]


def to_json(document: Document) -> dict[str, Any]:
    """The groups of every suite."""
    return {suite: [asdict(g) for g in summary(document, suite)] for suite in document.suites()}


def ratio(pairs: Sequence[tuple[list[float], list[float]]]) -> Ratio:
    """Of pairs of samples (the subject's, another's), one a workload."""
    thirds = [_mean(pairs, part) for part in THIRDS]
    return Ratio(_mean(pairs, slice(None)), min(thirds), max(thirds), len(pairs))


def _mean(pairs: Sequence[tuple[list[float], list[float]]], part: slice) -> float:
    """The geometric mean of the ratios of least times, of a part of the rounds."""
    return geomean([speedup(mine[part], theirs[part]) for mine, theirs in pairs])


def _cells(document: Document, suite: str) -> Iterator[tuple[str, Samples]]:
    """Samples of the steady state of each workload."""
    for name in document.suites()[suite]:
        rows = document.of("steady", name)
        found = {peer: samples(rows, peer, "call") for peer in rows}
        yield name, {peer: calls for peer, calls in found.items() if calls}


def _groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by group: "all", then each part that they have, the first parts first."""
    found: dict[tuple[int, str], list[str]] = {(0, "all"): list(names)}
    for name in names:
        for place, part in enumerate(name.split("/")[1:], 1):
            found.setdefault((place, part), []).append(name)
    return {part: found[place, part] for place, part in sorted(found, key=lambda key: key[0])}


def _group(name: str, cells: dict[str, Samples]) -> Group:
    taken = {n: found for n, found in cells.items() if SUBJECT in found}
    others = dict.fromkeys(peer for found in taken.values() for peer in found)
    pairs = {
        peer: [(found[SUBJECT], found[peer]) for found in taken.values() if peer in found]
        for peer in others
        if peer not in (SUBJECT, CONTROL)
    }
    return Group(name, len(taken), {p: ratio(found) for p, found in pairs.items()}, _worst(taken))


def _worst(cells: dict[str, Samples]) -> Worst | None:
    """Beside the best of the others, each workload by itself."""
    found = []
    for name, calls in cells.items():
        others = [peer for peer in calls if peer not in (SUBJECT, CONTROL)]
        if others:
            best = min(others, key=lambda peer: min(calls[peer]))
            found.append(Worst(name, best, ratio([(calls[SUBJECT], calls[best])])))
    return min(found, key=lambda worst: worst.ratio.value, default=None)


def streaming(document: Document) -> list[str]:
    """Workloads that move more than caches hold."""
    return [name for name, moved in document.traffic.items() if moved >= LARGE]


def rate(document: Document, workload: str, peer: str) -> float:
    """Bytes per second of the least time; 0 if there is none."""
    calls = samples(document.of("steady", workload), peer, "call")
    return document.traffic[workload] / min(calls) if calls else 0.0

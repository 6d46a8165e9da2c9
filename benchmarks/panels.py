"""What the picture consists of: each function draws one panel into a pair of axes, a line for each
of these workloads."""

from __future__ import annotations

import fnmatch
from typing import Any

from tracejit.benchmarks.document import Document, samples
from tracejit.benchmarks.peers import CONTROL, EAGER
from tracejit.benchmarks.stats import geomean, ratios, speedup, spread
from tracejit.benchmarks.summary import rate

SIZED = "micro"  # the suite whose names have a size
ROOFS = {"triad": "triad, warm buffer", "fresh": "copy into fresh memory"}
COLOURS = {
    EAGER: "#555555",
    "torch.compile": "#d0873c",
    "max-autotune": "#8c564b",
    "tracejit": "#2f6db3",
    "jax.jit": "#8a6bb8",
    "tf.function": "#5a9a5a",
}
OTHERS = ("#5a9a5a", "#8a6bb8", "#777777")


def peers(document: Document) -> list[str]:
    return [name for name in document.peers if name not in (EAGER, CONTROL)]


def _colour(document: Document, peer: str) -> str:
    return COLOURS.get(peer) or OTHERS[list(document.peers).index(peer) % len(OTHERS)]


def _label(document: Document, peer: str) -> str:
    remark = document.peers[peer]["remark"]
    return f"{peer} ({remark})" if remark else peer


def _shift(document: Document, place: int) -> float:
    """How far from the middle of its line a peer's marks are."""
    count = len(peers(document))
    return 0.7 / count * (place - (count - 1) / 2)


def startup(document: Document, lines: list[str], axis: Any) -> None:
    """Two dots a peer, joined: the full one is the cold start, the hollow one the warm one."""
    for place, peer in enumerate(peers(document)):
        colour, shift = _colour(document, peer), _shift(document, place)
        label = _label(document, peer)
        for row, workload in enumerate(lines):
            rows = document.of("startup", workload)
            cold, warm = samples(rows, peer, "cold"), samples(rows, peer, "warm")
            if not cold:
                continue
            ends = sorted(max(value[0], 1e-3) for value in (cold, warm) if value)
            axis.plot(ends, [row + shift] * len(ends), color=colour, lw=1, alpha=0.5)
            axis.plot(max(cold[0], 1e-3), row + shift, "o", color=colour, ms=4, label=label)
            if warm:
                axis.plot(max(warm[0], 1e-3), row + shift, "o", color=colour, mfc="white", ms=4)
            label = "_" + peer  # once in the legend
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(axis="x", color="#eeeeee")
    axis.set_title("start-up, own seconds: ● cold, ○ warm")
    axis.set_xlabel("seconds (log)")


def steady(document: Document, lines: list[str], axis: Any) -> None:
    """The ratio to eager with its quartiles; a grey band where eager differs from itself."""
    for place, peer in enumerate(peers(document)):
        colour, shift = _colour(document, peer), _shift(document, place)
        label = _label(document, peer)
        for row, workload in enumerate(lines):
            rows = document.of("steady", workload)
            mine, eager = samples(rows, peer, "call"), samples(rows, EAGER, "call")
            if not mine or not eager:
                continue
            ratio = spread(ratios(mine, eager))
            spans = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
            face = "white" if document.peers[peer]["remark"] else colour
            axis.errorbar(
                ratio.median, row + shift, xerr=spans, fmt="s", color=colour, mfc=face, ms=4, lw=1,
                label=label,
            )  # fmt: skip
            label = "_" + peer
    _bands(document, lines, axis)
    axis.axvline(1, color="#555555", lw=0.8)
    axis.set_xlim(left=0)
    axis.set_title("steady state, time ÷ eager's (less is faster)")
    axis.set_xlabel("quartiles over rounds")


def _bands(document: Document, lines: list[str], axis: Any) -> None:
    """Behind each workload: the quartiles of eager against itself."""
    label = "eager against itself"
    for row, workload in enumerate(lines):
        rows = document.of("steady", workload)
        again, eager = samples(rows, CONTROL, "call"), samples(rows, EAGER, "call")
        if again and eager:
            ratio = spread(ratios(again, eager))
            axis.barh(row, ratio.width, 0.8, ratio.low, color="#d5d5d5", zorder=0, label=label)
            label = "_control"


def by_size(document: Document, lines: list[str], axis: Any) -> None:
    """Geometric means over the kernels of the sized suite: fp32 full, bf16 dashed."""
    names = [name.split("/") for name in document.suites()[SIZED]]
    sizes = list(dict.fromkeys(name[2] for name in names))
    for peer in peers(document):
        label = _label(document, peer)
        for dtype, style in (("fp32", "-"), ("bf16", "--")):
            found = [_mean(document, peer, f"{SIZED}/*/{size}/{dtype}") for size in sizes]
            if any(value is not None for value in found):
                values = [float("nan") if value is None else value for value in found]
                axis.plot(
                    sizes, values, style, marker="o", ms=3, lw=1, color=_colour(document, peer),
                    label=label,
                )  # fmt: skip
                label = "_" + peer
    axis.axhline(1, color="#555555", lw=0.8)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}×")
    axis.grid(axis="y", color="#eeeeee")
    axis.set_title(f"{SIZED}, times faster than eager (— fp32, -- bf16)")
    axis.set_xlabel("elements")


def _mean(document: Document, peer: str, pattern: str) -> float | None:
    """How many times faster than eager, over the workloads of a pattern; None if there are none."""
    found = []
    for name in fnmatch.filter(document.workloads, pattern):
        rows = document.of("steady", name)
        mine, eager = samples(rows, peer, "call"), samples(rows, EAGER, "call")
        if mine and eager:
            found.append(speedup(mine, eager))
    return geomean(found) if found else None


def roofline(document: Document, lines: list[str], axis: Any) -> None:
    """Bytes per second of each peer, beside what this machine's memory moves."""
    for peer in (EAGER, *peers(document)):
        label = _label(document, peer)
        for row, workload in enumerate(lines):
            found = rate(document, workload, peer)
            if found:
                colour = _colour(document, peer)
                axis.plot(found / 1e9, row, "|", color=colour, ms=9, mew=2, label=label)
                label = "_" + peer
    for name, style in (("triad", "-"), ("fresh", ":")):
        speed = max(document.bandwidth[name]) / 1e9
        axis.axvline(speed, color="#555555", lw=0.8, ls=style, label=ROOFS[name])
    axis.set_xlim(left=0)
    axis.grid(axis="x", color="#eeeeee")
    axis.set_title("bytes moved in a second, of what memory bounds")
    axis.set_xlabel("GB/s")

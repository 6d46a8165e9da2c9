"""The result as a picture: start-up seconds, and steady state beside eager with the control as a
band."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tracejit.benchmarks.document import Document, samples
from tracejit.benchmarks.peers import CONTROL, EAGER
from tracejit.benchmarks.stats import ratios, spread
from tracejit.runtime.errors import MissingExtra
from tracejit.runtime.words import plural

ENDINGS = (".png", ".svg")
COLOURS = {"torch.compile": "#d0873c", "max-autotune": "#8c564b", "tracejit": "#2f6db3"}
OTHERS = ("#5a9a5a", "#8a6bb8", "#777777")
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "tracejit",  # the same document gives the same file
    "svg.fonttype": "none",
}


def need() -> None:
    """Raises MissingExtra if there is no matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra(what="--plot", packages="matplotlib", extra="bench")


def draw(document: Document, path: Path) -> None:
    """Write the picture: PNG or SVG by the file's ending."""
    need()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [p for p in (_startup, _steady) if any(document.groups(p.__name__[1:]))]
    names = list(document.workloads)
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            1,
            max(1, len(panels)),
            figsize=(4.4 * max(1, len(panels)), 1.5 + 0.36 * len(names)),
            squeeze=False,
            layout="constrained",
        )
        for axis, panel in zip(axes[0], panels):
            panel(document, axis)
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.4, -0.6)
        handles, labels = axes[0][-1].get_legend_handles_labels()  # the last says most
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(_title(document), fontsize=7, color="#555555")
        date = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=160, metadata=date)
        pyplot.close(figure)


def _title(document: Document) -> str:
    machine = document.machine
    return (
        f"{machine.get('gpu') or machine['processor']}, {machine['cores']} cores, "
        f"{plural(document.threads, 'thread')}, torch {document.versions.get('torch', '?')}, "
        f"{document.date[:10]}"
    )


def _peers(document: Document) -> list[str]:
    return [name for name in document.peers if name not in (EAGER, CONTROL)]


def _colour(document: Document, peer: str) -> str:
    return COLOURS.get(peer) or OTHERS[list(document.peers).index(peer) % len(OTHERS)]


def _label(document: Document, peer: str) -> str:
    remark = document.peers[peer]["remark"]
    return f"{peer} ({remark})" if remark else peer


def _startup(document: Document, axis: Any) -> None:
    """Two dots a peer, joined: the full one is the cold start, the hollow one the warm one."""
    for place, peer in enumerate(_peers(document)):
        colour, shift = _colour(document, peer), 0.22 * (place - (len(_peers(document)) - 1) / 2)
        label = peer
        for row, workload in enumerate(document.workloads):
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


def _steady(document: Document, axis: Any) -> None:
    """The ratio to eager with its quartiles; a grey band where eager differs from itself."""
    for place, peer in enumerate(_peers(document)):
        colour, shift = _colour(document, peer), 0.22 * (place - (len(_peers(document)) - 1) / 2)
        label = _label(document, peer)
        for row, workload in enumerate(document.workloads):
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
    _bands(document, axis)
    axis.axvline(1, color="#555555", lw=0.8)
    axis.set_xlim(left=0)
    axis.set_title("steady state, time ÷ eager's (less is faster)")
    axis.set_xlabel("quartiles over rounds")


def _bands(document: Document, axis: Any) -> None:
    """Behind each workload: the quartiles of eager against itself."""
    label = "eager against itself"
    for row, workload in enumerate(document.workloads):
        rows = document.of("steady", workload)
        again, eager = samples(rows, CONTROL, "call"), samples(rows, EAGER, "call")
        if again and eager:
            ratio = spread(ratios(again, eager))
            axis.barh(row, ratio.width, 0.8, ratio.low, color="#d5d5d5", zorder=0, label=label)
            label = "_control"

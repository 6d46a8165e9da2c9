"""The result as a picture: start-up seconds, steady state beside eager with the control as a band,
the micro suite by size, and bytes per second beside what this machine's memory moves."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracejit.benchmarks import panels
from tracejit.benchmarks.document import Document
from tracejit.benchmarks.summary import streaming
from tracejit.runtime.errors import MissingExtra
from tracejit.runtime.words import plural

ENDINGS = (".png", ".svg")
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


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what draws it, and the workloads that are its lines (none: it has no
    lines)."""

    draw: Callable[[Document, list[str], Any], None]
    lines: list[str]


def draw(document: Document, path: Path) -> None:
    """Write the picture: PNG or SVG by the file's ending."""
    need()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = list(panels_of(document)) or [Panel(panels.steady, [])]
    rows = [drawn[place : place + 2] for place in range(0, len(drawn), 2)]
    heights = [max(2.2, *(0.28 * len(panel.lines) for panel in row)) for row in rows]
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            len(rows),
            min(2, len(drawn)),
            figsize=(4.8 * min(2, len(drawn)), sum(heights) + 0.9 * len(rows) + 0.7),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        for axis in axes.flat[len(drawn) :]:
            axis.set_visible(False)
        for axis, panel in zip(axes.flat, drawn):
            panel.draw(document, panel.lines, axis)
            if panel.lines:
                axis.set_yticks(range(len(panel.lines)), panel.lines)
                axis.set_ylim(len(panel.lines) - 0.4, -0.6)
        figure.legend(*_legend(axes.flat), loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(_title(document), fontsize=7, color="#555555")
        date = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=160, metadata=date)
        pyplot.close(figure)


def panels_of(document: Document) -> Iterator[Panel]:
    """What the document has figures for."""
    single = [name for name in document.workloads if not name.startswith(f"{panels.SIZED}/")]
    for measure, panel in (("startup", panels.startup), ("steady", panels.steady)):
        lines = [name for name in single if document.of(measure, name)]
        if lines:
            yield Panel(panel, lines)
    if any(document.of("steady", name) for name in document.suites().get(panels.SIZED, ())):
        yield Panel(panels.by_size, [])
    large = streaming(document)
    if large and document.bandwidth:
        yield Panel(panels.roofline, large)


def _legend(axes: Any) -> tuple[list[Any], list[str]]:
    """Each label once; the last that has it says most."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            found[label] = handle
    return list(found.values()), list(found)


def _title(document: Document) -> str:
    machine = document.machine
    return (
        f"{machine.get('gpu') or machine['processor']}, {machine['cores']} cores, "
        f"{plural(document.threads, 'thread')}, torch {document.versions.get('torch', '?')}, "
        f"{document.date[:10]}"
    )

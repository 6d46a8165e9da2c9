"""The outcomes as a table on the terminal and as a page of the documents."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.foreign.run import Outcome

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "foreign.md"

INTRODUCTION = """\
# Models that no one here wrote

Models and functions of public packages, with random weights, compiled with the default options and
compared with eager: values, dtypes and strides of a first call, of compiled ones, and of others
with other values; and all of it again in a second process, which finds the plans on disk. `make
foreign` installs the packages, runs all of this and prints it with times; `python -m tools.foreign
--write` writes this page.

*Kernels* are the different ones of one call, *launches* how often they run, *library* the calls of
ATen's and oneDNN's routines: which products and convolutions those are is measured on each machine.
*Eager* counts functions that run as they are written, for the reason shown; the calls in them are
compiled on their own.
"""

COUNTS = ("kernels", "launches", "library", "frames", "entries")


def why(outcome: Outcome) -> str:
    """The reasons, without places."""
    return "; ".join(dict.fromkeys(re.sub(r" \(\S*:\d+.*\)$", "", r) for r in outcome.reasons))


def page(runs: list[dict[str, Outcome]]) -> None:
    """Write docs/foreign.md."""
    cold = runs[0]
    same = sum(not any(run[name].differences for run in runs) for name in cold)
    whole = sum(not o.reasons for o in cold.values())
    lines = [
        INTRODUCTION,
        f"{len(cold)} cases: {same} give eager's results, {whole} run no frame eagerly.",
        "",
        "| case | kernels | launches | library | eager | why not all of it |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, outcome in cold.items():
        counts = (outcome.kernels, outcome.launches, outcome.library, outcome.frames)
        cells = [name, *map(str, counts), why(outcome)]
        lines.append("| " + " | ".join(re.sub(r"([|<*_])", r"\\\1", c) for c in cells) + " |")
    DOCUMENT.write_text("\n".join(lines) + "\n")


def table(runs: list[dict[str, Outcome]]) -> None:
    """Counts and times, then the reasons."""
    from rich.console import Console
    from rich.table import Table

    times = ("eager ms", "first", "compiled", "warm first", "compile s")
    made = Table("case", *COUNTS, *times)
    for column in made.columns[1:]:
        column.justify = "right"
    for name, outcome in runs[0].items():
        counts = [str(getattr(outcome, count)) for count in COUNTS]
        made.add_row(name, *counts, *_times(outcome, runs[1][name]))
    console = Console()
    console.print(made)
    for name, outcome in runs[0].items():
        for reason in outcome.reasons:
            console.print(f"{name}: {reason}", highlight=False, markup=False)


def _times(cold: Outcome, warm: Outcome) -> list[str]:
    """Milliseconds of one eager call, the first, a compiled one, and the first in a warm process;
    seconds to compile."""
    seconds = [cold.seconds.get(name) for name in ("eager", "first", "compiled")]
    seconds.append(warm.seconds.get("first"))
    compiling = cold.seconds.get("to compile")
    found = ["" if s is None else f"{s * 1e3:.1f}" for s in seconds]
    return [*found, "" if compiling is None else f"{compiling:.1f}"]

"""Runs the cases of "never wrong, never stale" and says what became of each.

    python tools/semantics.py [--only NAME] [--json | --write]

Prints a table of how many are compiled, compiled in part and eager, by section; --json prints all
that was found, --write writes docs/semantics.md. The exit status is 1 if a case differs from eager
in a way that is not known.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.semantics.case_runs import OUTCOMES, Results, outcome, reasons, twice  # noqa: E402

DOCUMENT = ROOT / "docs" / "semantics.md"
MOST_REASONS = 2  # shown for one case

INTRODUCTION = """\
# Never wrong, never stale

Ways in which a tracing compiler has returned the wrong answer before, each a small program that
runs eagerly and compiled. Compared are values, dtypes, devices, strides, aliasing, `requires_grad`,
side effects, what is printed, and the random numbers drawn afterwards: on the first call, on
compiled ones, after a change, and in a second process that finds the plans of the first on disk.

A case is *compiled* if every call that is not recorded runs a plan; *compiled in part* if some
calls run plans and others are eager, for the reason shown; *eager* if all are. The programs are in
`tests/semantics`; `make semantics` runs them and prints these counts, `python tools/semantics.py
--write` writes this page, and a test holds it against a run.
"""


def sections(results: Results) -> dict[str, dict[str, Any]]:
    """The results by section and name."""
    found: dict[str, dict[str, Any]] = {}
    for key, result in results.items():
        section, name = key.split(": ", 1)
        found.setdefault(section, {})[name] = result
    return found


def counts(results: Results) -> Iterator[tuple[str, list[int]]]:
    """For each section and for all: how many cases have each of OUTCOMES, and how many there
    are."""
    for section, cases in (*sections(results).items(), ("total", results)):
        found = [outcome(result) for result in cases.values()]
        yield section, [*(found.count(each) for each in OUTCOMES), len(found)]


def why(result: Any) -> str:
    """The reasons of a case in a cell of a table: no places, no addresses."""
    texts = dict.fromkeys(
        re.sub(r" at \S+:\d+ in \S+|0x[0-9a-f]+", "", f"{r['kind']}: {r['text']}")
        for r in reasons(result)
    )
    shown = [*texts][:MOST_REASONS]
    more = len(texts) - len(shown)
    cell = "; ".join(shown) + (f"; and {more} more" if more else "")
    return cell.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*").replace("_", "\\_")


def page(results: Results) -> str:
    """docs/semantics.md."""
    lines = [INTRODUCTION, f"| section | {' | '.join(OUTCOMES)} | cases |"]
    lines.append("|---|" + "---:|" * (len(OUTCOMES) + 1))
    lines += [f"| {name} | {' | '.join(map(str, row))} |" for name, row in counts(results)]
    for section, cases in sections(results).items():
        lines += [
            "",
            f"## {section}",
            "",
            "| case | outcome | why not all of it |",
            "|---|---|---|",
        ]
        for name, result in cases.items():
            lines.append(f"| {name} | {outcome(result)} | {why(result)} |")
    return "\n".join(lines) + "\n"


def show(results: Results) -> None:
    """The counts as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("section", *OUTCOMES, "cases")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in counts(results):
        if name == "total":
            table.add_section()
        table.add_row(name, *map(str, row))
    console = Console()
    console.print(table)
    for key, result in results.items():
        if reasons(result):
            console.print(f"{key}: {outcome(result)}", highlight=False, markup=False)
            for each in reasons(result):
                place = f" ({each['place']})" if each["place"] else ""
                console.print(
                    f"    {each['kind']}: {each['text']}{place}", style="dim", markup=False
                )


def differing(runs: dict[str, Results]) -> list[str]:
    """What differs from eager, in either process."""
    return [
        f"{key}, {process}, {phase}: {text}"
        for process, results in runs.items()
        for key, result in results.items()
        for phase, text in result["differences"].items()
        if text and not result["wrong"]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose section and name contain this")
    parser.add_argument("--json", action="store_true", help="print all that was found")
    parser.add_argument("--write", action="store_true", help="write docs/semantics.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracejit-semantics-") as cache:
        runs = twice(Path(cache), "--only", options.only)
    if options.json:
        print(json.dumps(runs, indent=1))
    elif options.write:
        DOCUMENT.write_text(page(runs["cold"]))
    else:
        show(runs["cold"])
    differences = differing(runs)
    for line in differences:
        print(f"differs: {line}", file=sys.stderr)
    return int(bool(differences))


if __name__ == "__main__":
    raise SystemExit(main())

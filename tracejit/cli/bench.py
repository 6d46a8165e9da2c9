"""`tracejit bench`: workloads measured beside eager and torch.compile."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tracejit.benchmarks import plot as plots
from tracejit.benchmarks.compare import print_changes
from tracejit.benchmarks.compare import to_json as compared
from tracejit.benchmarks.document import MEASURES, Document, read
from tracejit.benchmarks.peers import CONTROL, EAGER, PEERS
from tracejit.benchmarks.registry import chosen, registered
from tracejit.cli.terminal import SCHEMA, console, json_option, print_json

QUICK: dict[str, Any] = {"rounds": 5, "seconds": 0.01, "starts": 1}

EPILOG = """\b
Examples:
  tracejit bench                              the default workloads, all peers, all measures
  tracejit bench gpt llama --measure startup  how long two models take to start
  tracejit bench gpt --peer tracejit --quick  a first impression, in seconds
  tracejit bench --out now.json --plot now.svg
  tracejit bench --compare old.json           what changed since then
  tracejit bench --from now.json --compare old.json   …of two stored results

\b
JSON: one object, of these fields:
  schema     the number of this format, 1
  date, device, threads, load, machine, versions, variables, settings
             what the figures depend on (load: of the machine before the run)
  peers      name → {note, remark}: what it does on this device
  workloads  name → what it is
  rows       [{workload, measure, peer, status, why, unit, series}]: status is ok, failed, wrong or
             missing (then `why` says it); series are lists of raw samples, one a round or process
  compared   with --compare: {date, machines_differ, turned, changes}
With --list: {workloads: [{name, about, default}]}

\b
Exit status: 1 if a peer computed something else than eager, 2 for a mistake in the command.
"""


def names_of_workloads(context: Any, parameter: Any, begun: str) -> list[str]:
    return [name for name in registered() if name.startswith(begun)]


def list_workloads(as_json: bool) -> None:
    """Print the registry."""
    if as_json:
        rows = [
            {"name": row.name, "about": row.about, "default": row.default}
            for row in registered().values()
        ]
        print_json({"workloads": rows})
        return
    wide = max(map(len, registered()))
    for row in registered().values():
        rest = "" if row.default else " (only if named)"
        click.echo(f"{row.name:{wide}}  {row.about}{rest}")


def check_file(context: Any, parameter: Any, path: Path | None) -> Path | None:
    """A file that can be written when all is measured, as far as can be told before."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.parent}")
    return path


def check_picture(context: Any, parameter: Any, path: Path | None) -> Path | None:
    """The same, and its ending says which kind of picture."""
    if path is not None and path.suffix not in plots.ENDINGS:
        raise click.BadParameter(f"{path.name} must end in {' or '.join(plots.ENDINGS)}")
    return check_file(context, parameter, path)


FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
STORED = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog=EPILOG)
@click.argument("workloads", nargs=-1, metavar="[WORKLOAD]…", shell_complete=names_of_workloads)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=click.Choice([name for name in PEERS if name != CONTROL]),
    help="Measure this one (again for more; default: all). Eager is always measured, twice.",
)
@click.option(
    "--measure",
    "measures",
    multiple=True,
    type=click.Choice(list(MEASURES)),
    help="Measure this (again for more; default: all).",
)
@click.option(
    "--rounds",
    type=click.IntRange(2, 10_000),
    help="Rounds of steady, overhead and recording (default: 30; with --quick 5).",
)
@click.option("--quick", is_flag=True, help="Few and short rounds, single starts.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda if there is one.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Of torch (default: its own choice).")
@json_option
@click.option("--out", type=FILE, callback=check_file, help="Write the JSON to this file too.")
@click.option("--plot", type=FILE, callback=check_picture, help="Draw it: a .png or .svg file.")
@click.option("--compare", type=STORED, help="Show what changed since this stored result.")
@click.option("--from", "stored", type=STORED, help="Show a stored result; measure nothing.")
@click.option("--list", "listing", is_flag=True, help="List the workloads; measure nothing.")
@click.pass_context
def bench(
    context: click.Context,
    /,
    as_json: bool,
    out: Path | None,
    plot: Path | None,
    compare: Path | None,
    stored: Path | None,
    listing: bool,
    **asked: Any,
) -> None:
    """Measure workloads beside eager and torch.compile.

    Every start is a process of its own, with an empty or a filled cache of its own (up to three of
    each, if they are quick); steady state and overhead are taken in interleaved rounds in one
    process. Eager is measured twice: what it differs from itself by is the noise of all other
    figures. No peer is measured whose results are not eager's.
    """
    if listing:
        list_workloads(as_json)
        return
    if plot is not None:
        plots.need()
    old = read(compare) if compare is not None else None
    if stored is not None:
        document = read(stored)
    else:
        document = measured(**asked)
    show(document, old, as_json)
    write(document, old, out, plot)
    context.exit(1 if document.wrong else 0)


def measured(
    workloads: Sequence[str],
    peers: Sequence[str],
    measures: Sequence[str],
    rounds: int | None,
    quick: bool,
    device: str | None,
    threads: int | None,
) -> Document:
    """Run the harness. Its temporary folder is gone afterwards, also when it is interrupted."""
    from tracejit.benchmarks.harness import Harness
    from tracejit.benchmarks.progress import Progress
    from tracejit.benchmarks.steps import Settings

    settings = Settings(
        workloads=tuple(chosen(workloads)),
        peers=tuple(n for n in PEERS if not peers or n in (*peers, EAGER, CONTROL)),
        measures=tuple(n for n in MEASURES if not measures or n in measures),
        device=device or "",
        threads=threads or 0,
        **(QUICK if quick else {}),
    )
    settings = replace(settings, rounds=rounds or settings.rounds)
    prefix = "tracejit-bench-"
    with (
        stopped_by(signal.SIGTERM, signal.SIGHUP),
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder,
    ):
        return Harness(settings, Path(folder), Progress()).run()


@contextlib.contextmanager
def stopped_by(*signals: signal.Signals) -> Iterator[None]:
    """A polite request to end is as good as Ctrl-C: children are stopped, folders removed."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(document: Document, old: Document | None, as_json: bool) -> None:
    """On standard output: the JSON, or the tables and what changed."""
    from tracejit.benchmarks.table import print_document

    if as_json:
        print_json(to_json(document, old))
        return
    out = console()
    print_document(document, out)
    if old is not None:
        out.print(f"\nSince {old.date}", style="bold")
        print_changes(old, document, out)


def to_json(document: Document, old: Document | None) -> dict[str, Any]:
    """The document, and the comparison if there is one."""
    found = document.to_json()
    return found if old is None else found | {"compared": compared(old, document)}


def write(document: Document, old: Document | None, out: Path | None, plot: Path | None) -> None:
    """The files that were asked for."""
    if out is not None:
        text = json.dumps({"schema": SCHEMA, **document.to_json()}, indent=1)
        out.write_text(text + "\n")
    if plot is not None:
        plots.draw(document, plot)

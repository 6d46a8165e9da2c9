"""`tracejit bench`: workloads measured beside eager and other compilers."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from tracejit.benchmarks import plot as plots
from tracejit.benchmarks.compare import print_changes
from tracejit.benchmarks.compare import to_json as compared
from tracejit.benchmarks.document import MEASURES, Document, read
from tracejit.benchmarks.peers import CONTROL, PEERS
from tracejit.benchmarks.registry import Workload, chosen, registered
from tracejit.benchmarks.summary import to_json as summed
from tracejit.cli.terminal import console, json_option, print_json
from tracejit.runtime.version import FORMATS

STARTS = 3  # of each kind at most

EPILOG = """\b
Examples:
  tracejit bench                              the default workloads, all peers, all measures
  tracejit bench gpt llama --measure startup  how long two models take to start
  tracejit bench gpt --peer tracejit --quick  a first impression, in seconds
  tracejit bench micro                        24 small kernels, 5 sizes, fp32 and bf16
  tracejit bench models/gpt 'micro/*/16M'     by beginnings of names, and by patterns
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
  traffic    name → bytes that a call must move, of workloads that memory bounds
  bandwidth  triad (into a warm buffer), fresh (a copy into fresh memory): samples, bytes a second
  rows       [{workload, measure, peer, status, why, unit, series}]: status is ok, failed, wrong or
             missing (then `why` says it); series are lists of raw samples, one a round or process
  summary    of suites: {suite: [{name, count, versus, worst}]}, how many times faster tracejit is
  compared   with --compare: {date, machines_differ, turned, changes}
With --list: {workloads: [{name, about, default}]}

\b
Exit status: 1 if a peer computed something else than eager, 2 for a mistake in the command.
"""


def names_of_workloads(context: Any, parameter: Any, begun: str) -> list[str]:
    """Names, and of suites their beginnings: one part more than what was typed."""
    parts = begun.count("/") + 1
    words = dict.fromkeys("/".join(name.split("/")[:parts]) for name in registered())
    return [word for word in words if word.startswith(begun)]


def list_workloads(words: Sequence[str], as_json: bool) -> None:
    """Print the registry, or what the words name; kernels and models of suites as one line each
    unless they are named."""
    rows = chosen(words) if words else list(registered().values())
    if as_json:
        fields = ("name", "about", "default")
        print_json({"workloads": [{key: getattr(row, key) for key in fields} for row in rows]})
        return
    lines: dict[str, list[str]] = {}
    for row in rows:
        name = row.name if words else "/".join(row.name.split("/")[:2])
        lines.setdefault(name, []).append(row.about if words or row.default else _rest(row))
    wide = max(map(len, lines))
    for name, about in lines.items():
        more = f" ({len(about)} workloads)" if len(about) > 1 else ""
        click.echo(f"{name:{wide}}  {about[0]}{more}")


def _rest(row: Workload) -> str:
    """What a line says of a workload that is not measured by default."""
    return row.about.partition("; ")[0] if row.suite else f"{row.about} (only if named)"


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
    help="Measure this one (again for more; default: all that are installed). Eager always is.",
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
    help="Rounds of steady, overhead, recording (default: 30, of suites fewer; with --quick 5).",
)
@click.option("--quick", is_flag=True, help="Few and short rounds, single starts.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda if there is one.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Of torch (default: its own choice).")
@json_option
@click.option("--out", type=FILE, callback=check_file, help="Write the JSON to this file too.")
@click.option("--plot", type=FILE, callback=check_picture, help="Draw it: a .png or .svg file.")
@click.option("--compare", type=STORED, help="Show what changed since this stored result.")
@click.option("--from", "stored", type=STORED, help="Show a stored result; measure nothing.")
@click.option("--list", "listing", is_flag=True, help="List workloads; measure nothing.")
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
    """Measure workloads beside eager, torch.compile, and JAX's and TensorFlow's XLA.

    Every peer has a process of its own, and every start one more, with an empty or a filled cache
    (up to three of each, if they are quick); steady state and overhead are taken in interleaved
    rounds, one process at a time. Eager is measured twice: what it differs from itself by is the
    noise of all other figures. No peer is measured whose results are not eager's.
    """
    if listing:
        list_workloads(asked["workloads"], as_json)
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
        peers=tuple(peers),
        measures=tuple(measures),
        rounds=rounds or 0,
        quick=quick,
        starts=1 if quick else STARTS,
        device=device or "",
        threads=threads or 0,
    )
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
    """The document, what suites come to, and the comparison if there is one."""
    found = document.to_json()
    if document.suites():
        found["summary"] = summed(document)
    return found if old is None else found | {"compared": compared(old, document)}


def write(document: Document, old: Document | None, out: Path | None, plot: Path | None) -> None:
    """The files that were asked for."""
    if out is not None:
        text = json.dumps({"schema": FORMATS["results"], **document.to_json()}, indent=1)
        out.write_text(text + "\n")
    if plot is not None:
        plots.draw(document, plot)

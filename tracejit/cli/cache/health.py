"""The commands `tracejit cache stats` and `verify`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tracejit.cli.cache import audit, stats
from tracejit.cli.cache.index import Entry, Index, absent, opened, timestamp
from tracejit.cli.columns import Column, print_columns
from tracejit.cli.terminal import console, directory_option, json_option, print_json
from tracejit.runtime.words import plural, seconds_words, size_words

MOST_MODELS = 10


STATS = """\b
Examples:
  tracejit cache stats
  tracejit cache stats --json | jq '.models | keys'

\b
JSON: one object with
  directory, entries, bytes  of all files; limit is what they may take, share the part used, free
                             what the disk has left
  hits                       how often a process found a stored program
  oldest, newest, used       when the first and last entry was written, and one was used last
  kinds, targets, models     {name: {"entries", "bytes", ...}}; of models also "hits" and "used"
  stale, damaged             {"entries", "bytes"}: of other versions; with an unreadable beginning
  set_aside, leftovers       {"files", "bytes"}: found damaged before; of processes that ended
"""


@click.command("stats", epilog=STATS)
@directory_option
@json_option
def stats_command(directory: Path | None, as_json: bool) -> None:
    """Say how much of what is there."""
    index = opened(directory)
    if as_json:
        print_json(stats.document(index))
    elif not absent(index):
        _print_stats(console(), stats.document(index))


def _print_stats(out: Console, found: dict[str, Any]) -> None:
    share = "" if found["share"] is None else f" ({found['share']:.1%})"
    out.print(
        f"{plural(found['entries'], 'entry')}, {size_words(found['bytes'])} of "
        f"{size_words(found['limit'])}{share} in {found['directory']}; the disk has "
        f"{size_words(found['free'])} left",
        soft_wrap=True,
    )
    if found["newest"]:
        ago = {name: _ago(found[name]) for name in ("oldest", "newest", "used")}
        text = f"written {ago['oldest']} to {ago['newest']}, last used {ago['used']}"
        out.print(text, soft_wrap=True)
    out.print(f"{plural(found['hits'], 'hit')}: a process found a stored program and compiled none")
    for title, name in (("kind", "kinds"), ("target", "targets"), ("model", "models")):
        _print_totals(out, title, found[name])
    for name, words in _ODD.items():
        count = found[name].get("entries", found[name].get("files"))
        if count:
            out.print(f"{words}: {count:,}, {size_words(found[name]['bytes'])}", soft_wrap=True)


def _ago(when: str) -> str:
    return f"{seconds_words(time.time() - (timestamp(when) or 0.0))} ago"


# Parts of the statistics that are worth a line only if there are some.
_ODD = {
    "stale": "of other versions (tracejit cache prune --stale)",
    "damaged": "damaged (tracejit cache verify --fix)",
    "set_aside": "set aside as damaged (tracejit cache prune --damaged)",
    "leftovers": "left behind by processes that ended (tracejit cache prune)",
}


def _print_totals(out: Console, title: str, totals: dict[str, dict[str, Any]]) -> None:
    if not totals:
        return
    names = ("entries", "size", "hits")[: 2 + any("hits" in row for row in totals.values())]
    rows = []
    for name, row in list(totals.items())[:MOST_MODELS]:
        cells = [f"{row['entries']:,}", size_words(row["bytes"]), f"{row.get('hits', 0):,}"]
        rows.append([name, *cells[: len(names)]])
    columns = [Column(title, cut="start"), *(Column(name, right=True) for name in names)]
    out.print()
    print_columns(out, columns, rows)
    if len(totals) > MOST_MODELS:
        out.print(f"and {len(totals) - MOST_MODELS} more")


VERIFY = """\b
Examples:
  tracejit cache verify
  tracejit cache verify --fix
  tracejit cache verify --json | jq '.findings[] | select(.fault)'

\b
A fault: unsafe (the directory is another user's, or others may write there), unreadable, damaged,
misplaced (whole, but under a key that its content does not have). No fault: open (others may read
there), foreign (not named as our files are), other format, dangling (leads to what is not there;
made again when needed), leftover (of a process that ended), set aside.

\b
Exit status: 1 if there is a fault that was not fixed.

\b
JSON: one object with
  directory       the cache's directory
  entries, bytes  what was read
  ok              whether there is no fault (left)
  counts          {what: number of findings}
  findings        [{"what", "fault", "path", "kind", "key", "why", "done"}]; done says what --fix
                  did, else ""
"""


@click.command(epilog=VERIFY)
@click.option("--fix", is_flag=True, help="Set faulty files aside, remove what is of no use.")
@directory_option
@json_option
def verify(directory: Path | None, as_json: bool, fix: bool) -> None:
    """Read every byte of every entry and report what is not well."""
    index = opened(directory)
    if not index.directory.exists():
        found, done = [], {}
    else:
        found = _read_all(index)
        done = dict(audit.fix(index, found)) if fix else {}
    found += [finding for finding in done if finding not in found]
    ok = not any(finding.fault and finding not in done for finding in found)
    if as_json:
        print_json(_verified(index, found, done, ok))
    elif not absent(index):
        _print_findings(console(), index, found, done)
    click.get_current_context().exit(0 if ok else 1)


def _read_all(index: Index) -> list[audit.Finding]:
    """The findings, with a bar on a terminal's stderr."""
    columns = (TextColumn("reading"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    err = Console(stderr=True)
    quiet = not err.is_terminal or err.is_dumb_terminal
    with Progress(
        *columns, TimeRemainingColumn(), console=err, transient=True, disable=quiet
    ) as bar:
        task = bar.add_task("", total=sum(entry.bytes for entry in index))

        def step(entry: Entry) -> None:
            bar.advance(task, entry.bytes)

        return audit.findings(index, step)


Done = dict[audit.Finding, str]


def _verified(index: Index, found: list[audit.Finding], done: Done, ok: bool) -> dict[str, Any]:
    """The JSON of `verify`."""
    names = [finding.what for finding in found]
    return {
        "directory": str(index.directory),
        "entries": len(index),
        "bytes": sum(entry.bytes for entry in index),
        "ok": ok,
        "counts": {name: names.count(name) for name in audit.FAULTS if name in names},
        "findings": [{**finding.to_json(), "done": done.get(finding, "")} for finding in found],
    }


def _print_findings(out: Console, index: Index, found: list[audit.Finding], done: Done) -> None:
    for finding in sorted(found, key=lambda f: not f.fault):
        note = f" ({done[finding]})" if finding in done else ""
        style = "red" if finding.fault else None
        text = f"{finding.what}: {finding.path}: {finding.why}{note}"
        out.print(text, style=style, soft_wrap=True)
    faults = sum(finding.fault for finding in found)
    fixed = sum(finding.fault for finding in done)
    size = size_words(sum(entry.bytes for entry in index))
    read = f"{plural(len(index), 'entry')}, {size}, read in {index.directory}"
    verdict = plural(faults, "fault") if faults else "no fault"
    note = f" ({fixed} fixed)" if fixed else ""
    advice = "; tracejit cache verify --fix sets faulty files aside" if faults > fixed else ""
    out.print(f"{read}: {verdict}{note}{advice}", soft_wrap=True)

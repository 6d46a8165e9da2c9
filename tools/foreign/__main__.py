"""Runs models and functions that no one here wrote, eagerly and compiled, and says what became of
each.

    python -m tools.foreign [--only NAME] [--json | --write]

Each is called in two processes: in the second it starts with the plans that the first left on disk.
Prints a table; --json prints all that was found, --write writes docs/foreign.md. The exit status is
1 if a result differs from eager's. `make foreign` installs the packages first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tools.foreign.show import page, table

if TYPE_CHECKING:
    from tools.foreign.run import Outcome

Runs = list[dict[str, "Outcome"]]  # by name, in the first process and in the second


def child(only: str) -> None:
    """In a process of its own: each outcome as a line of JSON."""
    from tools.foreign.case import pass_over_torchvision

    pass_over_torchvision()
    from tools.foreign import cases
    from tools.foreign.run import run

    for case in cases():
        if only in f"{case.package}: {case.name}":
            print(json.dumps(dataclasses.asdict(run(case))), flush=True)


def outcomes(only: str, cache: str) -> Iterator[Outcome]:
    """What a new process finds that has this cache."""
    from tools.foreign.run import Outcome

    command = [sys.executable, "-m", "tools.foreign", "--child", "--only", only]
    environment = os.environ | {"TRACEJIT_CACHE_DIR": cache}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield Outcome(**json.loads(line))
    if process.returncode:
        raise SystemExit(f"a process with the cases ended with {process.returncode}")


def both(only: str) -> Runs:
    """All cases, in a process that compiles and in one that starts warm."""
    runs: Runs = []
    with tempfile.TemporaryDirectory(prefix="tracejit-foreign-") as cache:
        for process in ("cold", "warm"):
            runs.append({})
            for outcome in outcomes(only, cache):
                runs[-1][f"{outcome.package}: {outcome.name}"] = outcome
                print(f"{process} {outcome.package}: {outcome.name}", file=sys.stderr)
    return runs


def differing(runs: Runs) -> list[str]:
    """What differs from eager, in either process."""
    return [
        f"{name}, {process} process, {text}"
        for process, found in zip(("first", "second"), runs)
        for name, outcome in found.items()
        for text in outcome.differences
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.foreign")
    parser.add_argument("--only", default="", help="cases whose package and name contain this")
    parser.add_argument("--json", action="store_true", help="print all that was found")
    parser.add_argument("--write", action="store_true", help="write docs/foreign.md")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.only)
        return 0
    runs = both(options.only)
    if options.json:
        found = [{n: dataclasses.asdict(o) for n, o in run.items()} for run in runs]
        print(json.dumps(dict(zip(("cold", "warm"), found)), indent=1))
    elif options.write:
        page(runs)
    else:
        table(runs)
    differences = differing(runs)
    for line in differences:
        print(f"differs: {line}", file=sys.stderr)
    return int(bool(differences))


if __name__ == "__main__":
    raise SystemExit(main())

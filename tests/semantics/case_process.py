"""Runs every case in this process, eager and compiled, with the cache of TRACEJIT_CACHE_DIR.

    python -m tests.semantics.case_process [--only NAME]

Prints JSON: for each case, by its key, what `Result` holds. Run again with the same cache it shows
what a warm process does.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tracejit.entry import Entry
from tracejit.runtime import log

from .cases import Case, load
from .support import PHASES, Seen, compiled, plain

ROOT = Path(__file__).resolve().parents[2]
runs = 0  # of plans


@dataclass
class Result:
    """What became of one case in one process."""

    differences: dict[str, str] = field(default_factory=dict)  # by phase, "" if there is none
    reasons: list[dict[str, str]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)  # of entries: recorded, disk or local
    kernels: int = 0
    externs: int = 0
    runs: int = 0  # calls that ran a plan
    wrong: list[str] = field(default_factory=list)  # phases in which it is known to differ
    seconds: float = 0.0


def _count_runs() -> None:
    """Have every plan counted when it runs."""
    become = Entry.become

    def counted(self: Entry, *args: Any) -> None:
        become(self, *args)
        if self.run is not None and self.bound is not None:
            plan = self.bound.plan
            run, shown = plan.run, plan.shown
            plan = replace(
                plan,
                run=lambda inputs: _counting(run, inputs),
                shown=lambda inputs: _counting(shown, inputs),
            )
            self.bound = replace(self.bound, plan=plan)
            self.run = plan.run

    Entry.become = counted  # type: ignore[method-assign]


def _counting(run: Any, inputs: Any) -> Any:
    global runs
    result = run(inputs)
    runs += 1
    return result


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Give back torch's global state as it was."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        torch.set_autocast_enabled("cpu", False)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
        torch.autograd.set_detect_anomaly(False)
        for name in dir(torch.nn.modules.module):
            if name.startswith("_global_") and name.endswith("hooks"):
                getattr(torch.nn.modules.module, name).clear()


def run(case: Case) -> Result:
    """Both twins of a case, and how they differ."""
    start, before = time.perf_counter(), runs
    result = Result(wrong=sorted(case.wrong))
    if "crash" in case.wrong:
        result.differences = dict.fromkeys(PHASES, "not run: it brings the process down")
        return result
    log.forget()
    try:
        with untouched():
            expected = Seen(case.program, plain)
    except Exception as error:
        result.differences = dict.fromkeys(PHASES, f"the eager program raised {_told(error)}")
        return result
    for name in PHASES:
        if not expected.phases[name].steps:
            result.differences[name] = "the program shows nothing in this phase"
    try:
        with untouched():
            seen = Seen(case.program, compiled)
    except Exception as error:
        result.differences |= dict.fromkeys(PHASES, f"raised {_told(error)}")
        return result
    for name in PHASES:
        found = seen.phases[name].difference(expected.phases[name])
        result.differences.setdefault(name, found)
    _describe(result, seen)
    result.runs = runs - before
    result.seconds = round(time.perf_counter() - start, 3)
    return result


def _told(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-3:]
    lines = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(where))
    return f"{type(error).__name__}: {error} ({lines})"


def _describe(result: Result, seen: Seen) -> None:
    """What was compiled, and why other calls were not."""
    reasons = {(r.kind, r.text, _short(r.place)): None for r in seen.reasons}
    result.reasons = [{"kind": k, "text": t, "place": p} for k, t, p in reasons]
    for entry in seen.entries:
        result.sources.append(entry.source)
        result.kernels += entry.kernels
        result.externs += entry.externs


def _short(place: str) -> str:
    """A place that is the same in every checkout."""
    return place.replace(f"{ROOT}{os.sep}", "")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="cases whose key contains this")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    _count_runs()
    gc.freeze()
    results = {}
    for key, case in load().items():
        if only in key:
            results[key] = asdict(run(case))
            gc.collect()
    json.dump(results, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

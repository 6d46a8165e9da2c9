"""Runs all cases in two processes, one after the other with one cache, and says what became of
each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PASSING = {"left", "entries"}  # kinds of reasons that are no refusal of the program
OUTCOMES = ("compiled", "compiled in part", "eager")

Results = dict[str, Any]  # by the case's key: the fields of case_process.Result


def run(cache: Path, *arguments: str) -> Results:
    """All cases in a process of its own."""
    environment = {
        **os.environ,
        "TRACEJIT_CACHE_DIR": str(cache),
        "TRACEJIT_VERIFY": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.semantics.case_process", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    results: Results = json.loads(done.stdout)
    return results


def twice(cache: Path, *arguments: str) -> dict[str, Results]:
    """The cases with an empty cache, and then with what the first process left in it."""
    return {name: run(cache, *arguments) for name in ("cold", "warm")}


def reasons(result: Any) -> list[dict[str, str]]:
    """Why calls of the case were not captured."""
    return [r for r in result["reasons"] if r["kind"] not in PASSING]


def outcome(result: Any) -> str:
    """One of OUTCOMES."""
    if not result["runs"]:
        return "eager"
    return "compiled in part" if reasons(result) else "compiled"

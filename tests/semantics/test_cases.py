"""Every case gives what eager gives: on the first call, compiled, after a change, and in a process
that finds the plans of another one."""

from __future__ import annotations

import fcntl
import json
import re
from typing import Any

import pytest

from . import case_runs
from .cases import PHASES, load

CASES = load()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the cold and the warm process found. They run once, however many workers there are."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "popen-gw" in base.name else base
    kept = folder / "cases.json"
    with (folder / "cases.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_text(json.dumps(case_runs.twice(folder / "cases-cache")))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


@pytest.mark.parametrize("phase", [*PHASES, "warm"])
@pytest.mark.parametrize("key", CASES)
def test_case(key: str, phase: str, runs: dict[str, Any]) -> None:
    case, result = CASES[key], runs["warm" if phase == "warm" else "cold"][key]
    found = [result["differences"][p] for p in (PHASES if phase == "warm" else [phase])]
    differs = "\n".join(filter(None, found))
    if "crash" in case.wrong:
        pytest.xfail(differs)
    if phase in case.wrong:
        assert differs, f"{key} is no longer wrong when {phase}: take it from the case's `wrong`"
        pytest.xfail(differs)
    assert not differs
    if phase == "warm" and not case.eager and "local" not in result["sources"]:
        assert set(result["sources"]) <= {"disk"}


@pytest.mark.parametrize("key", CASES)
def test_reasons(key: str, runs: dict[str, Any]) -> None:
    """Calls run eagerly for the reasons that the case names, and no others."""
    case, result = CASES[key], runs["cold"][key]
    if "crash" in case.wrong:
        pytest.xfail("not run")
    assert {r["kind"] for r in case_runs.reasons(result)} == case.eager, result["reasons"]
    if not case.eager:
        assert result["runs"], "no plan ran, and no reason is given"


def test_page_shows_the_run(runs: dict[str, Any]) -> None:
    """docs/semantics.md has every case with its outcome, and how many have which."""
    page = (case_runs.ROOT / "docs" / "semantics.md").read_text()
    shown = {}
    for part in page.split("\n## ")[1:]:
        section, table = part.split("\n", 1)
        for name, outcome in re.findall(r"^\| ([^|]+) \| ([^|]+) \|", table, re.M)[1:]:
            shown[f"{section}: {name}"] = outcome
    found = {key: case_runs.outcome(result) for key, result in runs["cold"].items()}
    assert shown == found, "run `python tools/semantics.py --write` and look at it"
    total = [[*found.values()].count(each) for each in case_runs.OUTCOMES]
    assert f"| total | {' | '.join(map(str, [*total, len(found)]))} |" in page

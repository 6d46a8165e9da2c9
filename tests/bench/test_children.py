"""What becomes of a run when children die, hang or tell of failures; what they are started with."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tracejit.benchmarks import children, harness
from tracejit.benchmarks.children import Died
from tracejit.benchmarks.document import MEASURES
from tracejit.benchmarks.harness import Harness, NoDevice
from tracejit.benchmarks.job import Event, Job
from tracejit.benchmarks.peers import PEERS
from tracejit.benchmarks.progress import Progress
from tracejit.benchmarks.registry import chosen
from tracejit.benchmarks.steps import Settings, steps

JOB = Job("start", workload="pointwise", peers=("eager",))
ENDINGS = {
    "import os; os.abort()": "killed by SIGABRT",
    "raise SystemExit('no disk\\nno luck')": "no luck",
    "import time; print('{}', flush=True); time.sleep(60)": "no answer for 1 s: given up",
    "import os, time; os.close(1); time.sleep(60)": "did not end within 1 s",
}


@pytest.mark.parametrize("code", ENDINGS)
def test_a_child_that_ends_badly(
    code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(children, "command", lambda job: [sys.executable, "-c", code])
    with pytest.raises(Died) as caught:
        list(children.events(JOB, str(tmp_path), 1))
    assert str(caught.value) == ENDINGS[code]


def test_a_childs_children_are_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler that the child had started must not go on."""
    code = (
        "import json, subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); "
        "print(json.dumps({'pid': p.pid}), flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(children, "command", lambda job: [sys.executable, "-c", code])
    told = children.events(JOB, str(tmp_path), 10)
    pid = next(told)["pid"]
    told.close()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}/exe").exists()


def test_variables_of_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of the run, none of the user's settings that would change the figures."""
    monkeypatch.setenv("TRACEJIT_VERIFY", "1")
    monkeypatch.setenv("TRACEJIT_CACHE_DIR", "/home/cache")
    job = Job("rounds", peers=tuple(PEERS), caches="/run/caches", threads=3)
    found = children.environment(job, "/run")
    assert "TRACEJIT_VERIFY" not in found
    assert found["TRACEJIT_CACHE_DIR"] == "/run/caches/tracejit/tracejit"
    assert (found["TMPDIR"], found["OMP_NUM_THREADS"]) == ("/run", "3")


def told(job: Job, dies: dict[tuple[str, str], str], here: str = "cpu") -> Iterator[Event]:
    """What a child would tell; it dies where (kind, peer) is in `dies`."""
    if job.kind == "probe":
        known = {"missing": "", "note": "", "remark": ""}
        peers = {name: dict(known) for name in PEERS} | {"max-autotune": known | {"missing": "no"}}
        yield {"seen": {"device": here, "gpu": "", "threads": 1, "peers": peers}}
        return
    for peer in job.peers:
        yield {"peer": peer}
        if (job.kind, peer) in dies:
            raise Died(why=dies[job.kind, peer])
    yield {"round": 0}
    for peer in job.peers:
        yield {"outcome": {"peer": peer, "series": {"call": [1.0], "own": [1.0]}}}


def faked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, here: str = "cpu", **dies: str
) -> dict[tuple[str, str], tuple[str, str]]:
    """Status and reason of each row of a run of told children."""
    at = {(kind, peer): why for kind, said in dies.items() for peer, why in [said.split("=")]}
    monkeypatch.setattr(harness, "events", lambda job, folder, limit: told(job, at, here))
    settings = Settings(tuple(chosen(["gpt"])), tuple(PEERS), ("startup", "steady"))
    document = Harness(settings, tmp_path, Progress(quiet=True)).run()
    return {(r.measure, r.peer): (r.status, r.why) for r in document.rows}


def test_steps() -> None:
    """A cold start fills the caches that the warm one and the rounds use."""
    settings = Settings(tuple(chosen(["gpt", "vit"])), (), tuple(MEASURES))
    found = steps(settings, ("eager", "torch.compile", "tracejit", "eager again"))
    words = [
        "torch.compile: its first use here (not timed)",
        "gpt: eager, cold start",
        "gpt: torch.compile, cold start",
        "gpt: torch.compile, warm start",
        "gpt: tracejit, cold start",
        "gpt: tracejit, warm start",
        "gpt: eager again, cold start",
        "gpt: steady",
        "gpt: overhead",
        "gpt: recording",
    ]
    assert [step.words for step in found[:10]] == words
    assert {step.workload for step in found[10:]} == {"vit"} and len(found) == 19
    assert [s.kind for s in steps(replace(settings, measures=("steady",)), ("eager",))] == [
        "steady",
        "steady",
    ]


def test_quick_starts_are_repeated_on_empty_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Up to three, and none once they have taken long enough."""
    found: list[tuple[str, bool]] = []
    took, now = {"tracejit": 2.0, "torch.compile": 20.0}, [0.0]
    monkeypatch.setattr(harness.time, "monotonic", lambda: now[0])

    def child(job: Job, folder: str, limit: float) -> Iterator[Event]:
        if job.kind == "probe":
            yield from told(job, {})
            return
        (peer,) = job.peers
        folder_of_peer = Path(job.caches) / peer
        if not job.tiny:
            found.append((peer, folder_of_peer.exists()))
        folder_of_peer.mkdir(parents=True, exist_ok=True)
        now[0] += took[peer]
        yield {"outcome": {"peer": peer, "series": {"own": [took[peer]], "memory start": [1.0]}}}

    monkeypatch.setattr(harness, "events", child)
    settings = Settings(tuple(chosen(["gpt"])), ("torch.compile", "tracejit"), ("startup",))
    document = Harness(settings, tmp_path, Progress(quiet=True)).run()
    cold, warm = False, True
    assert found == [("torch.compile", cold), ("torch.compile", warm)] + [
        ("tracejit", state) for state in (cold, cold, cold, warm, warm, warm)
    ]
    assert [r.series for r in document.rows] == [
        {"cold": [20.0], "warm": [20.0]},
        {"cold": [2.0] * 3, "warm": [2.0] * 3},
    ]
    assert not (tmp_path / "caches" / "gpt").exists()


OK = ("ok", "")
ABSENT = ("missing", "no")
HUNG = "no answer for 300 s: given up"


def test_a_peer_that_dies_at_the_start_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = faked(monkeypatch, tmp_path, start="torch.compile=killed by SIGSEGV")
    died = ("failed", "killed by SIGSEGV")
    expected = {"eager": OK, "torch.compile": died, "max-autotune": ABSENT, "tracejit": OK,
                "eager again": OK}  # fmt: skip
    assert found == {(m, p): s for m in ("startup", "steady") for p, s in expected.items()}


def test_the_others_are_measured_without_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = faked(monkeypatch, tmp_path, rounds=f"tracejit={HUNG}")
    assert found["steady", "tracejit"] == ("failed", HUNG)
    assert [found["steady", p] for p in ("eager", "torch.compile", "eager again")] == [OK] * 3
    assert found["startup", "tracejit"] == OK


def test_without_eager_nothing_can_be_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = faked(monkeypatch, tmp_path, start="eager=killed by SIGKILL")
    assert found["steady", "tracejit"] == ("failed", "eager: killed by SIGKILL")


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NoDevice):
        faked(monkeypatch, tmp_path, here="")

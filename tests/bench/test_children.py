"""What becomes of a run when children die, hang or tell of failures; what they are started with."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tracejit.benchmarks import children, harness, team
from tracejit.benchmarks.children import Died
from tracejit.benchmarks.document import Document
from tracejit.benchmarks.harness import Harness, NoDevice
from tracejit.benchmarks.job import Event, Job
from tracejit.benchmarks.peers import PEERS
from tracejit.benchmarks.progress import Progress
from tracejit.benchmarks.registry import Pace, chosen
from tracejit.benchmarks.steps import Settings, steps
from tracejit.benchmarks.timing import order

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
    job = Job("serve", peers=tuple(PEERS), caches="/run/caches", threads=3)
    found = children.environment(job, "/run")
    assert "TRACEJIT_VERIFY" not in found
    assert found["TRACEJIT_CACHE_DIR"] == "/run/caches/tracejit/tracejit"
    assert (found["TMPDIR"], found["OMP_NUM_THREADS"], found["NPROC"]) == ("/run", "3", "3")


ANSWERS = """
import json, os, sys
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "die":
        os.abort()
    print(json.dumps({"done": order["do"]}), flush=True)
"""


def test_a_child_answers_orders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(children, "command", lambda job: [sys.executable, "-c", ANSWERS])
    with children.Child(JOB, str(tmp_path), 10) as child:
        for word in ("open", "block"):
            child.send({"do": word})
            assert child.answer() == {"done": word}
        child.send({"do": "die"})
        child.process.wait(10)
        child.send({"do": "open"})  # nobody reads it
        with pytest.raises(Died, match="killed by SIGABRT"):
            child.answer()
    assert child.process.returncode is not None


class Served:
    """A child that answers orders as one would; it dies where (measure, peer) is in `dies`."""

    made: list[tuple[str, str]] = []  # peer and folder of caches of each

    def __init__(self, job: Job, dies: dict[tuple[str, str], str]) -> None:
        (self.peer,) = job.peers
        self.dies, self.orders, self.measure = dies, list[Event](), ""
        Served.made.append((self.peer, Path(job.caches).name))

    def send(self, order: Event) -> None:
        self.orders.append(order)

    def answer(self) -> Event:
        order = self.orders.pop(0)
        self.measure = order.get("measure", self.measure)
        why = self.dies.get((f"{self.measure} {order['do']}", self.peer))
        if why:
            raise Died(why=why)
        outcome = {"outcome": {"peer": self.peer}, "bytes": 96}
        answers: dict[str, Event] = {
            "open": outcome,
            "size": {"calls": 2, "seconds": 0.01},
            "block": {"seconds": 1.0},
            "close": {},
        }
        return answers[order["do"]]

    def close(self) -> None:
        self.orders.clear()


def told(job: Job, dies: dict[tuple[str, str], str], here: str = "cpu") -> Iterator[Event]:
    """What a child of one job would tell; it dies where (kind, peer) is in `dies`."""
    if job.kind == "probe":
        known = {"missing": "", "note": "", "remark": ""}
        peers = {name: dict(known) for name in PEERS} | {"max-autotune": known | {"missing": "no"}}
        yield {"seen": {"device": here, "gpu": "", "threads": 1, "peers": peers}}
        return
    if job.kind == "stream":
        yield {"stream": {"triad": [2e9], "fresh": [1e9]}}
        return
    (peer,) = job.peers
    if (job.kind, peer) in dies:
        raise Died(why=dies[job.kind, peer])
    yield {"outcome": {"peer": peer, "series": {"own": [1.0]}}}


def faked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, here: str = "cpu", **said: Any
) -> Document:
    """The document of a run of told and served children; `dies` says where they do not."""
    dies, words = said.pop("dies", {}), said.pop("words", ["gpt"])
    Served.made.clear()
    monkeypatch.setattr(harness, "events", lambda job, folder, limit: told(job, dies, here))
    monkeypatch.setattr(harness, "Child", lambda job, folder, limit: Served(job, dies))
    chosen_peers = said.pop("peers", tuple(PEERS))
    measures = said.pop("measures", ("startup", "steady"))
    settings = Settings(tuple(chosen(words)), chosen_peers, measures, quick=True)
    return Harness(settings, tmp_path, Progress(quiet=True)).run()


def statuses(document: Document) -> dict[tuple[str, str], tuple[str, str]]:
    """Status and reason of each row."""
    return {(r.measure, r.peer): (r.status, r.why) for r in document.rows}


def test_steps() -> None:
    """A cold start fills the caches that the warm one and the rounds use."""
    here = ("eager", "torch.compile", "tracejit", "eager again")
    settings = Settings(tuple(chosen(["gpt", "vit"])), here)
    found = steps(settings, here)
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


def test_steps_of_suites() -> None:
    """Each row says what is measured of it, and who is not unless named; one that no other
    framework has a version of is a step of the others."""
    settings = Settings(tuple(chosen(["micro/gate/16", "micro/gate-into/16/fp32"])))
    found = steps(settings, tuple(PEERS))
    memory = "what this machine's memory moves in a second"
    assert [step.words for step in found] == [
        memory,
        "micro/gate/16/fp32: steady",
        "micro/gate/16/bf16: steady",
        "micro/gate-into/16/fp32: steady",
        memory,
    ]
    everyone = tuple(name for name in PEERS if name != "max-autotune")
    torch_only = tuple(name for name in everyone if not PEERS[name].foreign)
    assert [step.peers for step in found[1:4]] == [everyone, everyone, torch_only]
    named = steps(replace(settings, peers=("max-autotune",)), tuple(PEERS))
    assert named[1].peers == ("eager", "max-autotune", "eager again")


def test_models_start_in_one_variant() -> None:
    settings = Settings(tuple(chosen(["models/mlp"])))
    kinds = {(step.workload, step.kind) for step in steps(settings, ("eager", "tracejit"))}
    started = {workload for workload, kind in kinds if kind == "cold"}
    assert started == {"models/mlp/b1/fp32"} and len(kinds) == 2 + 4


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
    monkeypatch.setattr(Settings, "peers_of", lambda self, workload: self.peers)
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
TORCH = ("eager", "torch.compile", "tracejit", "eager again")


def test_a_peer_that_dies_at_the_start_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dies = {("start", "torch.compile"): "killed by SIGSEGV"}
    found = statuses(faked(monkeypatch, tmp_path, dies=dies))
    failed = {"torch.compile": ("failed", "killed by SIGSEGV"), "max-autotune": ABSENT}
    expected = {(m, p): failed.get(p, OK) for m in ("startup", "steady") for p in PEERS}
    assert found == expected
    assert "torch.compile" not in {peer for peer, _ in Served.made}


@pytest.mark.parametrize("order", ["open", "size", "block"])
def test_the_others_are_measured_without_one_that_hangs(
    order: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    document = faked(monkeypatch, tmp_path, dies={(f"steady {order}", "tracejit"): HUNG})
    found = statuses(document)
    assert found["steady", "tracejit"] == ("failed", HUNG)
    assert [found["steady", p] for p in ("eager", "torch.compile", "eager again")] == [OK] * 3
    assert found["startup", "tracejit"] == OK
    assert document.of("steady", "gpt")["eager"].series == {"call": [1.0] * 5}


def test_without_eager_nothing_can_be_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = statuses(faked(monkeypatch, tmp_path, dies={("start", "eager"): "killed by SIGKILL"}))
    assert found["steady", "tracejit"] == ("failed", "eager: killed by SIGKILL")
    dies = {("steady block", "eager"): "killed by SIGKILL"}
    document = faked(monkeypatch, tmp_path, dies=dies)
    assert statuses(document)["steady", "tracejit"] == ("failed", "eager: killed by SIGKILL")
    assert document.of("steady", "gpt")["tracejit"].series == {}


def test_a_suite_keeps_its_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One for each peer; only one that died is started anew, for the next workload."""
    dies = {("steady open", "torch.compile"): "killed by SIGSEGV"}
    words = ["micro/gate/16", "models/mlp/b8/fp32"]
    document = faked(
        monkeypatch,
        tmp_path,
        dies=dies,
        words=words,
        peers=("torch.compile",),
        measures=("steady",),
    )
    micro = [peer for peer, caches in Served.made if caches == "micro"]
    assert sorted(micro) == ["eager", "eager again", "torch.compile", "torch.compile"]
    assert [caches for _, caches in Served.made[4:]] == ["fp32"] * 3
    assert document.traffic == dict.fromkeys(document.workloads, 96)
    assert document.bandwidth == {"triad": [2e9], "fresh": [1e9]}


def test_why_another_framework_has_no_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has no version of the workload; or it is not installed, which is a row only if it was
    asked for."""
    words = {"words": ["micro/gate-into/16/fp32"], "measures": ("steady",)}
    found = statuses(faked(monkeypatch, tmp_path, **words))
    status, why = found["steady", "jax.jit"]
    assert status == "missing" and "cannot write into a buffer" in why
    assert found["steady", "max-autotune"] == ABSENT
    words["words"] = ["gpt"]
    document = faked(monkeypatch, tmp_path, **words, peers=())
    assert ("steady", "max-autotune") not in statuses(document)
    assert "max-autotune" in document.peers


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NoDevice):
        faked(monkeypatch, tmp_path, here="")


@pytest.mark.parametrize(("taken", "rounds"), [(0.001, 12), (0.04, 7), (3.0, 5)])
def test_slow_calls_have_fewer_rounds(taken: float, rounds: int) -> None:
    assert team.rounds_of(Pace(rounds=12, seconds=0.02, total=0.3), taken) == rounds
    assert team.rounds_of(Pace(rounds=12, seconds=0.02), taken) == 12
    assert team.rounds_of(Pace(rounds=2, seconds=0.02, total=0.3), taken) == 2


def test_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every peer once a round, one at a time, in the round's order; those that time what they
    compile are opened when the others are done."""
    said: list[str] = []

    class Noting(Served):
        def send(self, order: Event) -> None:
            said.append(f"{order['do']} {self.peer}")
            super().send(order)

        def answer(self) -> Event:
            said.append(f"answer {self.peer}")
            return super().answer()

    peers = ("eager", "tracejit", "eager again")
    job = Job("serve", caches="/none")
    members = team.Team(lambda name: Noting(replace(job, peers=(name,)), {}))  # type: ignore[arg-type, return-value]
    found = members.measure("gpt", "steady", peers, Pace(rounds=4, seconds=0.1))
    assert said[:6] == [
        "open eager",
        "open eager again",
        "answer eager",
        "answer eager again",
        "open tracejit",
        "answer tracejit",
    ]
    blocks = [text for text in said if text.startswith("block ")]
    assert blocks == [f"block {peer}" for turn in range(4) for peer in order(peers, turn)]
    alone = [(said[i], said[i + 1]) for i in range(6, len(said), 2)]
    assert all(first.split(" ", 1)[1] == then.split(" ", 1)[1] for first, then in alone)
    assert {len(o.series["call"]) for o in found.outcomes.values()} == {4}


def test_all_may_die(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dies = {("steady size", peer): "killed by SIGKILL" for peer in PEERS}
    found = statuses(faked(monkeypatch, tmp_path, dies=dies, measures=("steady",)))
    assert set(found.values()) == {("failed", "killed by SIGKILL"), ABSENT}

"""What a run consists of: its settings, and its steps in order."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from tracejit.benchmarks.children import LIMIT
from tracejit.benchmarks.document import MEASURES
from tracejit.benchmarks.peers import CONTROL, EAGER, PEERS
from tracejit.benchmarks.registry import Pace, Workload

STARTING = {"startup", "memory"}  # what a start measures
PREPARING = "pointwise"  # the workload of a first use, as tiny as it is
PACE = Pace(rounds=30, seconds=0.04)
QUICK = Pace(rounds=5, seconds=0.01)


@dataclass(frozen=True)
class Settings:
    """What to measure and how long. No peers or measures: those of each workload. An empty device:
    CUDA if there is one."""

    workloads: tuple[Workload, ...]
    peers: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    rounds: int = 0  # 0: as each workload's pace
    quick: bool = False
    starts: int = 3  # of each kind at most, in processes of their own
    device: str = ""
    threads: int = 0
    limit: float = LIMIT

    def measures_of(self, workload: Workload) -> tuple[str, ...]:
        """What is measured of it, in the order of MEASURES."""
        wanted = self.measures or workload.measures or tuple(MEASURES)
        return tuple(name for name in MEASURES if name in wanted)

    def peers_of(self, workload: Workload) -> tuple[str, ...]:
        """Who is measured, in the order of PEERS. Eager always is, twice."""
        if self.peers:
            return tuple(n for n in PEERS if n in (*self.peers, EAGER, CONTROL))
        return tuple(name for name in PEERS if name not in workload.without)

    def pace_of(self, workload: Workload) -> Pace:
        """How long its rounds are."""
        pace = QUICK if self.quick else workload.pace or PACE
        return replace(pace, rounds=self.rounds, total=0.0) if self.rounds else pace

    @property
    def everyone(self) -> tuple[str, ...]:
        """All peers that some workload is measured with."""
        found = {name for workload in self.workloads for name in self.peers_of(workload)}
        return tuple(name for name in PEERS if name in found)


@dataclass(frozen=True)
class Step:
    """A start of one peer ("prepare", "cold", "warm"), or a measure of all ("steady", "overhead",
    "recording"), or the memory's speed ("stream")."""

    kind: str
    workload: str
    peers: tuple[str, ...]
    weight: float  # seconds that it may take, for the time left

    @property
    def words(self) -> str:
        """`gpt: torch.compile, cold start`."""
        if self.kind == "stream":
            return "what this machine's memory moves in a second"
        if self.kind == "prepare":
            return f"{self.peers[0]}: its first use here (not timed)"
        if self.kind in ("cold", "warm"):
            return f"{self.workload}: {self.peers[0]}, {self.kind} start"
        return f"{self.workload}: {self.kind}"


def steps(settings: Settings, here: Collection[str]) -> list[Step]:
    """All steps of a run of the peers that are here, in order."""
    found: list[Step] = []
    taking = [w for w in settings.workloads if STARTING & set(settings.measures_of(w))]
    ready = {n: PEERS[n] for w in taking for n in settings.peers_of(w) if n in here}
    for name, peer in ready.items():
        if peer.prepares:
            found.append(Step("prepare", PREPARING, (name,), peer.guess[0]))
    streams = any(w.streams and "steady" in settings.measures_of(w) for w in settings.workloads)
    memory = [Step("stream", "", (), 4)] if streams else []
    for workload in settings.workloads:
        names = (n for n in settings.peers_of(workload) if n in here)
        able = tuple(name for name in names if not PEERS[name].lacks(workload))
        found += _steps(settings, workload, able)
    return [*memory, *found, *([] if settings.quick else memory)]


def _steps(settings: Settings, workload: Workload, peers: tuple[str, ...]) -> Iterator[Step]:
    measures, name = settings.measures_of(workload), workload.name
    if STARTING & set(measures):
        for peer in peers:
            cold, warm = PEERS[peer].guess
            yield Step("cold", name, (peer,), cold)
            if PEERS[peer].stored:
                yield Step("warm", name, (peer,), warm)
    pace = settings.pace_of(workload)
    rounds = (pace.total or pace.rounds * pace.seconds) * 1.5
    waits = 1.0 if workload.team else sum(PEERS[peer].guess[1] for peer in peers) / 2
    for kind in ("steady", "overhead"):
        if kind in measures:
            yield Step(kind, name, peers, waits + rounds * len(peers))
    if "recording" in measures and "tracejit" in peers:
        yield Step("recording", name, (EAGER, "tracejit", CONTROL), 4 + 3 * rounds)

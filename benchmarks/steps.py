"""What a run consists of: its settings, and its processes in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracejit.benchmarks.children import LIMIT
from tracejit.benchmarks.peers import CONTROL, EAGER, PEERS
from tracejit.benchmarks.registry import Workload

STARTING = {"startup", "memory"}  # what a start measures
PREPARING = "pointwise"  # the workload of a first use, as tiny as it is


@dataclass(frozen=True)
class Settings:
    """What to measure and how long. An empty device: CUDA if there is one."""

    workloads: tuple[Workload, ...]
    peers: tuple[str, ...]
    measures: tuple[str, ...]
    rounds: int = 30
    seconds: float = 0.04  # of a block of calls
    starts: int = 3  # of each kind at most, in processes of their own
    device: str = ""
    threads: int = 0
    limit: float = LIMIT


@dataclass(frozen=True)
class Step:
    """One process: a start of one peer ("prepare", "cold", "warm"), or a measure of all ("steady",
    "overhead", "recording")."""

    kind: str
    workload: str
    peers: tuple[str, ...]
    weight: float  # seconds that it may take, for the time left

    @property
    def words(self) -> str:
        """`gpt: torch.compile, cold start`."""
        if self.kind == "prepare":
            return f"{self.peers[0]}: its first use here (not timed)"
        if self.kind in ("cold", "warm"):
            return f"{self.workload}: {self.peers[0]}, {self.kind} start"
        return f"{self.workload}: {self.kind}"


def steps(settings: Settings, peers: tuple[str, ...]) -> list[Step]:
    """All processes of a run of these peers, in order."""
    found = []
    if STARTING & set(settings.measures):
        ready = [name for name in peers if PEERS[name].prepares]
        found += [Step("prepare", PREPARING, (name,), PEERS[name].guess[0]) for name in ready]
    for workload in settings.workloads:
        found += list(_steps(settings, workload.name, peers))
    return found


def _steps(settings: Settings, workload: str, peers: tuple[str, ...]) -> Iterator[Step]:
    if STARTING & set(settings.measures):
        for name in peers:
            cold, warm = PEERS[name].guess
            yield Step("cold", workload, (name,), cold)
            if PEERS[name].stored:
                yield Step("warm", workload, (name,), warm)
    rounds = settings.rounds * settings.seconds * 1.5
    waits = sum(PEERS[name].guess[1] for name in peers) / 2
    for kind in ("steady", "overhead"):
        if kind in settings.measures:
            yield Step(kind, workload, peers, waits + rounds * len(peers))
    if "recording" in settings.measures and "tracejit" in peers:
        yield Step("recording", workload, (EAGER, "tracejit", CONTROL), 4 + 3 * rounds)

"""A process for each peer, and rounds in which each has its turn while the others wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tracejit.benchmarks.children import Child, Died
from tracejit.benchmarks.job import Event, Outcome
from tracejit.benchmarks.peers import EAGER, PEERS
from tracejit.benchmarks.registry import Pace
from tracejit.benchmarks.timing import WARM, order

LEAST = 5  # rounds, however slow the calls are


@dataclass
class Found:
    """What became of each peer of a workload, and the bytes that its calls move at least (0: not
    known)."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    moved: int = 0

    def ok(self, names: Iterable[str]) -> list[str]:
        """Those of these that have not failed."""
        return [name for name in names if self.outcomes[name].status == "ok"]


class Team:
    """Children that serve. One that dies or hangs is out for the workload, and another takes its
    place for the next."""

    def __init__(self, start: Callable[[str], Child]) -> None:
        self.start = start
        self.children: dict[str, Child] = {}

    def close(self) -> None:
        """End them all."""
        for name in list(self.children):
            self.children.pop(name).close()

    def measure(self, workload: str, measure: str, peers: Sequence[str], pace: Pace) -> Found:
        """Samples of interleaved rounds. Without eager there is nothing to compare with: no peer
        has any."""
        found = Found({name: Outcome(name) for name in peers})
        self.open(found, workload, measure)
        if EAGER in found.ok(peers):
            self.rounds(found, pace)
        eager = found.outcomes[EAGER]
        for name in found.ok(peers) if eager.status != "ok" else ():
            found.outcomes[name] = Outcome(name, "failed", f"eager: {eager.why}")
        self.each(found, found.ok(peers), lambda name: {"do": "close"})
        return found

    def open(self, found: Found, workload: str, measure: str) -> None:
        """Compile and judge: at the same time, but for peers that time what they compile."""
        asked = {"do": "open", "workload": workload, "measure": measure}
        names = list(found.outcomes)
        together = [name for name in names if not PEERS[name].tunes]
        for name in together:
            self.send(name, asked)
        answers = {name: self.answer(found, name) for name in together}
        answers |= {n: self.ask(found, n, asked) for n in names if n not in together}
        for name, answer in answers.items():
            if answer is not None:
                found.outcomes[name] = Outcome(**answer["outcome"])
                found.moved = max(found.moved, answer["bytes"] if name == EAGER else 0)

    def rounds(self, found: Found, pace: Pace) -> None:
        """Time a block of every peer in each round, in the round's order."""
        names = found.ok(found.outcomes)
        sizes = self.each(found, names, lambda name: {"do": "size", "seconds": pace.seconds})
        taken = max(((1 + WARM) * size["seconds"] for size in sizes.values()), default=0.0)
        for turn in range(rounds_of(pace, taken)):
            turned = order(found.ok(names), turn)
            blocks = self.each(
                found, turned, lambda name: {"do": "block", "calls": sizes[name]["calls"]}
            )
            for name, block in blocks.items():
                found.outcomes[name].series.setdefault("call", []).append(block["seconds"])

    def each(
        self, found: Found, names: Iterable[str], asked: Callable[[str], Event]
    ) -> dict[str, Event]:
        """The answers of these to an order, one after the other."""
        answers = {name: self.ask(found, name, asked(name)) for name in names}
        return {name: answer for name, answer in answers.items() if answer is not None}

    def ask(self, found: Found, name: str, asked: Event) -> Event | None:
        """One's answer to an order."""
        self.send(name, asked)
        return self.answer(found, name)

    def send(self, name: str, asked: Event) -> None:
        """Give an order, if need be to a new child."""
        if name not in self.children:
            self.children[name] = self.start(name)
        self.children[name].send(asked)

    def answer(self, found: Found, name: str) -> Event | None:
        """One's answer; None if it died, which is its outcome then."""
        try:
            return self.children[name].answer()
        except Died as died:
            self.children.pop(name).close()
            found.outcomes[name] = Outcome(name, "failed", str(died))
            return None


def rounds_of(pace: Pace, taken: float) -> int:
    """How many rounds there are if the slowest peer takes so many seconds in each."""
    if not pace.total:
        return pace.rounds
    return max(min(LEAST, pace.rounds), min(pace.rounds, int(pace.total / max(taken, 1e-9))))

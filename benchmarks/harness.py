"""A run of the harness: the steps, in an order in which one fills the caches that the next uses,
with processes of their own."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tracejit.benchmarks import machine
from tracejit.benchmarks.children import Child, Died, events
from tracejit.benchmarks.document import MEASURES, UNITS, Document, Row
from tracejit.benchmarks.job import Event, Job, Outcome
from tracejit.benchmarks.peers import EAGER, PEERS
from tracejit.benchmarks.progress import Progress
from tracejit.benchmarks.registry import Workload
from tracejit.benchmarks.steps import PREPARING, Settings, Step, steps
from tracejit.benchmarks.team import Team
from tracejit.runtime.errors import TracejitError

# What a series of a start is called in the rows: (measure, series) by state.
STARTS: dict[str, dict[str, tuple[str, str]]] = {
    "cold": {
        "import torch": ("startup", "import torch"),
        "import": ("startup", "import"),
        "own": ("startup", "cold"),
        "first call": ("startup", "cold first call"),
        "memory start": ("memory", "cold start"),
        "memory steady": ("memory", "cold steady"),
    },
    "warm": {
        "own": ("startup", "warm"),
        "first call": ("startup", "warm first call"),
        "memory start": ("memory", "warm start"),
        "memory steady": ("memory", "warm steady"),
    },
}


NO_PEAK = "the system keeps no peak that can be set back (/proc/self/clear_refs)"
ENOUGH = 7.0  # seconds, after which no further start of the kind is made


class NoDevice(TracejitError, RuntimeError):
    """The device that was asked for is not here."""

    template = "torch sees no {device} device here: leave out --device {device}"


@dataclass
class Harness:
    """Runs the steps; all its files are below `folder`."""

    settings: Settings
    folder: Path
    progress: Progress
    given_up: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    teams: dict[str, Team] = field(default_factory=dict)  # the one at work, by its name
    workloads: dict[str, Workload] = field(default_factory=dict)

    def run(self) -> Document:
        """Measure everything. Raises NoDevice."""
        seen = self.probe()
        self.settings = replace(self.settings, device=seen["device"], threads=seen["threads"])
        self.workloads = {w.name: w for w in self.settings.workloads}
        missing = {name: seen["peers"][name]["missing"] for name in self.settings.everyone}
        document = self.document(seen)
        todo = steps(self.settings, [name for name, why in missing.items() if not why])
        try:
            self.take_all(todo, document)
        finally:
            self.dismiss()
        self.miss(missing)
        document.rows = sorted(self.rows.values(), key=self.place)
        return document

    def take_all(self, todo: list[Step], document: Document) -> None:
        """Do the steps in order; what is used no more is removed."""
        with self.progress.over([(step.words, step.weight) for step in todo]):
            for place, step in enumerate(todo):
                self.progress.begin(place)
                self.take(step, document)
                later = todo[place + 1].workload if place + 1 < len(todo) else ""
                if step.kind == "prepare" or step.workload != later:
                    shutil.rmtree(self.caches(step.workload), ignore_errors=True)

    def probe(self) -> dict[str, Any]:
        """What a first child sees of device, threads and peers."""
        job = self.job("probe", "", self.settings.everyone)
        for event in self.events(job):
            if "seen" in event:
                seen: dict[str, Any] = event["seen"]
        if not seen["device"]:
            raise NoDevice(device=self.settings.device)
        return seen

    def document(self, seen: dict[str, Any]) -> Document:
        """The document without rows."""
        chosen, everyone = self.settings, self.settings.everyone
        taken = [chosen.measures_of(workload) for workload in chosen.workloads]
        return Document(
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            device=seen["device"],
            threads=seen["threads"],
            load=machine.load(),
            machine=machine.machine() | ({"gpu": seen["gpu"]} if seen["gpu"] else {}),
            versions=machine.versions(),
            variables=machine.variables(),
            settings={
                "measures": [m for m in MEASURES if any(m in found for found in taken)],
                "quick": chosen.quick,
                "starts": chosen.starts,
                "paces": {w.suite or "single": asdict(chosen.pace_of(w)) for w in chosen.workloads},
            },
            peers={n: {k: seen["peers"][n][k] for k in ("note", "remark")} for n in everyone},
            workloads={w.name: w.about for w in chosen.workloads},
        )

    def job(self, kind: str, workload: str, peers: tuple[str, ...], tiny: bool = False) -> Job:
        chosen = self.settings
        return Job(
            kind=kind,
            device=chosen.device,
            threads=chosen.threads,
            workload=workload,
            peers=peers,
            caches=str(self.caches(workload)),
            tiny=tiny,
        )

    def events(self, job: Job) -> Iterator[Event]:
        """What a child with this job tells. Raises Died."""
        return events(job, str(self.folder), self.settings.limit)

    def caches(self, name: str) -> Path:
        """Of a workload, or of a team."""
        return self.folder / "caches" / (name or "none")

    def take(self, step: Step, document: Document) -> None:
        """Do one step; what it found is in `rows` or in the document then."""
        if step.kind == "stream":
            self.stream(document)
        elif step.kind == "prepare":
            self.started(PREPARING, step.peers[0], tiny=True)
        elif step.kind in STARTS:
            self.start(step)
        else:
            self.measure(step, document)

    def stream(self, document: Document) -> None:
        """Add samples of the memory's speed; none if their child dies."""
        self.dismiss()
        with contextlib.suppress(Died):
            for event in self.events(self.job("stream", "", ())):
                for name, found in event["stream"].items():
                    document.bandwidth.setdefault(name, []).extend(found)

    def start(self, step: Step) -> None:
        """Starts of one peer, each cold one on empty caches: several if they are quick. A peer that
        fails is not asked again for this workload."""
        (peer,) = step.peers
        begin = time.monotonic()
        for turn in range(self.settings.starts):
            late = turn > 0 and time.monotonic() - begin > ENOUGH
            if late or (step.workload, peer) in self.given_up:
                return
            if step.kind == "cold":
                shutil.rmtree(self.caches(step.workload) / peer, ignore_errors=True)
            self.enter_start(step, self.started(step.workload, peer))

    def started(self, workload: str, peer: str, tiny: bool = False) -> Outcome:
        """What became of one start."""
        outcome = Outcome(peer, "failed", "ended without a word")
        try:
            for event in self.events(self.job("start", workload, (peer,), tiny)):
                if "outcome" in event:
                    outcome = Outcome(**event["outcome"])
        except Died as died:
            outcome = Outcome(peer, "failed", str(died))
        return outcome

    def enter_start(self, step: Step, outcome: Outcome) -> None:
        """The rows of a start: of startup and of memory, as far as they are asked for."""
        series: dict[str, dict[str, list[float]]] = {"startup": {}, "memory": {}}
        for name, (measure, called) in STARTS[step.kind].items():
            if name in outcome.series:
                series[measure][called] = outcome.series[name]
        if outcome.status != "ok":
            self.given_up[step.workload, outcome.peer] = outcome
        for measure, found in series.items():
            self.enter(step.workload, measure, replace(outcome, series=found))
        if outcome.status == "ok" and not series["memory"]:
            self.enter(step.workload, "memory", Outcome(outcome.peer, "missing", NO_PEAK))

    def measure(self, step: Step, document: Document) -> None:
        """All peers in interleaved rounds, without those that have failed at their start."""
        peers, given_up = list(step.peers), self.given_up
        for peer in step.peers:
            if (step.workload, peer) in given_up:
                self.enter(step.workload, step.kind, given_up[step.workload, peer])
                peers.remove(peer)
        if EAGER not in peers:
            why = f"eager: {given_up[step.workload, EAGER].why}"
            for peer in peers:
                self.enter(step.workload, step.kind, Outcome(peer, "failed", why))
            return
        workload = self.workloads[step.workload]
        pace, team = self.settings.pace_of(workload), self.team(workload)
        found = team.measure(step.workload, step.kind, peers, pace)
        for outcome in found.outcomes.values():
            self.enter(step.workload, step.kind, outcome)
        if found.moved and step.kind == "steady":
            document.traffic[step.workload] = found.moved

    def team(self, workload: Workload) -> Team:
        """The workload's team; one of another name goes home."""
        name = workload.team or workload.name
        if name not in self.teams:
            self.dismiss()

            def start(peer: str) -> Child:
                job = replace(
                    self.job("serve", workload.name, (peer,)), caches=str(self.caches(name))
                )
                return Child(job, str(self.folder), self.settings.limit)

            self.teams[name] = Team(start)
        return self.teams[name]

    def dismiss(self) -> None:
        """End the processes of the team at work."""
        while self.teams:
            self.teams.popitem()[1].close()

    def enter(self, workload: str, measure: str, outcome: Outcome) -> None:
        """Make a row of an outcome, or add its series to the row that is there."""
        if measure not in self.settings.measures_of(self.workloads[workload]):
            return
        key = (workload, measure, outcome.peer)
        row = self.rows.setdefault(key, Row(*key, unit=UNITS[measure]))
        if outcome.status != "ok":
            row.status, row.why, row.series = outcome.status, outcome.why, {}
        elif row.status == "ok":
            for name, found in outcome.series.items():
                row.series[name] = row.series.get(name, []) + found

    def miss(self, missing: dict[str, str]) -> None:
        """Rows that say why a peer was not measured: it is not here although it was asked for, or
        has no such workload."""
        for workload in self.settings.workloads:
            for peer in self.settings.peers_of(workload):
                absent = missing[peer] if self.settings.peers else ""
                why = absent or ("" if missing[peer] else PEERS[peer].lacks(workload))
                for measure in self.settings.measures_of(workload) if why else ():
                    if measure != "recording" or peer == "tracejit":
                        self.enter(workload.name, measure, Outcome(peer, "missing", why))

    def place(self, row: Row) -> tuple[int, int, int]:
        """Where a row stands: by measure, workload, peer."""
        places = (list(MEASURES), list(self.workloads), list(PEERS))
        found = [names.index(n) for names, n in zip(places, (row.measure, row.workload, row.peer))]
        return found[0], found[1], found[2]

"""A run of the harness: the steps, each a process of its own, in an order in which one fills the
caches that the next uses."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tracejit.benchmarks import machine
from tracejit.benchmarks.children import Died, events
from tracejit.benchmarks.document import UNITS, Document, Row
from tracejit.benchmarks.job import Event, Job, Outcome
from tracejit.benchmarks.peers import EAGER
from tracejit.benchmarks.progress import Progress
from tracejit.benchmarks.steps import PREPARING, Settings, Step, steps
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

    def run(self) -> Document:
        """Measure everything. Raises NoDevice."""
        seen = self.probe()
        self.settings = replace(self.settings, device=seen["device"])
        peers = tuple(n for n in self.settings.peers if not seen["peers"][n]["missing"])
        document = self.document(seen)
        todo = steps(self.settings, peers)
        with self.progress.over([(step.words, step.weight) for step in todo]):
            for place, step in enumerate(todo):
                self.progress.begin(place)
                self.take(step)
                later = todo[place + 1].workload if place + 1 < len(todo) else ""
                if step.kind == "prepare" or step.workload != later:
                    shutil.rmtree(self.caches(step.workload), ignore_errors=True)
        for name in self.settings.peers:
            self.miss(name, seen["peers"][name]["missing"])
        document.rows = sorted(self.rows.values(), key=self.place)
        return document

    def probe(self) -> dict[str, Any]:
        """What a first child sees of device, threads and peers."""
        job = self.job("probe", "", tuple(self.settings.peers))
        for event in events(job, str(self.folder), self.settings.limit):
            if "seen" in event:
                seen: dict[str, Any] = event["seen"]
        if not seen["device"]:
            raise NoDevice(device=self.settings.device)
        return seen

    def document(self, seen: dict[str, Any]) -> Document:
        """The document without rows."""
        chosen = self.settings
        return Document(
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            device=seen["device"],
            threads=seen["threads"],
            load=machine.load(),
            machine=machine.machine() | ({"gpu": seen["gpu"]} if seen["gpu"] else {}),
            versions=machine.versions(),
            variables=machine.variables(),
            settings={
                "measures": list(chosen.measures),
                "rounds": chosen.rounds,
                "seconds_of_a_block": chosen.seconds,
                "starts": chosen.starts,
            },
            peers={n: {k: seen["peers"][n][k] for k in ("note", "remark")} for n in chosen.peers},
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
            rounds=chosen.rounds,
            seconds=chosen.seconds,
        )

    def events(self, job: Job) -> Iterator[Event]:
        """What a child with this job tells. Raises Died."""
        return events(job, str(self.folder), self.settings.limit)

    def caches(self, workload: str) -> Path:
        return self.folder / "caches" / (workload or "none")

    def take(self, step: Step) -> None:
        """Do one step; its rows are in `rows` then."""
        if step.kind == "prepare":
            self.started(PREPARING, step.peers[0], tiny=True)
        elif step.kind in STARTS:
            self.start(step)
        else:
            kind = "recording" if step.kind == "recording" else "rounds"
            self.measure(step, self.job(kind, step.workload, step.peers, step.kind == "overhead"))

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

    def measure(self, step: Step, job: Job) -> None:
        """All peers in one process. One in whose turn it dies or hangs is left out, and the others
        are measured without it."""
        for peer in job.peers:
            if (step.workload, peer) in self.given_up:
                self.enter(step.workload, step.kind, self.given_up[step.workload, peer])
        left = tuple(p for p in job.peers if (step.workload, p) not in self.given_up)
        if EAGER not in left:  # nothing to compare with
            why = f"eager: {self.given_up[step.workload, EAGER].why}"
            for peer in left:
                self.enter(step.workload, step.kind, Outcome(peer, "failed", why))
            return
        busy = ""
        while left:
            try:
                found = []
                for event in self.events(replace(job, peers=left)):
                    busy = event.get("peer", "" if "round" in event else busy)
                    found += [Outcome(**event["outcome"])] if "outcome" in event else []
                for outcome in found:
                    self.enter(step.workload, step.kind, outcome)
                return
            except Died as died:
                at_fault = (busy,) if busy and busy != EAGER else left
                for peer in at_fault:
                    self.enter(step.workload, step.kind, Outcome(peer, "failed", str(died)))
                left = tuple(peer for peer in left if peer not in at_fault)

    def enter(self, workload: str, measure: str, outcome: Outcome) -> None:
        """Make a row of an outcome, or add its series to the row that is there."""
        if measure not in self.settings.measures:
            return
        key = (workload, measure, outcome.peer)
        row = self.rows.setdefault(key, Row(*key, unit=UNITS[measure]))
        if outcome.status != "ok":
            row.status, row.why, row.series = outcome.status, outcome.why, {}
        elif row.status == "ok":
            for name, found in outcome.series.items():
                row.series[name] = row.series.get(name, []) + found

    def miss(self, peer: str, why: str) -> None:
        """Rows that say why this peer was not measured, if it was not."""
        for workload in self.settings.workloads if why else ():
            for measure in self.settings.measures:
                if measure != "recording" or peer == "tracejit":
                    self.enter(workload.name, measure, Outcome(peer, "missing", why))

    def place(self, row: Row) -> tuple[int, int, int]:
        """Where a row stands: by measure, workload, peer, in the order in which they were given."""
        names = [w.name for w in self.settings.workloads]
        return (
            self.settings.measures.index(row.measure),
            names.index(row.workload),
            self.settings.peers.index(row.peer),
        )

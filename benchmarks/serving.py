"""A peer's process that serves many workloads, one at a time: it opens one, is told how long a
block is, times blocks when it is its turn, and closes it."""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

from tracejit.benchmarks import timing
from tracejit.benchmarks.job import Event, Job, Outcome, Tell, one_line
from tracejit.benchmarks.measures import built, import_torch, judge, own, waiting
from tracejit.benchmarks.memory import give_back
from tracejit.benchmarks.peer import Peer
from tracejit.benchmarks.peers import PEERS
from tracejit.benchmarks.registry import Work, registered
from tracejit.benchmarks.traffic import traffic

TRIAL_CALLS = 3  # before a result is compared: the first may be eager's own


def serve(job: Job, tell: Tell, orders: Iterator[Event]) -> None:
    """Answer orders until the parent is gone."""
    import_torch(job.threads)
    import torch

    server = Server(PEERS[job.peers[0]], job)
    with torch.no_grad():
        for order in orders:
            tell(getattr(server, order.pop("do"))(**order))
    server.close()


class Server:
    """What one peer has open. Each method is an order, and returns the answer."""

    def __init__(self, peer: Peer, job: Job) -> None:
        self.peer, self.job = peer, job
        self.call: timing.Call = timing.nothing
        self.opened = False
        self.wait = waiting(job.device)

    def open(self, workload: str, measure: str) -> Event:
        """The outcome, without samples: whether its results are eager's. Beside it the bytes that a
        call must move, if that bounds it."""
        self.close()
        self.opened = True
        job = replace(self.job, workload=workload, tiny=measure == "overhead")
        found, moved = Outcome(self.peer.name), 0
        try:
            work = built(job)
            if measure == "recording" and self.peer.name == "tracejit":
                self.call = recording(work, found)
            else:
                self.call, moved = self.ready(work, job, found)
        except Exception as error:  # a peer's, of any type: it is the outcome
            found = Outcome(self.peer.name, "failed", one_line(error))
        gc.collect()
        gc.freeze()  # a collection in a block then looks at what the block made only
        return {"outcome": asdict(found), "bytes": moved}

    def ready(self, work: Work, job: Job, found: Outcome) -> tuple[timing.Call, int]:
        """The call, compiled and judged, and the bytes that it must move."""
        peer, row = self.peer, registered()[job.workload]
        peer.load(job.threads)
        args = peer.inputs(work)
        compiled = peer.compile(peer.version(work, row.port), job.device)
        for _ in range(TRIAL_CALLS):
            result = compiled(*args)
        result = own(peer.result(result), work.args)
        eager = work.function(*work.args)
        judge(found, peer, compiled, result, eager)
        return (lambda: compiled(*args)), traffic(work, eager) if row.streams else 0

    def size(self, seconds: float) -> Event:
        """How many calls take about so many seconds, and how long they took."""
        calls = timing.calls_for(self.call, seconds, self.wait)
        once = timing.block(self.call, 1, self.wait)
        return {"calls": calls, "seconds": calls * once}

    def block(self, calls: int) -> Event:
        """Seconds of one of so many calls in a row."""
        return {"seconds": timing.block(self.call, calls, self.wait)}

    def close(self) -> Event:
        """Drop what is open."""
        if self.opened:
            self.call, self.opened = timing.nothing, False
            gc.unfreeze()
            self.peer.forget()
            gc.collect()
            give_back()  # each workload finds the same heap, whatever came before it
        return {}


def recording(work: Work, found: Outcome) -> Callable[[], Any]:
    """A call that is recorded and observed; the seconds of the first one are in `found`."""
    importlib.import_module("tracejit.firstcall")
    work.function(*work.args)
    begin = time.perf_counter()
    record_once(work)
    found.series["first"] = [time.perf_counter() - begin]
    return lambda: record_once(work)


def record_once(work: Work) -> None:
    """One recorded and observed call, up to its guards. Raises RuntimeError if it is refused."""
    from tracejit.runtime.reasons import Reason
    from tracejit.trace.recorder import observed

    _, _, guards = observed(work.function, work.args, {})
    if isinstance(guards, Reason):
        raise RuntimeError(str(guards))

"""What a child process measures: a start, interleaved rounds, recording. Nothing that a peer
computed is believed before it equals eager's."""

from __future__ import annotations

import contextlib
import importlib
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tracejit.benchmarks import timing
from tracejit.benchmarks.job import Job, Outcome, Tell, one_line
from tracejit.benchmarks.memory import Allocated, Resident, gauge
from tracejit.benchmarks.peers import CONTROL, EAGER, PEERS, Function, Peer
from tracejit.benchmarks.registry import Work, registered

STEADY = (3, 20, 1.0)  # calls after a start: at least, at most, until so many seconds are over
TRIAL_CALLS = 3  # before a result is compared: the first may be eager's own


def import_torch(threads: int) -> float:
    """Seconds that importing torch takes in this process."""
    begin = time.perf_counter()
    import torch

    seconds = time.perf_counter() - begin
    if threads:
        torch.set_num_threads(threads)
    return seconds


def built(job: Job) -> Work:
    """The job's workload, with the same random numbers in each process, on its device."""
    import torch

    torch.manual_seed(0)
    work = registered()[job.workload].build(job.tiny)
    if job.device == "cpu":
        return work
    if isinstance(work.function, torch.nn.Module):
        work.function.to(job.device)
    return Work(work.function, tuple(a.to(job.device) for a in work.args))


def waiting(device: str) -> timing.Call:
    """What to call to wait for the device."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else timing.nothing


@contextlib.contextmanager
def environment(peer: Peer, caches: str) -> Iterator[None]:
    """The peer's variables in force."""
    wanted = peer.environment(Path(caches) / peer.name)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def start(job: Job, tell: Tell) -> None:
    """One peer's first two calls in this process, and what memory they and later ones take."""
    import_seconds = import_torch(job.threads)
    import torch

    peer, work = PEERS[job.peers[0]], built(job)
    found = Outcome(peer.name, series={"import torch": [import_seconds]})
    tell({"peer": peer.name})
    try:
        with torch.no_grad(), environment(peer, job.caches):
            _start(found, peer, work, job.device)
    except Exception as error:
        found = Outcome(peer.name, "failed", one_line(error))
    tell({"outcome": asdict(found)})


def _start(found: Outcome, peer: Peer, work: Work, device: str) -> None:
    """Fill in the figures of a start. A wrong result makes them void."""
    memory, wait, clock = gauge(device), waiting(device), time.perf_counter
    before, counted = memory.now(), memory.restart()
    begin = clock()
    peer.load()
    compiled = peer.compile(work.function, device)
    imported = clock()
    compiled(*work.args)
    wait()
    first = clock()
    compiled(*work.args)
    wait()
    second = clock()
    most = memory.peak() - before
    later, result = _later(compiled, work, wait, memory)
    usual = statistics.median(later)
    found.series |= {
        "import": [imported - begin],
        "own": [second - imported - 2 * usual],
        "first call": [first - imported],
        "steady": later,
    }
    if counted:
        found.series |= {"memory start": [most], "memory steady": [memory.peak() - before]}
    _judge(found, peer, compiled, result, work.function(*work.args))


def _later(
    compiled: Function, work: Work, wait: timing.Call, memory: Resident | Allocated
) -> tuple[list[float], Any]:
    """Seconds of steady calls, and the result of the last; memory's peak is theirs alone."""
    least, most, limit = STEADY
    memory.restart()
    seconds: list[float] = []
    result: Any = None
    while len(seconds) < least or (len(seconds) < most and sum(seconds) < limit):
        begin = time.perf_counter()
        result = compiled(*work.args)
        wait()
        seconds.append(time.perf_counter() - begin)
    return seconds, result


def _judge(found: Outcome, peer: Peer, compiled: Function, result: Any, eager: Any) -> None:
    """Take the figures back if the result is not eager's, or not what it is measured as."""
    from tracejit.benchmarks.equality import difference

    wrong, fault = difference(result, eager), peer.fault(compiled)
    if wrong or fault:
        found.status, found.why = ("wrong", wrong) if wrong else ("failed", fault)
        found.series = {}


def rounds(job: Job, tell: Tell) -> None:
    """Seconds per call of all the job's peers, in interleaved rounds."""
    import_torch(job.threads)
    import torch

    work = built(job)
    with torch.no_grad():
        candidates: dict[str, timing.Call] = {}
        for name in job.peers:
            tell({"peer": name})
            outcome, call = ready(PEERS[name], work, job)
            if call is None:
                tell({"outcome": asdict(outcome)})
            else:
                candidates[name] = call
        for found in in_rounds(candidates, job, tell):
            tell({"outcome": asdict(found)})


def ready(peer: Peer, work: Work, job: Job) -> tuple[Outcome, timing.Call | None]:
    """The peer's call, compiled and equal to eager's; None if there is none, and why not."""
    found = Outcome(peer.name)
    try:
        with environment(peer, job.caches):
            peer.load()
            compiled = peer.compile(work.function, job.device)
            result = [compiled(*work.args) for _ in range(TRIAL_CALLS)][-1]
            _judge(found, peer, compiled, result, work.function(*work.args))
    except Exception as error:
        found = Outcome(peer.name, "failed", one_line(error))
    return found, (lambda: compiled(*work.args)) if found.status == "ok" else None


def in_rounds(candidates: Mapping[str, timing.Call], job: Job, tell: Tell) -> list[Outcome]:
    """The outcome of each candidate. Before each round the parent is told, so that it waits on."""
    timed = timing.interleaved(
        candidates,
        job.rounds,
        job.seconds,
        waiting(job.device),
        lambda turn: tell({"round": turn}),
    )
    return [Outcome(name, series={"call": seconds}) for name, seconds in timed.samples.items()]


def recording(job: Job, tell: Tell) -> None:
    """Seconds of a call that is recorded and observed, beside eager's."""
    import_torch(job.threads)
    import torch

    work = built(job)
    tell({"peer": "tracejit"})
    with torch.no_grad():
        work.function(*work.args)
        importlib.import_module("tracejit.firstcall")
        begin = time.perf_counter()
        try:
            record_once(work)
        except Exception as error:
            tell({"outcome": asdict(Outcome("tracejit", "failed", one_line(error)))})
            return
        first = time.perf_counter() - begin
        eager = PEERS[EAGER].compile(work.function, job.device)
        candidates: dict[str, timing.Call] = {
            EAGER: lambda: eager(*work.args),
            "tracejit": lambda: record_once(work),
            CONTROL: lambda: eager(*work.args),
        }
        for found in in_rounds(candidates, job, tell):
            if found.peer == "tracejit":
                found.series["first"] = [first]
            tell({"outcome": asdict(found)})


def record_once(work: Work) -> None:
    """One recorded and observed call, up to its guards. Raises RuntimeError if it is refused."""
    from tracejit.runtime.reasons import Reason
    from tracejit.trace.observe import Observer
    from tracejit.trace.recorder import record

    observer = Observer(work.function, work.args, {})
    _, made = record(work.function, work.args, {}, observer=observer)
    if made.refused is not None:
        observer.release()
        raise RuntimeError(str(made.refused))
    guards = observer.finish(made.sources)
    if isinstance(guards, Reason):
        raise RuntimeError(str(guards))


def probe(job: Job, tell: Tell) -> None:
    """What is here: versions, devices, threads, and for each peer what it does."""
    import_torch(job.threads)
    from tracejit.benchmarks.machine import seen_by_torch

    tell({"seen": seen_by_torch(job.device)})

"""What a child process of one job measures: a start, the machine's memory, what is here. Nothing
that a peer computed is believed before it equals eager's."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

from tracejit.benchmarks import timing
from tracejit.benchmarks.job import Job, Outcome, Tell, one_line
from tracejit.benchmarks.memory import Allocated, Resident, gauge
from tracejit.benchmarks.peer import Function, Peer
from tracejit.benchmarks.peers import PEERS
from tracejit.benchmarks.registry import Work, registered

STEADY = (3, 20, 1.0)  # calls after a start: at least, at most, until so many seconds are over


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
    return replace(work, args=tuple(a.to(job.device) for a in work.args))


def waiting(device: str) -> timing.Call:
    """What to call to wait for the device."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else timing.nothing


def start(job: Job, tell: Tell) -> None:
    """One peer's first two calls in this process, and what memory they and later ones take."""
    import_seconds = import_torch(job.threads)
    import torch

    peer, work = PEERS[job.peers[0]], built(job)
    found = Outcome(peer.name, series={"import torch": [import_seconds]})
    try:
        with torch.no_grad():
            _start(found, peer, work, job)
    except Exception as error:  # a peer's, of any type: it is the outcome
        found = Outcome(peer.name, "failed", one_line(error))
    tell({"outcome": asdict(found)})


def _start(found: Outcome, peer: Peer, work: Work, job: Job) -> None:
    """Fill in the figures of a start. A wrong result makes them void."""
    memory, wait, clock = gauge(job.device), waiting(job.device), time.perf_counter
    before, counted = memory.now(), memory.restart()
    begin = clock()
    peer.load(job.threads)
    imported = clock()
    args, function = peer.inputs(work), peer.version(work, registered()[job.workload].port)
    wrapped = clock()
    compiled = peer.compile(function, job.device)
    called = clock()
    compiled(*args)
    wait()
    first = clock()
    compiled(*args)
    wait()
    second = clock()
    most = memory.peak() - before
    later, result = _later(lambda: compiled(*args), wait, memory)
    found.series |= {
        "import": [imported - begin + called - wrapped],
        "own": [second - called - 2 * min(later)],
        "first call": [first - called],
        "steady": later,
    }
    if counted:
        found.series |= {"memory start": [most], "memory steady": [memory.peak() - before]}
    result = own(peer.result(result), work.args)
    judge(found, peer, compiled, result, work.function(*work.args))


def _later(
    call: timing.Call, wait: timing.Call, memory: Resident | Allocated
) -> tuple[list[float], Any]:
    """Seconds of steady calls, and the result of the last; memory's peak is theirs alone."""
    least, most, limit = STEADY
    memory.restart()
    seconds: list[float] = []
    result: Any = None
    while len(seconds) < least or (len(seconds) < most and sum(seconds) < limit):
        begin = time.perf_counter()
        result = call()
        wait()
        seconds.append(time.perf_counter() - begin)
    return seconds, result


def own(result: Any, args: Any) -> Any:
    """The result with copies of what shares memory with an argument, into which eager will write
    too before the two are compared."""
    from torch import Tensor
    from torch.utils import _pytree as pytree

    shared = {a.untyped_storage().data_ptr() for a in pytree.tree_leaves(args) if type(a) is Tensor}

    def kept(leaf: Any) -> Any:
        ours = isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() in shared
        return leaf.clone() if ours else leaf

    return pytree.tree_map(kept, result)


def judge(found: Outcome, peer: Peer, compiled: Function, result: Any, eager: Any) -> None:
    """Take the figures back if the result is not eager's, or not what it is measured as."""
    from tracejit.benchmarks.equality import difference

    wrong, fault = difference(result, eager, peer.foreign), peer.fault(compiled)
    if wrong or fault:
        found.status, found.why = ("wrong", wrong) if wrong else ("failed", fault)
        found.series = {}


def stream(job: Job, tell: Tell) -> None:
    """What this machine's memory moves in a second."""
    import_torch(job.threads)
    from tracejit.benchmarks.traffic import stream as measured

    tell({"stream": measured()})


def probe(job: Job, tell: Tell) -> None:
    """What is here: versions, devices, threads, and for each peer what it does."""
    import_torch(job.threads)
    from tracejit.benchmarks.machine import seen_by_torch

    tell({"seen": seen_by_torch(job.device)})

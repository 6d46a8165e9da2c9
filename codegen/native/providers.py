"""Which provider computes a matrix product or a convolution on this machine: `provider(sizes,
target)`.

Providers differ by up to 2× from processor to processor, so one of each class (codegen.native
.trials) is timed with each of them, the first time that one of the class is compiled here. The
times are kept in the cache beside the processor's name, for all processes.
"""

from __future__ import annotations

import time
from typing import TypedDict

import torch

from tracejit.codegen.native.trials import Call, Tensors, Trial, Wanted, trial
from tracejit.ir.dtypes import HALVES
from tracejit.ir.products import GENERATED, LIBRARY
from tracejit.runtime import cache, cpu, log, upkeep
from tracejit.runtime.files import Item, digest

Times = dict[str, float]  # provider -> microseconds


class Outcome(TypedDict):
    """Of a trial: the provider that is taken, and the time of each."""

    by: str
    microseconds: Times


_COLD = 4 << 20  # bytes of operands used in turn: a model's weights are not in the nearest cache
_ROUNDS = 4  # how often each provider is timed with each operand
_HOPELESS = 4.0  # times as slow as another in the first round: it is not timed again

_known: dict[str, dict[str, Outcome]] = {}  # by the key of the machine, then by class


def provider(wanted: Wanted, target: str) -> str:
    """GENERATED, LIBRARY (ATen) or ONEDNN for a product or a convolution of these sizes.

    For another machine's target nothing can be timed: it is generated, but for those of halves, for
    which libraries have instructions of their own.
    """
    if cpu.level_of(target).name not in cpu.host_levels():
        return LIBRARY if wanted.dtype in HALVES else GENERATED
    return outcome(trial(wanted), target)["by"]


def best(measured: Times, margin: float) -> str:
    """The provider to take; a generated kernel may take `margin` times the least time."""
    quickest = min(measured, key=measured.__getitem__)
    generated = measured.get(GENERATED, float("inf"))
    return GENERATED if generated <= margin * measured[quickest] else quickest


def outcome(trial: Trial, target: str) -> Outcome:
    """What a trial gave; it takes place if that is not known."""
    store, machine, name = cache.shared().store, _machine(target), trial.name
    known = _known.setdefault(machine, {})
    if name not in known:
        known.update(kept(target))
    if name not in known:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            times = _measure(trial, target)
        known[name] = {"by": best(times, trial.margin), "microseconds": times}
        log.say(log.CACHE, f"timed {name} on {cpu.host_name()}: {times} µs")
        fields = {"processor": cpu.host_name(), "target": target, "trials": known}
        store.write(upkeep.HOSTS, machine, Item(fields), cache.environment(target, ""))
    return known[name]


def kept(target: str) -> dict[str, Outcome]:
    """What has been measured on this machine, by class; nothing is measured."""
    item = cache.shared().store.read(upkeep.HOSTS, _machine(target))
    found: dict[str, Outcome] = item.fields["trials"] if item else {}
    return found


def _machine(target: str) -> str:
    """The key under which times are kept: all that changes them."""
    here = {"processor": cpu.host_name(), "threads": str(torch.get_num_threads())}
    return digest(cache.environment(target, ""), here)


def _measure(trial: Trial, target: str) -> Times:
    """The least time of each provider, taken in turns."""
    operands = [trial.make()]
    while len(operands) < 2 or len(operands) * sum(t.nbytes for t in operands[0]) < _COLD:
        operands.append(trial.make())
    calls = trial.calls(target)
    found: Times = {}
    for name, run in list(calls.items()):
        try:
            run(*operands[0])
        except RuntimeError:  # oneDNN was not built in, or has no such product on this processor
            del calls[name]
            continue
        found[name] = _seconds(run, operands[:1]) * 1e6
    least = min(found.values())
    for _ in range(_ROUNDS):
        for name, run in calls.items():
            if found[name] <= _HOPELESS * least:
                found[name] = min(found[name], _seconds(run, operands) * 1e6)
    return {name: round(value, 2) for name, value in found.items()}


def _seconds(run: Call, operands: list[Tensors]) -> float:
    """The least of several calls, each on other operands; the program may be running beside it."""
    times = []
    for each in operands:
        start = time.perf_counter()
        run(*each)
        times.append(time.perf_counter() - start)
    return min(times)

"""From what is stored to what runs: a record and its plan become a guard check, a plan and a way to
rebuild outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from tracejit.runtime import devices, log, outputs
from tracejit.runtime.cache import Cache, Record, StoredPlan
from tracejit.runtime.forks import gate
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.plan import Plan, Run, load, not_loaded
from tracejit.runtime.reasons import Failure
from tracejit.runtime.targets import Choice


@dataclass(frozen=True)
class Bound:
    """Everything that a call needs, and for explain what it came from."""

    plan: Plan
    recipe: outputs.Recipe
    stored: StoredPlan
    record: str
    target: str


def bind(guards: GuardSet, record: Record, stored: StoredPlan, choice: Choice) -> Bound:
    """Load a stored plan. Offline, its text is loaded and its kernels are not: the target is not
    here.

    Raises what loading raises: ValueError for a text that breaks the rules of plans, a device's own
    errors.
    """
    kernels: dict[str, Callable[..., Any]] = {}
    if choice.offline:
        kernels = dict.fromkeys(stored.kernels, not_loaded)
    else:
        with gate:  # it imports, and a fork may not cut that
            for name, kernel in stored.kernels.items():
                kernels[name] = devices.load(kernel.source, kernel.binary)
    plan = load(stored.text, stored.manifest, kernels, f"plan {stored.key[:12]}")
    if guards.state["grad mode"] and stored.manifest["externs"] and guards.leads_to_gradients():
        plan = replace(plan, run=_without_gradients(plan.run), shown=_without_gradients(plan.shown))
    return Bound(plan, outputs.spelled(record.outputs), stored, record.key, choice.target)


def _without_gradients(run: Run) -> Run:
    """A plan whose library calls get tensors that require gradients: its results do not."""

    def plain(inputs: Any) -> Any:
        with torch.no_grad():
            return run(inputs)

    return plain


def guards_of(
    store: Cache,
    function_key: str,
    record: Record,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> GuardSet | None:
    """The record's guards if they hold on this call; None otherwise."""
    try:
        guards = GuardSet.from_json(record.guards)
        values = guards.values(function, args, kwargs)
    except Exception as problem:  # of any type: what is on disk may be anything
        why = f"its guards are not readable: {problem!r}"
        store.store.set_aside("records", f"{function_key}/{record.key}", why)
        return None
    if isinstance(values, Failure):
        log.say(log.FUSION, f"stored record {record.key[:12]} does not fit: {values}")
        return None
    return guards


def bind_record(
    store: Cache, function_key: str, record: Record, guards: GuardSet, choice: Choice
) -> Bound | None:
    """The record's plan if it is whole; None otherwise."""
    stored = store.read_plan(record.plan)
    if stored is None:
        return None
    try:
        bound = bind(guards, record, stored, choice)
    except RuntimeError as problem:  # the device's, out of memory perhaps: the files are as written
        log.say(log.CACHE, f"plan {record.plan[:12]} cannot be loaded now: {problem}")
        return None
    except (Exception, SystemExit) as problem:  # not to be loaded here: all of it is made again
        why = f"it cannot be loaded: {problem!r}"
        store.store.set_aside("plans", record.plan, why)
        for kernel in stored.kernels.values():
            store.store.set_aside("kernels", kernel.key, why)
        return None
    store.used(function_key, record, [kernel.key for kernel in stored.kernels.values()])
    return bound

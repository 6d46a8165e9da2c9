"""Compile what a call recorded, store it, give it to the entry that waits for it."""

from __future__ import annotations

import functools
import itertools
import time
from typing import TYPE_CHECKING, Any

from tracejit import compiler
from tracejit.codegen.plan import place
from tracejit.compiler import StageFailed
from tracejit.entry import Entry
from tracejit.fuse.program import Decision, RunExtern, RunKernel
from tracejit.ir.graph import Graph, show_type
from tracejit.runtime import cache, log, together
from tracejit.runtime.bind import bind
from tracejit.runtime.cache import Kernel, Record, StoredPlan
from tracejit.runtime.errors import CompilerWarning
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.identity import function_key
from tracejit.runtime.targets import Choice
from tracejit.runtime.worker import Leaving
from tracejit.trace.recording import Recording

if TYPE_CHECKING:
    from tracejit.dispatch import Dispatcher


def complete(dispatcher: Dispatcher, entry: Entry, recording: Recording, choice: Choice) -> None:
    """Compile a recording, store the result, and give it to the entry. Never raises: a failure is
    the entry's."""
    start = time.perf_counter()
    store = cache.shared()
    stages = pipeline(dispatcher, choice.target)
    try:
        stored = compiled(stages, recording, entry.guards)
        entry.seconds["compile"] = time.perf_counter() - start
        record = keep(dispatcher, entry.guards, store, stored, recording, choice)
        entry.become(bind(entry.guards, record, stored, choice), choice.offline)
    except Leaving:
        return
    except Exception as error:  # the user's program goes on, and hears of it once
        fail(dispatcher, entry, error)
        return
    finally:
        show(stages)
    entry.seconds["total"] = time.perf_counter() - start
    log.say(
        log.CACHE,
        f"{dispatcher.name}: compiled for {choice.target}: {len(stored.kernels)} kernels, "
        f"{entry.took('compile')}, stored and loaded {entry.took('total')}",
    )


def pipeline(dispatcher: Dispatcher, target: str) -> compiler.Pipeline:
    """The stages of one compilation; `last_traces` shows how far they came."""
    title = f"{dispatcher.name} for {target}"
    stages = compiler.Pipeline(target, dispatcher.options.numerics, title)
    dispatcher.traces = stages.history
    return stages


def compiled(stages: compiler.Pipeline, recording: Recording, guards: GuardSet) -> StoredPlan:
    """Run the stages on a recording. Raises what they raise; `stages.history` keeps how far they
    came."""
    graph, numerics = recording.graph, stages.numerics
    assert graph is not None
    stages.binaries = functools.partial(together.binaries, cache.shared(), numerics)
    compiler.names_from(graph, guards.inputs)
    ops = captured(graph)
    built = stages.build(graph)
    show_decisions(built.program.decisions)
    stored = stored_plan(built, numerics, stages.target, graph_text(stages))
    stored.report.update(report(built, ops, stages))
    return stored


TEXTS = ("kernels", "plan")  # stages that make source, shown one level later than the passes


def show(stages: compiler.Pipeline) -> None:
    """Print what the debugging level asks for: the program after each pass, the source."""
    before = ""
    for stage in stages.history if log.enabled(log.PASSES) else ():
        level = log.SOURCE if stage.name in TEXTS else log.PASSES
        same = stage.text == before
        log.say(level, f"# {stage.name}: changes nothing" if same else str(stage))
        before = stage.text


def show_decisions(decisions: list[Decision]) -> None:
    """Print what was fused and what was not, and why."""
    for decision in decisions if log.enabled(log.FUSION) else ():
        verdict = "fused" if decision.fused else "not fused"
        log.say(log.FUSION, f"{verdict}: {decision.what}: {decision.reason}")


def keep(
    dispatcher: Dispatcher,
    guards: GuardSet,
    store: cache.Cache,
    stored: StoredPlan,
    recording: Recording,
    choice: Choice,
) -> Record:
    """The record that leads to the plan; both are stored if the guards mean something to another
    process."""
    data = {} if guards.local is not None else guards.to_json()
    written = cache.make_record(data, recording.outputs, stored.key, dispatcher.name)
    numerics = dispatcher.options.numerics
    where = cache.environment(choice.target, numerics)
    if data and store.write_plan(stored, where):
        function = function_key(dispatcher.function, choice.target, numerics)
        store.write_record(function, written, where)
    return written


def fail(dispatcher: Dispatcher, entry: Entry, error: Exception) -> None:
    """Note a failed stage in the entry and warn, once per function and stage."""
    failed = error if isinstance(error, StageFailed) else StageFailed("load", error)
    entry.fail(failed.reason, failed.cause)
    dispatcher.note(failed.reason)
    first = failed.reason.text.partition("\n")[0]
    text = (
        f"compiling {dispatcher.name} failed in stage {failed.stage!r} ({first}); it keeps running "
        "eagerly. tracejit.last_traces(f) shows the program up to there"
    )
    log.warn_once(text, CompilerWarning, f"{dispatcher.name} {failed.stage}")


def graph_text(stages: compiler.Pipeline) -> str:
    """The graph as it was recorded and as it was scheduled."""
    graphs = itertools.takewhile(lambda stage: stage.name != "schedule", stages.history)
    recorded, *_, last = graphs
    return f"# recorded\n{recorded.text}\n\n# after the passes\n{last.text}\n"


def stored_plan(built: compiler.Built, numerics: str, target: str, graph: str) -> StoredPlan:
    """What `built` is on disk."""
    kernels = {
        name: Kernel(cache.Cache.kernel_key(source, numerics), source, built.binaries[name])
        for name, source in built.kernels.items()
    }
    key = cache.plan_key(built.plan, built.manifest, kernels, target, numerics)
    return StoredPlan(key, built.plan, built.manifest, kernels, graph=graph)


def captured(graph: Graph) -> list[dict[str, str]]:
    """The recorded operations in order, as JSON: the first result's name and type, the user's
    line."""
    return [
        {
            "value": node.outputs[0].name if node.outputs else "",
            "op": node.op,
            "line": place(node.origin),
            "result": show_type(node.outputs[0]) if node.outputs else "",
        }
        for node in graph.nodes
    ]


def report(
    built: compiler.Built, ops: list[dict[str, str]], stages: compiler.Pipeline
) -> dict[str, Any]:
    """What explain shows of a compiled program, as JSON."""
    launches: dict[str, list[list[str]]] = {}
    externs = []
    for step in built.program.steps:
        if isinstance(step, RunKernel):
            launches.setdefault(step.nest.name, []).append(
                [place(o) for o in step.origins if o.file]
            )
        elif isinstance(step, RunExtern):
            externs.append([step.op, place(step.origin)])
    return {
        "captured": ops,
        "kernels": [_kernel_report(built, name, lines) for name, lines in launches.items()],
        "externs": externs,
        "decisions": [_decision_report(d) for d in built.program.decisions],
        "stages": [[stage.name, stage.seconds] for stage in stages.history],
    }


def _decision_report(decision: Decision) -> dict[str, Any]:
    sides = [
        [{"value": m.value, "name": m.name, "op": m.op, "line": place(m.origin)} for m in side]
        for side in decision.between
    ]
    return {
        "fused": decision.fused,
        "reason": decision.reason,
        "bytes_saved": decision.bytes_saved,
        "between": sides,
    }


def _kernel_report(built: compiler.Built, name: str, lines: list[list[str]]) -> dict[str, Any]:
    source, binary = built.kernels[name], built.binaries[name]
    facts = {"registers": binary.registers, "spills": binary.spills} if binary is not None else {}
    return {
        "name": name,
        "launches": len(lines),
        "lines": lines[0],
        "strategy": source.strategy,
        "reads": source.reads,
        "writes": source.writes,
        **facts,
    }

"""tracejit.explain and tracejit.last_traces: what became of a function, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from tracejit import reporttext
from tracejit.api import dispatcher_of
from tracejit.dispatch import Dispatcher
from tracejit.entry import Entry
from tracejit.runtime import cache, sharing
from tracejit.runtime.bind import Bound
from tracejit.runtime.cache import Kernel, StoredPlan
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.reasons import KINDS, Reason
from tracejit.runtime.worker import worker
from tracejit.sentences import sentences

if TYPE_CHECKING:
    from tracejit.compiler import Stage


@dataclass(frozen=True)
class Recompile:
    """The guard that did not hold, so that `entry` was needed. `check` is the guard's (or "state",
    "version", "sharing", "distinct" for what is no path, and "data" where a number computed from
    data decided otherwise at line `path`), `was` what had been recorded, `now` what the call had.
    """

    entry: int
    path: str
    check: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.path} was {self.was}, is {self.now}"


@dataclass(frozen=True)
class EntryReport:
    """One compiled specialisation: where it came from ("recorded", "disk", or "stored" for one that
    only lies there), its program in numbers, and its guards."""

    source: str
    state: str
    target: str = ""
    plan: str = ""
    record: str = ""
    hits: int = 0  # processes that found it on disk and started with it
    seconds: dict[str, float] = field(default_factory=dict)
    program: dict[str, Any] = field(default_factory=dict)
    guards: list[dict[str, Any]] = field(default_factory=list)
    ambient: dict[str, Any] = field(default_factory=dict)  # torch's state, guarded as a whole
    libraries: dict[str, str] = field(default_factory=dict)  # whose code ran, and their versions
    sharing: str = ""  # which inputs share memory, if the program writes to some
    tree: int = -1  # the first entry with the same guards: they differ in what the data decided
    decisions: list[Any] = field(default_factory=list)  # [the line, the outcome], in order
    plan_text: str = ""
    graph: str = ""  # as recorded, and after the passes
    manifest: dict[str, Any] = field(default_factory=dict)
    kernels: Mapping[str, Kernel] = field(default_factory=dict)

    @property
    def kernel_texts(self) -> dict[str, str]:
        """Each kernel's source by the name that the plan calls."""
        return {name: kernel.source.text for name, kernel in self.kernels.items()}

    def facts(self) -> dict[str, Any]:
        """The program as data: the field `program` of the entry in JSON."""
        program, choices = self.program, self.program.get("decisions", [])
        return {
            "ops": dict(Counter(each["op"] for each in program.get("captured", []))),
            "captured": program.get("captured", []),
            "kernels": [self._kernel(each) for each in program.get("kernels", [])],
            "library": [{"op": op, "line": line} for op, line in program.get("externs", [])],
            "refused": [_without_verdict(c) for c in choices if not c["fused"]],
            "fused": [_without_verdict(c) for c in choices if c["fused"]],
            "launches": self.manifest.get("launches", 0),
            "calls": self.manifest.get("calls", 0),
            "bytes": self.manifest.get("bytes", {}),
            "stages": [{"name": n, "seconds": s} for n, s in program.get("stages", [])],
        }

    def _kernel(self, data: dict[str, Any]) -> dict[str, Any]:
        """A kernel of the report, with what its file knows."""
        kernel = self.kernels.get(data["name"])
        if kernel is None:
            return data
        source, binary = kernel.source, kernel.binary
        return data | {
            "key": kernel.key,
            "grid": source.grid,
            "warps": source.num_warps,
            "tiles": source.constants,
            "registers": binary.registers if binary else None,
            "spills": binary.spills if binary else None,
            "shared": binary.shared if binary else None,
            "machine_code": len(binary.code) if binary else None,
            "compile_seconds": binary.seconds if binary else None,
            "text": source.text,
        }

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values; the keys are those that Explanation.to_json describes."""
        names = [each.name for each in fields(self) if each.name not in ("manifest", "kernels")]
        return {name: getattr(self, name) for name in names} | {"program": self.facts()}


@dataclass(frozen=True)
class Explanation:
    """What explain knows about a function. `str()` is for people, `to_json()` for programs."""

    name: str
    backend: str
    entries: list[EntryReport]
    fallbacks: list[Reason]
    recompiled: list[Recompile] = field(default_factory=list)
    parts: list[Explanation] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, with these keys.

        name, backend   the function, and the backend asked for
        entries         what was compiled, one for each set of guards:
          source          "recorded" (in this process), "disk" (a stored plan that this process
                          runs) or "stored" (one on disk, not run now)
          state           in words: the plan, or why there is none
          target, plan, record, hits    keys, and the processes that started with the record
          seconds         {"record", "compile", "total"} or {"load"}
          program         ops {op: how often}; captured [{value, op, line, result}], in order;
                          kernels [{name, launches, lines, strategy, reads, writes, key, grid,
                          warps, tiles, registers, spills, shared, machine_code, compile_seconds,
                          text}], with null where there is no machine code;
                          library [{op, line}]; refused and fused [{reason, bytes_saved, between:
                          two lists of {value, name, op, line}}]; launches, calls,
                          bytes {read, written, peak, allocated}; stages [{name, seconds}]
          guards          [{path, check, expected, text}]
          ambient         torch's state, guarded as a whole; libraries {name: version}; sharing
          tree            the number of the first entry with the same guards: its branches differ
                          in `decisions`, what the data decided: [[line, outcome]], in order
          plan_text       the plan's source; graph: the operations as recorded, and after passes
        fallbacks       calls that ran eagerly: [{kind, text, place, about}]
        parts           calls compiled on their own, because the whole runs eagerly: the same again
        recompiled      why each further entry was needed: [{entry, path, check, was, now, text}]
        """
        return {
            "name": self.name,
            "backend": self.backend,
            "entries": [entry.to_json() for entry in self.entries],
            "fallbacks": [r.to_json() | {"about": KINDS.get(r.kind, "")} for r in self.fallbacks],
            "parts": [part.to_json() for part in self.parts],
            "recompiled": [asdict(each) | {"text": str(each)} for each in self.recompiled],
        }

    def __str__(self) -> str:
        return "\n".join(reporttext.lines(self))


def _without_verdict(decision: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in decision.items() if name != "fused"}


def explain(function: Any, /, *args: Any, **kwargs: Any) -> Explanation:
    """What tracejit made of a compiled function, and why: operations, kernels, refusals, guards,
    recompilations.

    With arguments the function is called with them first (once, as the user would). Compilations
    under way are waited for. Raises NotCompiled for what tracejit.compile did not return.
    """
    dispatcher = dispatcher_of(function)
    if args or kwargs:
        function(*args, **kwargs)
    worker.drain()
    return _explained(dispatcher)


def _explained(dispatcher: Dispatcher) -> Explanation:
    made = dispatcher.parts.made.values() if dispatcher.parts is not None else ()
    return Explanation(
        dispatcher.name,
        dispatcher.options.backend,
        [_entry_report(entry) for entry in dispatcher.entries],
        list(dispatcher.reasons),
        _recompiled(dispatcher),
        [_explained(part.dispatcher) for part in made],
    )


def _recompiled(dispatcher: Dispatcher) -> list[Recompile]:
    """Why each entry after the first was needed."""
    return [
        Recompile(number, why.path, why.check, why.expected, why.found)
        for number, entry in enumerate(dispatcher.entries)
        if (why := entry.because) is not None
    ]


def _entry_report(entry: Entry) -> EntryReport:
    bound = entry.bound
    if bound is None:
        return EntryReport(entry.source, str(entry.reason), seconds=dict(entry.seconds))
    return EntryReport(
        source=entry.source,
        state=_state(entry, bound),
        target=bound.target,
        seconds=dict(entry.seconds),
        program=bound.stored.report or cache.shared().read_report(bound.stored.key),
        tree=entry.tree,
        decisions=entry.decisions,
        **plan_fields(bound.stored, bound.record),
        **guard_fields(entry.guards),
    )


def plan_fields(stored: StoredPlan, record: str) -> dict[str, Any]:
    """What an entry says of its plan."""
    return {
        "plan": stored.key,
        "record": record,
        "manifest": stored.manifest,
        "plan_text": stored.text,
        "kernels": stored.kernels,
        "graph": stored.graph,
        "hits": cache.shared().store.hits(record),
    }


def guard_fields(found: GuardSet) -> dict[str, Any]:
    """What an entry says of its guards."""
    words = sentences(found)
    return {
        "guards": [asdict(g) | {"text": text} for g, text in zip(found.guards, words, strict=True)],
        "ambient": dict(found.state),
        "libraries": dict(found.packages),
        "sharing": "" if found.groups is None else sharing.words(found.groups, found.inputs),
    }


def _state(entry: Entry, bound: Bound) -> str:
    """Which plan the entry has, and what is special about it."""
    notes = [str(entry.reason)] if entry.reason is not None else []
    if entry.guards.local is not None:
        notes.append("for this process only: a guard holds an object that no path reaches")
    return f"plan {bound.stored.key[:12]} for {bound.target}" + "".join(
        f" ({note})" for note in notes
    )


def last_traces(function: Any) -> list[Stage]:
    """The program after each stage of the function's last compilation in this process, also of one
    that failed: the stage's `name`, its `seconds`, the program as `text`.

    A plan that was found on disk was not compiled here: the list is empty.
    """
    dispatcher = dispatcher_of(function)
    worker.drain()
    return list(dispatcher.traces)

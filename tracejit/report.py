"""tracejit.explain and tracejit.last_traces: what became of a function, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tracejit.api import dispatcher_of
from tracejit.dispatch import Dispatcher, Entry
from tracejit.runtime import cache
from tracejit.runtime.bind import Bound
from tracejit.runtime.reasons import KINDS, Reason
from tracejit.runtime.worker import worker

MOST_GUARDS = 30  # shown in full by str()


@dataclass(frozen=True)
class Trace:
    """The program after one stage of the compiler: the stage's name, its seconds, the program as
    text."""

    name: str
    seconds: float
    text: str

    def __str__(self) -> str:
        return f"# {self.name} ({self.seconds * 1e3:.1f} ms)\n{self.text}"


@dataclass(frozen=True)
class EntryReport:
    """One compiled specialisation: where it came from, its program in numbers, and its guards."""

    source: str
    state: str
    target: str
    plan: str
    seconds: dict[str, float]
    program: dict[str, Any]
    guards: list[dict[str, Any]]
    manifest: dict[str, Any]
    plan_text: str = ""
    kernel_texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """What explain knows about a function. `str()` is for people, `to_json()` for programs."""

    name: str
    backend: str
    entries: list[EntryReport]
    fallbacks: list[Reason]
    recompiled: str = ""  # the guard that failed before the last recording: path, from, to

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.name} (backend={self.backend!r}): {plural(len(self.entries), 'compiled entry')}"
        ]
        for number, entry in enumerate(self.entries):
            lines += [
                "",
                f"entry {number}, {entry.source}: {entry.state}",
                *_indent(_entry_lines(entry)),
            ]
        if self.recompiled:
            lines += ["", f"last recorded again because {self.recompiled}"]
        if self.fallbacks:
            lines += ["", "calls that ran eagerly:"]
            lines += [f"  {_first_line(reason)}" for reason in self.fallbacks]
        return "\n".join(lines)


def plural(count: int, noun: str) -> str:
    """`1 kernel`, `3 kernels`, `2 entries`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("ry") else f"{count} {noun}s"


def _first_line(reason: Reason) -> str:
    """The reason's first line, and what its kind means."""
    first, _, more = str(reason).partition("\n")
    return f"{first}{' …' if more else ''}\n    ({KINDS.get(reason.kind, reason.kind)})"


def _indent(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _entry_lines(entry: EntryReport) -> list[str]:
    lines = []
    if entry.seconds:
        lines.append(
            ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in entry.seconds.items())
        )
    if entry.program:
        lines += _program_lines(entry)
    return lines + _guard_lines(entry.guards)


def _guard_lines(guards: list[dict[str, Any]]) -> list[str]:
    """Guards on tensors and constants in full, up to a number; the rest counted by kind."""
    told = [g for g in guards if g["check"] in ("tensor", "const")][:MOST_GUARDS]
    rest: dict[str, int] = {}
    for guard in guards:
        rest[guard["check"]] = rest.get(guard["check"], 0) + 1
    for guard in told:
        rest[guard["check"]] -= 1
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(rest.items()) if count)
    lines = [f"guards ({len(guards)}):", *(f"  {guard['text']}" for guard in told)]
    return lines + ([f"  and in to_json(): {counts}"] if counts else [])


def guard_text(path: str, check: str, expected: Any) -> str:
    """One guard in words: `x is float32[8, 32], strides [32, 1], on cpu`."""
    if check == "tensor" and isinstance(expected, dict):
        grad = ", requires grad" if expected.get("requires_grad") else ""
        return (
            f"{path} is {expected['dtype']}{expected['sizes']}, strides {expected['strides']}, "
            f"on {expected['device']}{grad}"
        )
    return f"{path} {check}" + ("" if expected is None else f" {expected}")


def _program_lines(entry: EntryReport) -> list[str]:
    program, manifest = entry.program, entry.manifest
    total = sum(program["ops"].values())
    often = sorted(program["ops"].items(), key=lambda item: (-item[1], item[0]))
    lines = [
        f"captured {plural(total, 'operation')}: " + ", ".join(f"{op} x{n}" for op, n in often),
        f"{plural(len(program['kernels']), 'kernel')}, {plural(manifest['launches'], 'launch')}, "
        f"{plural(manifest['calls'], 'library call')}; bytes read {manifest['bytes']['read']}, "
        f"written {manifest['bytes']['written']}, buffers at most {manifest['bytes']['peak']}",
    ]
    for kernel in program["kernels"]:
        again = f" x{kernel['launches']}" if kernel["launches"] > 1 else ""
        lines.append(f"  {kernel['name']}{again}: {kernel['strategy']}".rstrip(": "))
        lines += [f"    {line}" for line in kernel["lines"]]
    for op, line in program["externs"]:
        lines.append(f"  {op} (library){'  ' + line if line else ''}")
    refused = [d for d in program["decisions"] if not d["fused"]]
    if refused:
        lines.append("not fused:")
        lines += [f"  {d['what']}: {d['reason']}" for d in refused]
    return lines


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
    missed = dispatcher.missed
    return Explanation(
        dispatcher.name,
        dispatcher.options.backend,
        [_entry_report(entry) for entry in dispatcher.entries],
        list(dispatcher.reasons),
        "" if missed is None else str(missed),
    )


def _entry_report(entry: Entry) -> EntryReport:
    bound = entry.bound
    if bound is None:
        return EntryReport(entry.source, str(entry.reason), "", "", dict(entry.seconds), {}, [], {})
    guards = [
        asdict(guard) | {"text": guard_text(guard.path, guard.check, guard.expected)}
        for guard in bound.guards.guards
    ]
    return EntryReport(
        entry.source,
        _state(entry, bound),
        bound.target,
        bound.key,
        dict(entry.seconds),
        dict(bound.report) or cache.shared().read_report(bound.key),
        guards,
        bound.plan.manifest,
        bound.plan.text,
        {name: kernel.source.text for name, kernel in bound.kernels.items()},
    )


def _state(entry: Entry, bound: Bound) -> str:
    """Which plan the entry has, and what is special about it."""
    notes = [str(entry.reason)] if entry.reason is not None else []
    if bound.guards.process_local:
        notes.append("for this process only: a guard holds an object that no path reaches")
    return f"plan {bound.key[:12]} for {bound.target}" + "".join(f" ({note})" for note in notes)


def last_traces(function: Any) -> list[Trace]:
    """The program after each stage of the function's last compilation in this process, also of one
    that failed.

    A plan that was found on disk was not compiled here: the list is empty.
    """
    dispatcher: Dispatcher = dispatcher_of(function)
    worker.drain()
    return [Trace(stage.name, stage.seconds, stage.text) for stage in dispatcher.traces]

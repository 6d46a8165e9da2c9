"""tracejit.explain and tracejit.last_traces: what became of a function, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tracejit.api import dispatcher_of
from tracejit.dispatch import Dispatcher, Entry
from tracejit.runtime import cache, sharing
from tracejit.runtime.bind import Bound
from tracejit.runtime.reasons import KINDS, Reason
from tracejit.runtime.worker import worker
from tracejit.sentences import QUIET, sentences, state_words

MOST_GUARDS = 30  # shown in full by str()
MOST_NAMED = 4  # places or refusals with the same reason, shown by str()


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
    ambient: dict[str, Any] = field(default_factory=dict)  # torch's state, guarded as a whole
    libraries: dict[str, str] = field(default_factory=dict)  # whose code ran, and their versions
    sharing: str = ""  # which inputs share memory, if the program writes to some


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
    """`1 kernel`, `3 launches`, `2 entries`."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("ry"):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith('ch') else 's'}"


def _first_line(reason: Reason) -> str:
    """The reason's first line, and what its kind means."""
    first, _, more = str(reason).partition("\n")
    return f"{first}{' …' if more else ''}\n    ({KINDS.get(reason.kind, reason.kind)})"


def _indent(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _entry_lines(entry: EntryReport) -> list[str]:
    lines = []
    if entry.seconds:
        times = (f"{name} {value * 1e3:.1f} ms" for name, value in entry.seconds.items())
        lines.append(", ".join(times))
    if entry.program:
        lines += _program_lines(entry.program, entry.manifest)
    return lines + _guard_lines(entry)


def _guard_lines(entry: EntryReport) -> list[str]:
    """The telling guards as sentences, up to a number; the rest counted by kind."""
    if not entry.guards:
        return []
    telling = [g for g in entry.guards if g["check"] not in QUIET]
    lines = [f"guards ({len(entry.guards)}):"]
    lines += _indent([g["text"] for g in telling[:MOST_GUARDS]])
    more = (
        [f"more of these kinds ({len(telling) - MOST_GUARDS})"]
        if len(telling) > MOST_GUARDS
        else []
    )
    kinds = [g["check"] for g in entry.guards]
    more += [f"{words} ({kinds.count(kind)})" for kind, words in QUIET.items() if kind in kinds]
    if more:
        lines.append(f"  and, listed in to_json(): {', '.join(more)}")
    if entry.sharing:
        lines.append(f"  inputs that share memory: {entry.sharing}")
    versions = ", ".join(f"{name} {version}".strip() for name, version in entry.libraries.items())
    lines.append(f"  torch's state: {state_words(entry.ambient)}")
    return lines + ([f"  versions: {versions}"] if versions else [])


def _program_lines(program: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    total = sum(program["ops"].values())
    often = sorted(program["ops"].items(), key=lambda item: (-item[1], item[0]))
    moved = manifest["bytes"]
    lines = [
        f"captured {plural(total, 'operation')}: " + ", ".join(f"{op} x{n}" for op, n in often),
        f"{plural(len(program['kernels']), 'kernel')}, {plural(manifest['launches'], 'launch')}, "
        f"{plural(manifest['calls'], 'library call')}; bytes read {moved['read']}, "
        f"written {moved['written']}, buffers at most {moved['peak']}",
    ]
    for kernel in program["kernels"]:
        lines += _indent(_kernel_lines(kernel))
    for op, places in _grouped(program["externs"]).items():
        lines.append(f"  {op}{_times(len(places))} (library): {_some(places)}")
    refused = [[d["reason"], d["what"]] for d in program["decisions"] if not d["fused"]]
    if refused:
        lines.append("not fused:")
    for reason, whats in _grouped(refused).items():
        lines.append(f"  {reason}{_times(len(whats))}: {_some(whats)}")
    return lines


def _kernel_lines(kernel: dict[str, Any]) -> list[str]:
    """What a kernel is, what it costs, and the user's lines in it."""
    facts = [f"reads {kernel['reads']} bytes", f"writes {kernel['writes']}"]
    if "registers" in kernel:
        spills = f"{kernel['spills']} spilled" if kernel["spills"] else "none spilled"
        facts.append(f"{kernel['registers']} registers, {spills}")
    name = kernel["name"] + _times(kernel["launches"])
    about = "; ".join(part for part in (kernel["strategy"], ", ".join(facts)) if part)
    return [f"{name}: {about}", *_indent(list(dict.fromkeys(kernel["lines"])))]


def _grouped(pairs: list[list[str]]) -> dict[str, list[str]]:
    """Seconds by first, in order of appearance."""
    found: dict[str, list[str]] = {}
    for first, second in pairs:
        found.setdefault(first, []).append(second)
    return found


def _times(count: int) -> str:
    return f" x{count}" if count > 1 else ""


def _some(words: list[str]) -> str:
    """The first few different ones."""
    different = [word for word in dict.fromkeys(words) if word]
    more = len(different) - MOST_NAMED
    return "; ".join(different[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


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
    found = bound.guards
    guards = [
        asdict(guard) | {"text": text}
        for guard, text in zip(found.guards, sentences(found), strict=True)
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
        dict(found.state),
        dict(found.packages),
        "" if found.groups is None else sharing.words(found.groups, found.inputs),
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

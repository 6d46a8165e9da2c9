"""What explain says to a person: lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracejit.ir.convolutions import CONVOLUTION
from tracejit.ir.products import PRODUCTS
from tracejit.runtime.reasons import KINDS, Reason
from tracejit.runtime.words import few, plural, times
from tracejit.sentences import QUIET, state_words

if TYPE_CHECKING:
    from tracejit.report import EntryReport, Explanation

MOST_GUARDS = 30  # shown in full, unless all are asked for
MOST_DECISIONS = 60  # lines of a trace tree
MOST_NAMED = 4  # places or refusals with the same reason


def lines(
    found: Explanation, all_guards: bool = False, rest: str = "listed in to_json()"
) -> list[str]:
    """The whole text. `all_guards` lists also those that a reader can take for granted; else `rest`
    says where they are."""
    what = "stored entry" if not found.backend else "compiled entry"
    backend = f" (backend={found.backend!r})" if found.backend else ""
    text = [f"{found.name}{backend}: {plural(len(found.entries), what)}"]
    for number, entry in enumerate(found.entries):
        text += ["", f"entry {number}, {entry.source}: {entry.state}"]
        text += _indent(_entry_lines(entry, all_guards, rest))
    text += _trees(found.entries)
    if found.recompiled:
        text += ["", "compiled again:"]
        text += [f"  entry {each.entry} because {each}" for each in found.recompiled]
    if found.fallbacks:
        text += ["", "calls that ran eagerly:"]
        text += [f"  {_first_line(reason)}" for reason in found.fallbacks]
    text += _part_lines(found.parts)
    return text


def _part_lines(parts: list[Explanation]) -> list[str]:
    """What was compiled of a function that runs eagerly as a whole, in numbers."""
    text = ["", "calls in it, compiled on their own:"] if parts else []
    counted: dict[str, int] = {}
    for part in parts:
        kernels = sum(len(e.program.get("kernels", [])) for e in part.entries)
        line = f"{part.name}: {plural(len(part.entries), 'entry')}, {plural(kernels, 'kernel')}"
        why = "".join(
            f"; eager: {_first_line(reason).splitlines()[0]}" for reason in part.fallbacks
        )
        inner = len(part.parts)
        line += why + (f"; {plural(inner, 'call')} in it compiled on their own" if inner else "")
        counted[line] = counted.get(line, 0) + 1
    return text + [f"  {line}{times(number)}" for line, number in counted.items()]


def _trees(entries: list[EntryReport]) -> list[str]:
    """Entries with the same guards, by what the data decided in them: line by line, outcome by
    outcome."""
    text: list[str] = []
    for tree in dict.fromkeys(entry.tree for entry in entries if entry.decisions):
        text += ["", "trace tree, by what the data decided:"]
        branches = [(n, e.decisions) for n, e in enumerate(entries) if e.tree == tree]
        found = _branches(branches)
        more = [f"… {len(found) - MOST_DECISIONS} more lines"] * (len(found) > MOST_DECISIONS)
        text += _indent([*found[:MOST_DECISIONS], *more])
    return text


def _branches(branches: list[tuple[int, list[Any]]]) -> list[str]:
    """The lines of some branches that have decided alike so far."""
    text = [f"entry {number}" for number, decisions in branches if not decisions]
    ahead = [(number, decisions) for number, decisions in branches if decisions]
    for line in dict.fromkeys(decisions[0][0] for _, decisions in ahead):
        here = [(number, d) for number, d in ahead if d[0][0] == line]
        outcomes: dict[str, list[tuple[int, list[Any]]]] = {}
        for number, decisions in here:
            outcome = decisions[0][1]
            words = f"size {tuple(outcome)}" if isinstance(outcome, list) else repr(outcome)
            outcomes.setdefault(words, []).append((number, decisions[1:]))
        for words, below in outcomes.items():
            text.append(f"{line}: {words}")
            rest = _branches(below)
            text += rest if len(below) == len(branches) else _indent(rest)
    return text


def _first_line(reason: Reason) -> str:
    """The reason's first line, and what its kind means."""
    first, _, more = str(reason).partition("\n")
    return f"{first}{' …' if more else ''}\n    ({KINDS.get(reason.kind, reason.kind)})"


def _indent(text: list[str]) -> list[str]:
    return [f"  {line}" for line in text]


# What is computed by who is quickest on the machine.
MEASURED = frozenset({*PRODUCTS, "mkldnn._linear_pointwise", CONVOLUTION})


def _entry_lines(entry: EntryReport, all_guards: bool, rest: str) -> list[str]:
    text = []
    if entry.seconds:
        times = (f"{name} {value * 1e3:.1f} ms" for name, value in entry.seconds.items())
        text.append(", ".join(times))
    if entry.program:
        text += _program_lines(entry.facts(), entry.target)
    return text + _guard_lines(entry, all_guards, rest)


def _guard_lines(entry: EntryReport, all_guards: bool, rest: str) -> list[str]:
    """The telling guards as sentences, up to a number; the rest counted by kind."""
    if not entry.guards:
        return []
    telling = [g for g in entry.guards if all_guards or g["check"] not in QUIET]
    most = len(telling) if all_guards else MOST_GUARDS
    text = [f"guards ({len(entry.guards)}):"]
    text += _indent([g["text"] for g in telling[:most]])
    more = [f"more of these kinds ({len(telling) - most})"] if len(telling) > most else []
    kinds = [g["check"] for g in entry.guards if g not in telling]
    more += [f"{words} ({kinds.count(kind)})" for kind, words in QUIET.items() if kind in kinds]
    if more:
        text.append(f"  and, {rest}: {', '.join(more)}")
    if entry.sharing:
        text.append(f"  inputs that share memory: {entry.sharing}")
    versions = ", ".join(f"{name} {version}".strip() for name, version in entry.libraries.items())
    text.append(f"  torch's state: {state_words(entry.ambient)}")
    return text + ([f"  versions: {versions}"] if versions else [])


def _program_lines(program: dict[str, Any], target: str) -> list[str]:
    total = sum(program["ops"].values())
    often = sorted(program["ops"].items(), key=lambda item: (-item[1], item[0]))
    moved = program["bytes"]
    text = [
        f"captured {plural(total, 'operation')}{': ' if often else ''}"
        + ", ".join(f"{op} x{n}" for op, n in often),
        f"{plural(len(program['kernels']), 'kernel')}, {plural(program['launches'], 'launch')}, "
        f"{plural(program['calls'], 'library call')}; bytes read {moved['read']:,}, "
        f"written {moved['written']:,}, buffers at most {moved['peak']:,}",
    ]
    for kernel in program["kernels"]:
        text += _indent(_kernel_lines(kernel))
    calls = [(call["op"], call["line"]) for call in program["library"]]
    for op, places in _grouped(calls).items():
        text.append(f"  {op}{times(len(places))} (library): {'; '.join(few(places, MOST_NAMED))}")
    if target.startswith("native:") and any(op in MEASURED for op, _ in calls):
        text.append("  (products by the library are quicker here: tracejit doctor has the times)")
    refused = [(each["reason"], _pair(each)) for each in program["refused"]]
    if refused:
        text.append("not fused:")
    for reason, pairs in _grouped(refused).items():
        text.append(f"  {reason}{times(len(pairs))}:")
        text += [f"    {line}" for line in few(pairs, MOST_NAMED)]
    return text


def _pair(refusal: dict[str, Any]) -> str:
    """`layer_norm (model.py:3 in norm) + mul, add (model.py:4 in forward)`."""
    return " + ".join(_side(side) for side in refusal["between"])


def _side(operations: list[dict[str, str]]) -> str:
    by_line: dict[str, list[str]] = {}
    for operation in operations:
        by_line.setdefault(operation["line"], []).append(operation["name"])
    words = []
    for line, names in by_line.items():
        words.append(", ".join(dict.fromkeys(names)) + (f" ({line})" if line else ""))
    return ", ".join(words)


def _kernel_lines(kernel: dict[str, Any]) -> list[str]:
    """What a kernel is, what it costs, and the user's lines in it."""
    facts = [f"reads {kernel['reads']:,} bytes", f"writes {kernel['writes']:,}"]
    if kernel.get("registers") is not None:
        spills = f"{kernel['spills']} spilled" if kernel["spills"] else "none spilled"
        facts.append(f"{kernel['registers']} registers, {spills}")
    name = kernel["name"] + times(kernel["launches"])
    about = "; ".join(part for part in (kernel["strategy"], ", ".join(facts)) if part)
    return [f"{name}: {about}", *_indent(list(dict.fromkeys(kernel["lines"])))]


def _grouped(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Seconds by first, in order of appearance."""
    found: dict[str, list[str]] = {}
    for first, second in pairs:
        found.setdefault(first, []).append(second)
    return found

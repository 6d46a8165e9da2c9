"""What `cache show` knows of an entry: the entry with all that leads to it and from it, as JSON
values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracejit.cli.cache.index import OK, Entry, Index
from tracejit.runtime.cache import report_from
from tracejit.runtime.errors import TracejitError
from tracejit.runtime.files import Damaged, Item

_NOTHING = Item({})


@dataclass(frozen=True)
class Read:
    """An entry and what its file holds."""

    entry: Entry
    item: Item


@dataclass(frozen=True)
class Subject:
    """What is shown, the plan that it is of (of several the one used last), and the record used
    last that leads there."""

    index: Index
    entry: Entry
    item: Item
    plan: Read | None
    record: Read | None

    @property
    def report(self) -> dict[str, Any]:
        """What the compiler reported of the plan; {} where nothing is stored."""
        item = self.plan.item if self.plan is not None else _NOTHING
        return report_from(item) if "report.json" in item.parts else {}


def subject(index: Index, entry: Entry) -> Subject:
    """All about an entry. Raises TracejitError, with the reason, if its file cannot be read."""
    item = content(index, entry)
    if entry.state != OK:  # whole, but not what it should be
        raise _unreadable(entry, entry.why)
    plans = {"kernels": index.above, "records": index.below}.get(entry.kind, lambda e: [e])(entry)
    plan = _read(index, plans)
    records = [entry] if entry.kind == "records" else index.above(plan.entry) if plan else []
    return Subject(index, entry, item, plan, _read(index, records))


def content(index: Index, entry: Entry) -> Item:
    """Everything in an entry's file, checked. Raises TracejitError if it cannot be read."""
    try:
        return index.store.inspect(entry.kind, entry.key)
    except Damaged as problem:
        why = str(problem)
    except OSError as problem:
        why = f"it cannot be read ({problem.strerror})"
    raise _unreadable(entry, why)


def _unreadable(entry: Entry, why: str) -> TracejitError:
    return TracejitError(text=f"{entry.kind[:-1]} {entry.short} cannot be shown: {why}")


def _read(index: Index, entries: Sequence[Entry]) -> Read | None:
    """The first entry, if it is whole."""
    try:
        return Read(entries[0], content(index, entries[0])) if entries else None
    except TracejitError:
        return None


def kernel_facts(item: Item) -> dict[str, Any]:
    """A kernel's launch, parameters, bytes and machine code."""
    source, binary = item.fields["source"], item.fields["binary"]
    spans = source["spans"] or [None] * len(source["params"])
    return {
        "name": source["name"],
        "target": source["target"],
        "strategy": source["strategy"],
        "programs": source["grid"],
        "warps": source["num_warps"],
        "stages": source["num_stages"],
        "tiles": source["constants"],
        "parameters": [
            {
                "name": name,
                "type": kind,
                "elements": span,
                "bytes": None if span is None else span * item_size(kind),
                "written": name in source["outputs"],
            }
            for (name, kind), span in zip(source["params"], spans, strict=True)
        ],
        "reads": source["reads"],
        "writes": source["writes"],
        "machine_code": binary and _machine_code(item),
    }


def item_size(kind: str) -> int:
    """Bytes of an element behind a pointer of Triton's type: `*fp32`, `*i1`, `*fp8e4nv`."""
    bits = re.search(r"\d+", kind)
    return max(int(bits[0]) // 8, 1) if bits else 1


def _machine_code(item: Item) -> dict[str, Any]:
    binary = item.fields["binary"]
    names = ("kind", "registers", "spills", "shared", "seconds")
    return {
        **{name: binary[name] for name in names},
        "bytes": len(item.parts.get("binary", b"")),
        "lighter_tiles": binary.get("compiled") is not None,  # the first choice spilled
    }


def model_lines(found: Subject) -> list[str]:
    """The user's lines in a kernel: from the plan's report, else from the kernel's own text."""
    name = found.entry.name
    for kernel in found.report.get("kernels", ()):
        if kernel["name"] == name:
            return list(dict.fromkeys(kernel["lines"]))
    text = found.item.text("kernel.py")
    places = re.findall(r"^ +(?:# )?(\S+:\d+(?: in .*)?)$", text, re.M)
    return list(dict.fromkeys(places))


def plan_kernels(index: Index, plan: Read) -> list[dict[str, Any]]:
    """The kernels of a plan: launches, bytes, their share of the plan's, machine code, lines."""
    report = report_from(plan.item) if "report.json" in plan.item.parts else {}
    reported = {kernel["name"]: kernel for kernel in report.get("kernels", ())}
    rows = [
        _row(index, name, key, reported.get(name, {}))
        for name, key in plan.item.fields["kernels"].items()
    ]
    total = sum(row["bytes"] or 0 for row in rows)
    for row in rows:
        row["share"] = row["bytes"] / total if total and row["bytes"] is not None else None
    return sorted(rows, key=lambda row: -(row["bytes"] or 0))


def _row(index: Index, name: str, key: str, reported: dict[str, Any]) -> dict[str, Any]:
    """One kernel of a plan. What neither the report nor the kernel's file says is None."""
    try:
        fields: dict[str, Any] = index.store.peek("kernels", key).fields
    except (OSError, Damaged):
        fields = {}
    source, binary = fields.get("source", reported), fields.get("binary") or {}
    launches = reported.get("launches")
    moved = source["reads"] + source["writes"] if "reads" in source else None
    return {
        "name": name,
        "key": key,
        "stored": bool(fields),
        "launches": launches,
        "bytes": None if moved is None or launches is None else moved * launches,
        "share": None,
        "registers": binary.get("registers", reported.get("registers")),
        "spills": binary.get("spills", reported.get("spills")),
        "compile_seconds": binary.get("seconds"),
        "lines": list(dict.fromkeys(reported.get("lines", ()))),
    }


def plan_facts(found: Subject) -> dict[str, Any]:
    """What a plan does, in numbers."""
    assert found.plan is not None
    manifest, report = found.plan.item.fields["manifest"], found.report
    return {
        "launches": manifest["launches"],
        "calls": manifest["calls"],
        "inputs": manifest.get("inputs"),
        "outputs": manifest.get("outputs"),
        "bytes": manifest.get("bytes", {}),
        "captured": dict(Counter(each["op"] for each in report.get("captured", []))),
        "kernels": plan_kernels(found.index, found.plan),
        "library": [{"op": op, "line": line} for op, line in report.get("externs", ())],
        "stages": [
            {"name": name, "seconds": seconds} for name, seconds in report.get("stages", ())
        ],
    }


def guard_lines(data: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Stored guards in words, and the kind of each; ([], []) for guards that this version does not
    know. Imports torch."""
    from tracejit.runtime.guards import GuardSet
    from tracejit.sentences import sentences

    try:
        guards = GuardSet.from_json(data)
        return sentences(guards), [node.check for node in guards.nodes]
    except (KeyError, TypeError, ValueError, IndexError):
        return [], []


def document(found: Subject, texts: dict[str, str]) -> dict[str, Any]:
    """The JSON of `show`, without `about`."""
    entry, index = found.entry, found.index
    fields = {name: value for name, value in found.item.fields.items() if name != "guards"}
    record = found.record.item.fields if found.record else {}
    return {
        **entry.to_json(),
        "written_by": found.item.written,
        "fields": fields,
        "kernel": kernel_facts(found.item) if entry.kind == "kernels" else None,
        "lines": model_lines(found) if entry.kind == "kernels" else [],
        "plan": None if found.plan is None else _plan_document(found),
        "record": found.record.entry.own_key if found.record else None,
        "guards": guard_lines(record["guards"])[0] if "guards" in record else [],
        "texts": texts,
        "used_by": [_user(user) for user in index.above(entry)],
    }


def _plan_document(found: Subject) -> dict[str, Any]:
    assert found.plan is not None
    return {"key": found.plan.entry.own_key, **plan_facts(found)}


def _user(entry: Entry) -> dict[str, Any]:
    return {"kind": entry.kind, "key": entry.own_key, "what": entry.what, "model": entry.model}

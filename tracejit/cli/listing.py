"""What the cache commands show, as JSON values."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from tracejit.runtime.cache import Cache
from tracejit.runtime.errors import AmbiguousKey, NoSuchKey
from tracejit.runtime.store import KINDS, Item


def rows(cache: Cache, kind: str | None = None) -> list[dict[str, Any]]:
    """One row per entry: kind, key, what it is in a line, bytes on disk, when it was used last."""
    found = []
    for each in KINDS if kind is None else (kind,):
        for key in cache.store.keys(each):
            item = cache.store.read(each, key)
            if item is None:
                continue
            status = cache.store.path(each, key).stat()
            found.append(
                {
                    "kind": each,
                    "key": key.rpartition("/")[2],
                    "what": _summary(each, item),
                    "bytes": status.st_size,
                    "used": datetime.fromtimestamp(status.st_mtime).isoformat(" ", "seconds"),
                }
            )
    return found


def _summary(kind: str, item: Item) -> str:
    fields = item.fields
    if kind == "kernels":
        return f"{fields['source']['name']} for {fields['source']['target']}"
    if kind == "plans":
        first = item.text("plan.py").partition("\n")[0].removeprefix("# ")
        manifest = fields["manifest"]
        return f"{first}: {manifest['launches']} launches, {manifest['calls']} calls"
    return (
        f"{fields['summary']}: {len(fields['guards']['nodes'])} guards, plan {fields['plan'][:12]}"
    )


def entry(cache: Cache, beginning: str) -> dict[str, Any]:
    """The one entry whose key begins so. Raises NoSuchKey or AmbiguousKey."""
    found = [
        (kind, key)
        for kind in KINDS
        for key in cache.store.keys(kind)
        if key.rpartition("/")[2].startswith(beginning)
    ]
    if not found:
        raise NoSuchKey(key=beginning, directory=cache.store.directory)
    if len(found) > 1:
        some = ", ".join(f"{key.rpartition('/')[2][:12]} ({kind})" for kind, key in found[:4])
        raise AmbiguousKey(key=beginning, count=len(found), some=some)
    kind, key = found[0]
    item = cache.store.read(kind, key)
    if item is None:
        raise NoSuchKey(key=beginning, directory=cache.store.directory)
    key = key.rpartition("/")[2]
    return _described(kind, key, item) | {"used_by": used_by(cache, kind, key)}


def used_by(cache: Cache, kind: str, key: str) -> list[dict[str, str]]:
    """What leads to the entry: the plans of a kernel, the records of a plan."""
    above = {"kernels": "plans", "plans": "records"}.get(kind)
    found = []
    for name in cache.store.keys(above) if above is not None else ():
        item = cache.store.read(above or "", name)
        if item is None:
            continue
        leads = item.fields["kernels"].values() if kind == "kernels" else [item.fields["plan"]]
        if key in leads:
            user = {"kind": above or "", "key": name.rpartition("/")[2]}
            found.append(user | {"what": _summary(above or "", item)})
    return found


def _described(kind: str, key: str, item: Item) -> dict[str, Any]:
    fields = dict(item.fields)
    guards: list[str] = []
    if kind == "records":
        guards = guard_lines(fields.pop("guards"))
    texts = {
        name: part.decode()
        for name, part in item.parts.items()
        if name.endswith(".py") or (name == "assembly" and part)
    }
    if "report.json" in item.parts:
        report = json.loads(item.text("report.json"))
        fields["captured"] = report.get("ops", {})
    about = _ABOUT[kind](item)
    return {
        "kind": kind,
        "key": key,
        "about": about,
        "fields": fields,
        "guards": guards,
        "texts": texts,
    }


def about_kernel(item: Item) -> list[str]:
    """A kernel's launch, traffic and machine code, a line each."""
    source, binary = item.fields["source"], item.fields["binary"]
    tiles = ", ".join(f"{name} = {value}" for name, value in source["constants"].items())
    lines = [
        f"{source['name']} for {source['target']}: {source['strategy']}".rstrip(": "),
        f"{source['grid']} programs, {source['num_warps']} warps each, {source['num_stages']} "
        f"stages{'; ' + tiles if tiles else ''}",
        f"reads {source['reads']} bytes, writes {source['writes']} bytes in a launch",
        "parameters: " + ", ".join(f"{name} {kind}" for name, kind in source["params"]),
    ]
    if binary is None:
        return [*lines, "no machine code: runs from its source"]
    return [
        *lines,
        f"machine code: {len(item.parts['binary'])} bytes of {binary['kind']}, "
        f"{binary['registers']} registers, {binary['spills']} spilled, {binary['shared']} bytes of "
        f"shared memory, compiled in {binary['seconds'] * 1e3:.0f} ms",
    ]


def about_plan(item: Item) -> list[str]:
    """A plan's first line, and its kernels by key."""
    kernels = item.fields["kernels"].items()
    return [_summary("plans", item), *(f"kernel {key[:12]} {name}" for name, key in kernels)]


_ABOUT: dict[str, Callable[[Item], list[str]]] = {
    "kernels": about_kernel,
    "plans": about_plan,
    "records": lambda item: [_summary("records", item)],
}


def guard_lines(data: dict[str, Any]) -> list[str]:
    """Stored guards in words."""
    from tracejit.runtime.guards import GuardSet
    from tracejit.sentences import sentences

    return sentences(GuardSet.from_json(data))

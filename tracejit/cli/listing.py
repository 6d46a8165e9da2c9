"""What the cache commands show, as JSON values."""

from __future__ import annotations

import json
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
    return _described(kind, key.rpartition("/")[2], item)


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
    return {"kind": kind, "key": key, "fields": fields, "guards": guards, "texts": texts}


def guard_lines(data: dict[str, Any]) -> list[str]:
    """Stored guards in words."""
    from tracejit.report import guard_text
    from tracejit.runtime.guards import GuardSet

    return [guard_text(g.path, g.check, g.expected) for g in GuardSet.from_json(data).guards]

"""The result of a run: rows of raw samples and what they depend on, as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tracejit.benchmarks.peers import CONTROL, EAGER
from tracejit.runtime.errors import TracejitError
from tracejit.runtime.version import FORMATS

MEASURES = {
    "startup": "seconds before a program runs at its steady speed",
    "steady": "seconds per call",
    "overhead": "seconds per call on tiny inputs",
    "recording": "seconds of a call that tracejit records",
    "memory": "peak bytes above what the process had before the peer was imported",
}
UNITS = {name: "bytes" if name == "memory" else "seconds" for name in MEASURES}


class NotAResult(TracejitError, ValueError):
    """A file is not a document that this version of the harness wrote."""

    template = "{path} is not a result of tracejit bench: {why}"


@dataclass
class Row:
    """One peer's samples of one measure of one workload, or why there are none."""

    workload: str
    measure: str
    peer: str
    status: str = "ok"  # or "failed", "wrong", "missing"
    why: str = ""
    unit: str = "seconds"
    series: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Document:
    """Everything that a run found. `peers` holds what each does ("note") and what must stand beside
    its figures ("remark"); `workloads` what each is; `traffic` the bytes that a call of one must
    move; `bandwidth` samples of what this machine's memory moves, in bytes per second."""

    date: str
    device: str
    threads: int
    load: float  # of the machine before the run
    machine: dict[str, Any]
    versions: dict[str, str]
    variables: dict[str, str]
    settings: dict[str, Any]
    peers: dict[str, dict[str, str]]
    workloads: dict[str, str]
    traffic: dict[str, int] = field(default_factory=dict)
    bandwidth: dict[str, list[float]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The JSON object without the schema's number."""
        return asdict(self)

    def of(self, measure: str, workload: str) -> dict[str, Row]:
        """Its rows by peer."""
        return {
            row.peer: row
            for row in self.rows
            if row.measure == measure and row.workload == workload
        }

    def groups(self, measure: str) -> Iterator[tuple[str, dict[str, Row]]]:
        """Each workload that has rows of this measure, with them by peer."""
        for name in self.workloads:
            rows = self.of(measure, name)
            if rows:
                yield name, rows

    def suites(self) -> dict[str, list[str]]:
        """Workloads of each suite: those of `micro/…` under "micro"."""
        found: dict[str, list[str]] = {}
        for name in self.workloads:
            if "/" in name:
                found.setdefault(name.partition("/")[0], []).append(name)
        return found

    @property
    def wrong(self) -> list[Row]:
        """Rows of peers whose result was not eager's."""
        return [row for row in self.rows if row.status == "wrong"]


def samples(rows: dict[str, Row], peer: str, series: str) -> list[float]:
    """Of one peer; empty if it has none."""
    return rows[peer].series.get(series, []) if peer in rows else []


def control(rows: dict[str, Row], series: str) -> tuple[list[float], list[float]]:
    """Eager's samples, and those of eager again."""
    return samples(rows, EAGER, series), samples(rows, CONTROL, series)


def read(path: Path) -> Document:
    """A stored document. Raises NotAResult."""
    try:
        fields = json.loads(path.read_text())
        schema = fields.pop("schema")
        if schema != (ours := FORMATS["results"]):
            raise NotAResult(path=path, why=f"schema {schema}, this version reads {ours}")
        rows = [Row(**row) for row in fields.pop("rows")]
        return Document(**fields, rows=rows)
    except OSError as error:
        raise NotAResult(path=path, why=error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, NotAResult):
            raise
        raise NotAResult(path=path, why=f"{type(error).__name__}: {error}") from None

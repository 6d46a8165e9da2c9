"""Documents made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracejit.benchmarks.document import UNITS, Document, Row

MACHINE = {
    "processor": "Example 9000",
    "cores": 2,
    "features": ["avx2", "fma"],
    "memory": 8 << 30,
    "system": "Linux",
}


STARTS = {"import": [0.02], "cold": [0.5, 0.49, 0.52], "warm": [0.05]}


def row(workload: str, measure: str, peer: str, **series: Sequence[float]) -> Row:
    """`cold_start=[…]` is the series "cold start"."""
    named = {name.replace("_", " "): list(found) for name, found in series.items()}
    return Row(workload, measure, peer, unit=UNITS[measure], series=named)


def document(rows: Sequence[Row], **changes: object) -> Document:
    """On MACHINE, of torch 2.13."""
    fields: Mapping[str, object] = {
        "date": "2026-01-02T03:04:05+00:00",
        "device": "cpu",
        "threads": 2,
        "load": 0.0,
        "machine": MACHINE,
        "versions": {"torch": "2.13.0", "tracejit": "0.1.0"},
        "variables": {},
        "settings": {"rounds": 4},
        "peers": {
            "eager": {"note": "operation by operation", "remark": ""},
            "torch.compile": {"note": "Inductor", "remark": ""},
            "tracejit": {"note": "compiles for cuda:90", "remark": "calls run eagerly here"},
            "eager again": {"note": "the noise", "remark": ""},
        },
        "workloads": {"gpt": "a GPT"},
        "rows": list(rows),
    }
    return Document(**{**fields, **changes})  # type: ignore[arg-type]


def whole() -> Document:
    """All measures of one workload; one peer failed in one of them."""
    failed = Row("gpt", "steady", "torch.compile", "failed", "RuntimeError: no compiler")
    return document(
        [
            row("gpt", "startup", "eager", cold=[0.02]),
            row("gpt", "startup", "torch.compile", cold=[20.0], warm=[4.0]),
            Row("gpt", "startup", "tracejit", series=STARTS),
            row("gpt", "startup", "eager again", cold=[0.03]),
            row("gpt", "steady", "eager", call=[0.010, 0.011, 0.012, 0.010]),
            failed,
            row("gpt", "steady", "tracejit", call=[0.005, 0.0055, 0.006, 0.005]),
            row("gpt", "steady", "eager again", call=[0.010, 0.0121, 0.012, 0.010]),
            row("gpt", "overhead", "eager", call=[1e-5, 1.1e-5, 1e-5, 1e-5]),
            row("gpt", "overhead", "tracejit", call=[1.2e-5, 1.3e-5, 1.2e-5, 1.2e-5]),
            row("gpt", "recording", "eager", call=[0.010, 0.010, 0.010, 0.010]),
            row("gpt", "recording", "tracejit", call=[0.02, 0.02, 0.03, 0.02], first=[0.05]),
            row("gpt", "memory", "eager", cold_start=[1 << 20], cold_steady=[2 << 20]),
            row("gpt", "memory", "tracejit", cold_start=[9 << 20], warm_start=[3 << 20],
                warm_steady=[4 << 20]),
        ]
    )  # fmt: skip

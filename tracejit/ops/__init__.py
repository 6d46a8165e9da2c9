"""The op table. Importing this package registers every row."""

from __future__ import annotations

from tracejit.ops import (  # noqa: F401  (each adds its rows)
    activations,
    arithmetic,
    decompositions,
    externs,
    factories,
    functions,
    indexing,
    logic,
    losses,
    random,
    reductions,
    scatters,
    statistics,
    views,
)

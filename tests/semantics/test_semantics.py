"""Programs that show a wrong answer, a stale one, or an error that eager does not raise.

Each runs with plain functions and with compiled ones, first with an empty cache, then with the
plans of the first time on disk; everything that it yields must be the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tracejit.runtime import log

from . import programs_last, programs_more, programs_state, programs_tensors
from .support import Program, compare

PROGRAMS: dict[str, Program] = {
    **{name: programs_tensors.calls(case) for name, case in programs_tensors.FUNCTIONS.items()},
    **{f"error {n}": programs_tensors.calls(c) for n, c in programs_tensors.ERRORS.items()},
    **{f"index {name}": case for name, case in programs_tensors.INDEXED.items()},
    **programs_state.PROGRAMS,
    **programs_more.PROGRAMS,
    **programs_last.PROGRAMS,
}


# Programs with calls that are not captured, and the kinds of reasons for it.
EAGER: dict[str, str] = {
    "self overlapping written": "mutation",
    "resize_": "mutation",
    "set_": "mutation",
    ".data =": "side-effect",
    "int in place": "mutation",
    "numpy": "data-dependent",
    "out= resized": "mutation",
    "change requires grad": "autograd",
    "structures": "output",
    "effects": "impure",
    "python_random": "impure",
    "iterator_argument": "unguardable",
    "generator_function": "output",
    "modes": "autograd",
    "gradients": "autograd",
    "modes_inside": "autograd",
    "transforms": "outer-tracer",
    "nested": "unguardable",
    "odd_equality": "unguardable",
    "own_hooks": "unguardable",
    "subclass": "tensor",
    "storage offset": "unguardable",
    "data_ptr": "data-dependent",
    "version": "unguardable",
    "nbytes": "tensor",
    "equal": "data-dependent",
    "initial seed": "random",
    "time": "impure",
    "id": "impure",
    "warn": "impure",
    "requires_grad_": "autograd",
    "checkpoint": "impure",
    "autograd function": "impure",
    "sparse": "tensor",
    "numpy global": "unguardable",
    "inner compiled": "unguardable",
    "exec": "impure",
    "duplicate index": "op",
    "nested slices": "op",
    "metadata_changes": "data-dependent tensor unguardable",
    "cached_helper": "unguardable",
    "lru": "unguardable",
    "lru returned": "unguardable",
    "builtin_subclasses": "unguardable",
    "containers": "unguardable",
    "layer encoder": "random",
    "layer rrelu": "mutation",
    "positions": "unguardable",
    "lazy": "tensor",
    "read_only_views_of_dicts": "unguardable",
    "tensors_in_index_lists": "op",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_twins(name: str, fresh_cache: Path) -> None:
    log.forget()
    assert compare(PROGRAMS[name]) == set(EAGER.get(name, "").split())

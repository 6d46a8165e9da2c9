"""Samples of torch's operator database through the whole pipeline, their kernels run in native code
and by the interpreter: values, dtypes and strides are eager's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree

import tracejit
from tests.executors import BACKEND, TARGET
from tests.sweep.judge import Verdict, judge, laid_out, reversed_strides, stepped

FIRST = 4  # samples that are made; to make all would take most of the time
LARGEST = 20_000  # elements in all tensors of a sample
LAYOUTS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda t: t,
    stepped,
    reversed_strides,
)


def sample(op: Any, dtype: torch.dtype) -> Any:
    """The arguments of one of an operator's first samples; None if it is large."""
    *_, chosen = islice(op.sample_inputs("cpu", dtype, requires_grad=False), FIRST)
    args = (chosen.input, chosen.args, chosen.kwargs)
    tensors = [t for t in _pytree.tree_leaves(args) if isinstance(t, torch.Tensor)]
    return args if sum(t.numel() for t in tensors) <= LARGEST else None


def verdicts(dtype: torch.dtype, target: str) -> Iterator[tuple[str, Verdict]]:
    """How each operator went, with its name; the layouts take turns."""
    for n, op in enumerate(op_db):
        # The contents of empty tensors are nobody's.
        if dtype not in op.dtypes or "empty" in op.name:
            continue
        args = sample(op, dtype)
        if args is not None:
            args = laid_out(args, LAYOUTS[n % len(LAYOUTS)])
            call = lambda x, more, named, f=op.op: f(x, *more, **named)  # noqa: E731
            yield op.name, judge(call, args, target)


@pytest.mark.parametrize("target", dict.fromkeys([TARGET, "interpret"]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_operators(dtype: torch.dtype, target: str) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    with torch.no_grad():
        for name, verdict in verdicts(dtype, target):
            counts[verdict.kind] += 1
            if verdict.kind in ("wrong", "failed", "left"):
                wrong.append(f"{name}: {verdict.kind}: {verdict.text[:300]}")
    assert not wrong, "\n".join(wrong)
    assert counts["compiled"] > (350 if dtype.is_floating_point else 170), counts
    assert counts["refused"] < 0.2 * counts["compiled"], counts


def test_what_the_sweep_found() -> None:
    """Calls that were wrong or failed once."""
    x, one = torch.randn(5), torch.tensor(3.0)
    half = torch.tensor([-30.0, 2.0], dtype=torch.float16)
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        # An index checked before the kernel, and then not loaded: the dim has one element.
        (lambda x: torch.quantile(x, 0.5), (one,)),
        # A scalar comparison broadcast in the interpreter.
        (torch.logical_and, (x, one)),
        # The result overflows in halves, as eager's does.
        (torch.nn.functional.soft_margin_loss, (half, half.neg().abs())),
        (lambda x: torch.linalg.vector_norm(x, -torch.inf), (x,)),
        (lambda x: x.max(0), (torch.tensor(True),)),
    ]
    with torch.no_grad():
        for fn, args in calls:
            verdict = judge(fn, args)
            assert (verdict.kind, verdict.externs.count("aten.soft_margin_loss")) == (
                "compiled",
                0,
            ), verdict


def test_strides_into_memory_are_refused() -> None:
    """as_strided_scatter counts in memory, which a graph has none of."""
    x, y = torch.randn(4, 6), torch.randn(2, 2)

    def scatter(x: torch.Tensor, *where: Any) -> torch.Tensor:
        return torch.as_strided_scatter(x, y, (2, 2), (1, 2), *where)

    with torch.no_grad():
        assert judge(scatter, (x,)).kind == "compiled"
        assert judge(scatter, (x.t(),)).kind == "refused"
        assert judge(scatter, (x[1:], 0)).kind == "refused"


def test_lambdas_of_a_library() -> None:
    """Their name says nothing of what they do."""
    casts = [op.op for op in op_db if op.name in ("byte", "double", "half")]
    assert len({op.__qualname__ for op in casts}) == 1
    f = tracejit.compile(lambda x, cast: cast(x), backend=BACKEND, wait=True)
    for _ in range(3):
        for cast in casts:
            assert f(torch.ones(2), cast).dtype is cast(torch.ones(2)).dtype

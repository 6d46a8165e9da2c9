"""Every op with a row on the calls that torch's own operator samples make: shapes and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from tests.ops.rows import Calls, graph_of, rows_used, run, shapes, tensors
from tracejit.ir.dtypes import NAME
from tracejit.ops.table import OPS, DataDependent, Kind

SAMPLES = 6  # of each operator
# Error allowed where IEEE 754 does not fix a result: functions, fused products, order of sums.
CLOSE = {
    torch.float64: 1e-13,
    torch.float32: 2e-6,
    torch.bfloat16: 1 / 128,
    torch.float16: 1 / 1024,
}
Call = tuple[str, Any, Any, Any]


def calls_of(operator: Any, dtype: torch.dtype) -> Iterator[Call]:
    """The ATen calls with a row that the operator's samples make."""
    for n, sample in enumerate(operator.sample_inputs("cpu", dtype, requires_grad=False)):
        if n == SAMPLES:
            return
        calls = Calls()
        try:
            with calls, torch.no_grad():
                operator.op(sample.input, *sample.args, **sample.kwargs)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError):
            continue  # a sample that this build refuses
        yield from calls.found


def signature(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tuple(tree.shape), tree.stride(), tree.dtype
    if isinstance(tree, (list, tuple)):
        return tuple(map(signature, tree))
    return repr(tree)


def check(call: Call) -> str:
    """What is wrong with the row on this call; empty if nothing."""
    name, args, kwargs, result = call
    graph, inputs = graph_of(name, args, kwargs, result)
    try:
        found = shapes(graph.nodes[0])
    except DataDependent:
        return ""
    if found != [(v.dtype, v.sizes) for v in graph.outputs]:
        return f"shape rule says {found}, eager gave {list(graph.outputs)}"
    if "empty" in name or not rows_used(graph):
        return ""
    for got, expected in zip(run(graph, inputs), tensors(result), strict=True):
        tolerance = CLOSE.get(expected.dtype, 0)
        try:
            torch.testing.assert_close(
                got, expected, rtol=tolerance, atol=tolerance, equal_nan=True
            )
        except AssertionError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_rows_agree_with_eager(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    seen: set[Any] = set()
    wrong: dict[str, str] = {}
    for operator in (o for o in op_db if dtype in o.dtypes):
        for call in calls_of(operator, dtype):
            name, args, kwargs, result = call
            key = name, signature(args), repr(kwargs)
            known = all(t.dtype in NAME for t in tensors((args, tuple(kwargs.values()), result)))
            if key in seen or not known or OPS[name].kind is Kind.VIEW:
                continue
            seen.add(key)
            if problem := check(call):
                wrong.setdefault(name, f"{operator.name}: {args} {kwargs}: {problem}")
    assert not wrong, "\n\n".join(f"{name}: {text}" for name, text in wrong.items())
    assert len({name for name, *_ in seen}) > (100 if dtype.is_floating_point else 60)

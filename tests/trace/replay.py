"""Record a function, replay the recording on other data, and compare everything that a caller can
see with eager.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree

from tracejit.ir.execute import execute
from tracejit.runtime.outputs import compile_tree
from tracejit.runtime.paths import around
from tracejit.trace.recorder import record
from tracejit.trace.recording import Recording


def replay(recording: Recording, inputs: list[torch.Tensor]) -> Any:
    """What a plan would return for these inputs; written inputs are written to."""
    assert recording.graph is not None
    outputs, writes = execute(recording.graph, inputs)
    for n, value in writes.items():
        inputs[n].detach().copy_(value)
    return compile_tree(recording.outputs)(tuple(inputs), tuple(outputs))


def check(fn: Callable[..., Any], make: Callable[[], tuple[Any, ...]]) -> Recording:
    """Record `fn(*make())`; recording changes nothing, and the recording repeats the call on other
    data.
    """
    torch.manual_seed(1)
    plain_args, args = copies(make())
    torch.manual_seed(2)
    expected = fn(*plain_args)
    torch.manual_seed(2)
    result, recording = record(fn, args, {})
    same(expected, result)
    same(plain_args, args)
    assert recording.refused is None, recording.refused
    torch.manual_seed(3)
    plain_args, args = copies(make())
    where = positions(recording, fn, args)
    torch.manual_seed(4)
    expected = fn(*plain_args)
    torch.manual_seed(4)
    again = replay(recording, where)
    same(expected, again, 1e-6)  # another layout may sum in another order
    same(plain_args, args, 1e-6)
    aliases((plain_args, expected), (args, again))
    return recording


_last: dict[str, Any] = {}


def copies(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Two equal sets of arguments that share nothing; inside each, sharing is kept. The second is
    remembered.
    """
    first, second = copy.deepcopy(args), copy.deepcopy(args)
    _last["before"], _last["args"] = _last.get("args"), second
    return first, second


def positions(recording: Recording, fn: Any, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """The tensors of `args` (or of module `fn`) that stand where the recording's sources stood."""
    recorded = _pytree.tree_leaves(_last["before"])
    new = _pytree.tree_leaves(args)
    if isinstance(fn, torch.nn.Module):
        state = [*fn.parameters(), *fn.buffers()]
        recorded, new = recorded + state, new + state
    found = []
    for number, source in enumerate(recording.sources):
        span = recording.spans.get(number)
        if span is not None:
            found.append(around(found[span.of], (span.offset, span.size)))
            continue
        (at,) = [n for n, t in enumerate(recorded) if t is source][:1]
        found.append(new[at])
    return found


def same(expected: Any, found: Any, tolerance: float = 0.0) -> None:
    """Equal trees: types, values, dtypes, shapes, strides."""
    left, left_spec = _pytree.tree_flatten(expected)
    right, right_spec = _pytree.tree_flatten(found)
    assert left_spec == right_spec
    for a, b in zip(left, right, strict=True):
        assert type(a) is type(b)
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
            assert a.stride() == b.stride(), (a.stride(), b.stride())
        elif not isinstance(a, torch.nn.Module):
            assert a == b or a != a


def aliases(expected: Any, found: Any) -> None:
    """The same tensors are one object, or lie on one memory, at the same distance."""
    left = [t for t in _pytree.tree_leaves(expected) if isinstance(t, torch.Tensor)]
    right = [t for t in _pytree.tree_leaves(found) if isinstance(t, torch.Tensor)]
    for i, a in enumerate(left):
        for j, b in enumerate(left[:i]):
            assert (a is b) == (right[i] is right[j]), (i, j)
            together = a.untyped_storage()._cdata == b.untyped_storage()._cdata
            found_together = right[i].untyped_storage()._cdata == right[j].untyped_storage()._cdata
            assert together == found_together, (i, j)
            if together:
                apart = a.storage_offset() - b.storage_offset()
                assert apart == right[i].storage_offset() - right[j].storage_offset()


def refused(fn: Callable[..., Any], make: Callable[[], tuple[Any, ...]]) -> str:
    """Record a call that cannot be represented; it must run as eager all the same. The reason's
    kind and text.
    """
    plain_args, args = copies(make())
    torch.manual_seed(2)
    expected = fn(*plain_args)
    torch.manual_seed(2)
    result, recording = record(fn, args, {})
    same(expected, result)
    same(plain_args, args)
    assert recording.refused is not None
    assert recording.graph is None
    return f"{recording.refused.kind}: {recording.refused.text}"

"""Observe a call without a recorder: every reached tensor counts as an input."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import torch

from tracejit.runtime.checker import Checker
from tracejit.runtime.ending import MISS
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.reasons import Failure, Reason
from tracejit.trace.conclude import path_of
from tracejit.trace.observe import Observer
from tracejit.trace.recording import Recording


def observe(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> GuardSet | Reason:
    """Guards of one call, with every tensor that it reached by a path as an input."""
    observer = observed(fn, *args, **kwargs)
    changes = observer.changes()
    if isinstance(changes, Reason):
        return changes
    values = observer.tree.values
    tensors = [v for i, v in enumerate(values) if observer.tree.nodes[i].check == "tensor"]
    return observer.finish(Recording(sources=[t for t in tensors if isinstance(t, torch.Tensor)]))


def observed(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Observer:
    """The observer of a call that is over."""
    observer = Observer(fn, args, kwargs)
    with observer:
        fn(*args, **kwargs)
    return observer


def changes_of(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:
    """What a call changed and a plan can replay: `put self.last = (3,)`."""
    observer = observed(fn, *args, **kwargs)
    changes = observer.changes()
    assert isinstance(changes, list), changes
    paths = [path_of(observer, c.node) for c in changes]
    found = [
        f"{c.kind} {path}.{c.key} = {c.values} {c.place}".strip()
        for c, path in zip(changes, paths, strict=True)
    ]
    observer.release()
    return found


def guards_of(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> GuardSet:
    """Guards of a call that can be guarded."""
    found = observe(fn, *args, **kwargs)
    assert isinstance(found, GuardSet), str(found)
    return found


def reason_of(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Reason:
    """The reason of a call that cannot."""
    found = observe(fn, *args, **kwargs)
    assert isinstance(found, Reason), found
    return found


@functools.cache
def checker(guards: GuardSet, fn: Any) -> Checker:
    """The compiled check of these guards: one, so that it stays bound between calls."""
    return Checker(guards, fn)


def inputs_of(checker: Checker, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The program's inputs in a call, as a dispatcher asks for them; None if a guard fails."""
    found = checker.fast(args, kwargs)
    if found is MISS:
        found = checker.closely(args, kwargs)
    return None if found is MISS else found


def check(guards: GuardSet, fn: Any, *args: Any, **kwargs: Any) -> str:
    """Empty if the guards hold, else the failure in words. All three readers of the guards must
    agree on it.
    """
    slow = guards.values(fn, args, kwargs)
    for _ in range(3):  # evaluated, bound, and compared by identity
        fast = inputs_of(checker(guards, fn), args, kwargs)
        assert (fast is None) == isinstance(slow, Failure), (str(slow), fast)
        if not isinstance(slow, Failure) and fast is not None:
            given = guards.given(slow)
            assert len(fast) == len(given) and all(a is b for a, b in zip(fast, given))
    if guards.local is None:
        again = GuardSet.from_json(json.loads(json.dumps(guards.to_json())))
        found = again.values(fn, args, kwargs)
        if isinstance(slow, Failure):
            assert str(found) == str(slow)
        else:
            assert isinstance(found, list)
            assert all(a is b for a, b in zip(again.given(found), guards.given(slow), strict=True))
    return str(slow) if isinstance(slow, Failure) else ""

"""The three readers of guards agree on random objects and random changes; and no change is missed
that the call reads.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .support import check, guards_of

CONSTANTS = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        2,
        0.0,
        -0.0,
        1.0,
        float("nan"),
        "a",
        "b",
        b"a",
        (1,),
        (1.0,),
        1j,
        torch.float32,
    ]
)
TENSORS = st.sampled_from([(2,), (3,), (2, 1), (0,)]).flatmap(
    lambda sizes: st.sampled_from([torch.float32, torch.int64]).map(
        lambda dtype: torch.zeros(sizes, dtype=dtype)
    )
)
NAMES = st.sampled_from(["a", "b", "c"])


class Plain:
    """An object with attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def _nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(NAMES, inner, max_size=3),
        st.dictionaries(NAMES, inner, max_size=3).map(lambda items: Plain(**items)),
        st.dictionaries(NAMES, TENSORS, max_size=2).map(_module),
    )


def _module(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    module = torch.nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    return module


TREES = st.recursive(st.one_of(CONSTANTS, TENSORS), _nest, max_leaves=8)


def read(tree: Any) -> Any:
    """Everything in a tree, as nested tuples with types."""
    if isinstance(tree, (list, tuple)):
        return (type(tree), [read(item) for item in tree])
    if isinstance(tree, dict):
        return (dict, [(key, read(item)) for key, item in tree.items()])
    if isinstance(tree, Plain):
        return (Plain, [(name, read(getattr(tree, name))) for name in "abc" if hasattr(tree, name)])
    if isinstance(tree, torch.nn.Module):
        return (type(tree), [(n, read(getattr(tree, n, None))) for n in "abc"], tree.training)
    return tree


def summary(tree: Any) -> Any:
    """What `read` sees, with tensors by their metadata."""
    seen = read(tree)

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return ("tensor", tuple(value.shape), value.dtype)
        if isinstance(value, (list, tuple)):
            return type(value), [plain(item) for item in value]
        return type(value), repr(value)

    return plain(seen)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree that can be set or removed."""
    found: list[tuple[Any, Any]] = []
    if isinstance(tree, list):
        found += [(tree, index) for index in range(len(tree))]
    elif isinstance(tree, dict):
        found += [(tree, key) for key in tree]
    elif isinstance(tree, Plain):
        found += [(tree, name) for name in vars(tree)]
    elif isinstance(tree, torch.nn.Module):
        return [(tree, name) for name in tree._buffers]
    children = tree if isinstance(tree, (list, tuple)) else ()
    children = tree.values() if isinstance(tree, dict) else children
    children = vars(tree).values() if isinstance(tree, Plain) else children
    for child in children:
        found += _places(child)
    return found


def _change(tree: Any, data: st.DataObject) -> None:
    """One random change somewhere inside a tree."""
    places = _places(tree)
    if not places:
        return
    target, key = data.draw(st.sampled_from(places), label="place")
    if isinstance(target, torch.nn.Module):
        setattr(target, key, data.draw(TENSORS))
        target.train(data.draw(st.booleans()))
    elif data.draw(st.booleans(), label="remove"):
        target.__delattr__(key) if isinstance(target, Plain) else target.__delitem__(key)
    else:
        value = data.draw(TREES, label="value")
        target.__setattr__(key, value) if isinstance(target, Plain) else target.__setitem__(
            key, value
        )


@settings(max_examples=150)
@given(tree=TREES, data=st.data())
def test_readers_agree_and_no_change_is_missed(tree: Any, data: st.DataObject) -> None:
    def f(x: torch.Tensor) -> Any:
        return read(tree)

    x = torch.zeros(1)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    before = summary(tree)
    for _ in range(3):
        _change(tree, data)
        failure = check(guards, f, x)
        if failure == "":
            assert summary(tree) == before


@settings(max_examples=60)
@given(tree=TREES)
def test_equal_arguments_pass(tree: Any) -> None:
    guards = guards_of(read, tree)
    for _ in range(3):
        assert check(guards, read, copy.deepcopy(tree)) == ""

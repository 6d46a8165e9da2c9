"""Which inputs share memory: part of the guard when a program writes to an input."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tracejit.runtime.paths import AROUND
from tracejit.runtime.private import storage_key


def groups(tensors: Sequence[torch.Tensor]) -> list[list[list[int]]]:
    """Groups of two or more inputs on one storage, each as [input, its offset from the group's
    first] pairs."""
    found: dict[int, list[int]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.layout is torch.strided and tensor.numel():
            found.setdefault(storage_key(tensor.untyped_storage()), []).append(index)
    return [
        [[i, int(tensors[i].storage_offset() - tensors[group[0]].storage_offset())] for i in group]
        for group in found.values()
        if len(group) > 1
    ]


def shared(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether `groups` finds any, which is sooner known than which."""
    try:
        storages = {storage_key(tensor.untyped_storage()) for tensor in tensors}
    except NotImplementedError:  # a sparse tensor has none
        return bool(groups(tensors))
    return len(storages) != len(tensors) and bool(groups(tensors))


def words(found: list[list[list[int]]], names: Sequence[str]) -> str:
    """Groups for a message: `x and y (2 elements on)`. What is made of inputs is left out."""
    if not found:
        return "none"
    return "; ".join(
        " and ".join(
            f"{names[index]} ({offset} elements on)" if offset else names[index]
            for index, offset in group
            if not names[index].startswith(AROUND)
        )
        for group in found
    )

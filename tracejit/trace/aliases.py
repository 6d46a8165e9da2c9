"""Memory, and the tensors that lie on it, by their geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from tracejit.ir.graph import Arg, Origin, Value
from tracejit.runtime import private
from tracejit.runtime.aliases import lazy_bits

Key = tuple[torch.dtype, torch.Size, tuple[int, ...], int, int]


@dataclass(eq=False, slots=True)
class Alias:
    """One geometry on one storage: a root, or `op(parent, *args)`. `value` is right if `version` is
    the storage's.
    """

    home: Storage
    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    device: str
    lazy: int = 0  # see runtime.aliases.lazy_bits
    parent: Alias | None = None
    op: str = ""
    args: tuple[Arg, ...] = ()
    origin: Origin = Origin()
    value: Value | None = None
    version: int = -1
    given: bool = False  # a tensor from outside, and a root of its memory or a view of a span
    span: bool = False  # see trace.spans
    written: bool = False  # of a root: there was a write through it

    @property
    def root(self) -> Alias:
        alias = self
        while alias.parent is not None and not alias.given:
            alias = alias.parent
        return alias

    @property
    def top(self) -> Alias:
        """The root, or the span that it has become a view of."""
        alias = self
        while alias.parent is not None:
            alias = alias.parent
        return alias


@dataclass(eq=False, slots=True)
class Storage:
    """A piece of memory. `outside`: the call did not make it. `lost`: why its values are not in the
    graph.
    """

    outside: bool = False
    version: int = 0
    roots: list[Alias] = field(default_factory=list)
    aliases: dict[int | Key, Alias] = field(default_factory=dict)
    lost: str = ""
    restore: Callable[[], Value] | None = None

    def key(self, tensor: torch.Tensor) -> int | Key:
        """What tells a tensor on it from others: how it looks; in outside memory its identity,
        since two tensors from outside may look alike.
        """
        if self.outside:
            return id(tensor)
        place = int(tensor.storage_offset())
        return tensor.dtype, tensor.shape, tensor.stride(), place, lazy_bits(tensor)


def memory_of(tensor: torch.Tensor) -> int:
    """Where a tensor's storage is; 0 if it has none (sparse, functorch's, a lazy module's)."""
    try:
        return private.storage_key(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError, ValueError):
        return 0

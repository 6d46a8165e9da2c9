"""What the text of a reference kernel calls. A value has one dimension for each axis of its nest
(or none at all).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from tracejit.runtime.philox import word  # noqa: F401  (for the text)

Sizes = dict[int, int]  # dimension -> size


def axis(dimension: int, dimensions: int, size: int, device: torch.device) -> torch.Tensor:
    """0 … size-1 along one of `dimensions` dimensions."""
    shape = [1] * dimensions
    shape[dimension] = size
    return torch.arange(size, device=device).reshape(shape)


def flat(buffer: torch.Tensor) -> torch.Tensor:
    """The memory of a buffer from its first element on, one-dimensional."""
    held = buffer.untyped_storage().nbytes() // buffer.itemsize - buffer.storage_offset()
    return buffer.as_strided((held,), (1,))


def load(
    buffer: torch.Tensor, index: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The elements at `index`; 0 where the mask is false."""
    if mask is None:
        return flat(buffer)[index]
    index, mask = torch.broadcast_tensors(index, mask)
    if flat(buffer).numel() == 0:
        return torch.zeros(index.shape, dtype=buffer.dtype, device=buffer.device)
    values = flat(buffer)[torch.where(mask, index, 0)]
    return torch.where(mask, values, torch.zeros((), dtype=buffer.dtype, device=buffer.device))


def store(
    buffer: torch.Tensor,
    index: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> None:
    """Write `value`, broadcast, at `index`; nothing where the mask is false."""
    if mask is not None:
        index, value, mask = torch.broadcast_tensors(index, value, mask)
        index, value = index[mask], value[mask]
    dimensions = max(index.dim(), value.dim())
    value = value.reshape([1] * (dimensions - value.dim()) + list(value.shape))
    index = index.reshape([1] * (dimensions - index.dim()) + list(index.shape))
    flat(buffer)[index] = value.expand(index.shape)


def reduce(name: str, value: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Combine over the dimensions of `sizes`, which stay with size 1."""
    if not sizes:
        return torch.zeros_like(value, dtype=torch.int64) if name in ("argmax", "argmin") else value
    columns, full = _columns(value, sizes)
    result = _REDUCE[name](columns)
    return result.reshape([1 if k in sizes else s for k, s in enumerate(full)])


def scan(name: str, value: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Combine what comes before, itself included, along the dimensions of `sizes` in row-major
    order."""
    if not sizes:
        return value
    columns, full = _columns(value, sizes)
    result = _SCAN[name](columns)
    rest = [s for k, s in enumerate(full) if k not in sizes]
    shaped = result.reshape(rest + list(sizes.values()))
    return shaped.movedim(list(range(len(rest), len(full))), list(sizes))


def _columns(value: torch.Tensor, sizes: Sizes) -> tuple[torch.Tensor, list[int]]:
    """The value with the reduced dimensions flattened to the last one, and its full shape."""
    rank = max(value.dim(), max(sizes) + 1)
    full = [1] * (rank - value.dim()) + list(value.shape)
    value = value.reshape(full)
    full = [sizes.get(k, s) for k, s in enumerate(full)]
    moved = value.expand(full).movedim(list(sizes), list(range(rank - len(sizes), rank)))
    return moved.reshape([*moved.shape[: rank - len(sizes)], -1]), full


def _xor(columns: torch.Tensor) -> torch.Tensor:
    return functools.reduce(torch.bitwise_xor, columns.unbind(-1))


def _all(columns: torch.Tensor) -> torch.Tensor:
    if columns.dtype == torch.bool:
        return columns.all(-1)
    return functools.reduce(torch.bitwise_and, columns.unbind(-1))


def _any(columns: torch.Tensor) -> torch.Tensor:
    if columns.dtype == torch.bool:
        return columns.any(-1)
    return functools.reduce(torch.bitwise_or, columns.unbind(-1))


_REDUCE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda c: c.sum(-1, dtype=c.dtype),
    "prod": lambda c: c.prod(-1, dtype=c.dtype),
    "min": lambda c: c.amin(-1),
    "max": lambda c: c.amax(-1),
    "any": _any,
    "all": _all,
    "xor": _xor,
    "argmin": lambda c: c.argmin(-1),
    "argmax": lambda c: c.argmax(-1),
}
_SCAN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda c: c.cumsum(-1, dtype=c.dtype),
    "prod": lambda c: c.cumprod(-1, dtype=c.dtype),
    "max": lambda c: c.cummax(-1).values,
    "min": lambda c: c.cummin(-1).values,
}

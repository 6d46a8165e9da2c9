"""Tensors of a return value that are more than what a plan made: views, tensors that conjugate or
negate their memory as it is read, leaves that require gradients.
"""

from __future__ import annotations

from typing import Any

import torch

from tracejit.runtime import private
from tracejit.runtime.constants import MISSING

NEGATED, CONJUGATED = 1, 2
Places = tuple[int, ...]


def lazy_bits(tensor: torch.Tensor) -> int:
    """1 for a tensor that negates its memory as it is read, 2 for one that conjugates it."""
    return tensor.is_neg() * NEGATED + tensor.is_conj() * CONJUGATED


def lazily(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """The same memory, read with these bits turned over."""
    if bits & CONJUGATED:
        tensor = tensor.conj()
    return private.negated(tensor) if bits & NEGATED else tensor


def physical(tensor: Any) -> Any:
    """A tensor's memory as it is, without its lazy bits, and apart from autograd; MISSING for what
    is no plain tensor."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return MISSING
    if tensor.requires_grad:
        tensor = tensor.detach()
    return lazily(tensor, lazy_bits(tensor))


def view(base: torch.Tensor, sizes: Places, strides: Places, offset: int) -> torch.Tensor:
    """A view of `base`, `offset` elements into it."""
    return torch.as_strided(base, sizes, strides, base.storage_offset() + offset)


def retyped(
    base: torch.Tensor, sizes: Places, strides: Places, offset: int, dtype: torch.dtype, pairs: bool
) -> torch.Tensor:
    """A view of `base` as another dtype, `offset` bytes into it. `pairs`: of complex numbers as
    pairs or of pairs as complex numbers, which in inference mode is another kind of view."""
    width, new = base.element_size(), dtype.itemsize
    start, odd = divmod(int(base.storage_offset()) * width + offset, new)
    if odd:
        raise AssertionError(f"a view of {dtype} that begins between two elements")
    count = base.untyped_storage().nbytes() // max(width, new)
    if pairs and dtype.is_complex:
        whole = torch.view_as_complex(torch.as_strided(base, (count, 2), (2, 1), 0))
    else:
        whole = torch.as_strided(base, (count * max(width, new) // width,), (1,), 0)
        whole = torch.view_as_real(whole) if pairs else whole.view(dtype)
    return torch.as_strided(whole, sizes, strides, start)


def inferring(tensor: torch.Tensor, inference: bool) -> torch.Tensor:
    """A tensor on the same memory, as it is made in inference mode, or outside of it."""
    with torch.inference_mode(inference):
        found = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        place = tensor.storage_offset(), tensor.size(), tensor.stride()
        return found.set_(tensor.untyped_storage(), *place)


def made(
    data: torch.Tensor, requires_grad: bool, parameter: bool, fields: dict[str, Any]
) -> torch.Tensor:
    """A tensor of its own on the memory of `data`: a leaf of autograd with these attributes."""
    if parameter:
        found: torch.Tensor = torch.nn.Parameter(data, requires_grad)
    else:
        found = data.detach().requires_grad_(requires_grad)
    found.__dict__.update(fields)
    return found

"""Tensors to NumPy arrays and back, bfloat16 included, whose type the package ml_dtypes has."""

from __future__ import annotations

from typing import Any

import torch


def to_numpy(tensor: torch.Tensor) -> Any:
    """The same values as an array."""
    tensor = tensor.detach()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes

    return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def to_torch(array: Any) -> torch.Tensor:
    """The same values as a tensor of its own."""
    if str(array.dtype) != "bfloat16":
        return torch.from_numpy(array.copy())
    bits = torch.from_numpy(array.view("int16").copy())
    return bits.view(torch.bfloat16)

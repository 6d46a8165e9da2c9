"""The micro suite's kernels in PyTorch: what the other frameworks' must equal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gate(a: Tensor, b: Tensor) -> Tensor:
    return F.gelu(a * b + a) * torch.sigmoid(b)


def gate_into(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return torch.mul(F.gelu(a * b + a), torch.sigmoid(b), out=out)


def chain(a: Tensor, b: Tensor) -> Tensor:
    c = a * 0.5 + b
    return torch.tanh(c * c - a) * torch.exp(-b.abs()) + torch.relu(a)


def broadcast(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return x * row + column


def transpose(x: Tensor) -> Tensor:
    return x.t().contiguous()


def transpose_add(x: Tensor, turned: Tensor) -> Tensor:
    return x + turned.t()


def sum_rows(x: Tensor) -> Tensor:
    return x.sum(-1)


def sum_columns(x: Tensor) -> Tensor:
    return x.sum(0)


def sum_middle(x: Tensor) -> Tensor:
    return x.sum(1)


def sum_all(x: Tensor) -> Tensor:
    return x.sum()


def max_columns(x: Tensor) -> Tensor:
    return x.amax(0)


def var_rows(x: Tensor) -> Tensor:
    return x.var(-1)


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def nll(x: Tensor, targets: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(x, -1), targets)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, 1e-6)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.group_norm(x, groups(x.shape[1]), weight, bias)


def groups(channels: int) -> int:
    """32, or as many as have two channels each."""
    return min(32, channels // 2)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def gelu_gate(a: Tensor, b: Tensor) -> Tensor:
    return F.gelu(a) * b


def silu_gate(a: Tensor, b: Tensor) -> Tensor:
    return F.silu(a) * b


def argmax(x: Tensor) -> Tensor:
    return x.argmax(-1)


def cumsum(x: Tensor) -> Tensor:
    return x.cumsum(-1)


def embedding_add(table: Tensor, ids: Tensor, places: Tensor) -> Tensor:
    return F.embedding(ids, table) + places


def embedding_sum(table: Tensor, bags: Tensor) -> Tensor:
    return F.embedding(bags, table).sum(1)

"""The whole path on a GPU: recorded there, compiled for it, run on it. Skips without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracejit
from tracejit.api import dispatcher_of
from tracejit.runtime import philox

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


class Block(nn.Module):
    """A norm, attention, a gate and a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.qkv = nn.Linear(64, 192)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        q, k, v = self.qkv(self.norm(x)).view(4, 32, 3, 4, 16).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(4, 32, 64)
        return x + F.silu(y)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "pointwise": lambda x: F.gelu(x * 2 + 1) * torch.sigmoid(x),
    "softmax": lambda x: torch.softmax(x, -1),
    "sum of all": lambda x: x.expand(1 << 12, -1, -1).sum(),
    "transposed": lambda x: (x.transpose(0, 1) + 1).contiguous(),
    "not aligned": lambda x: x.flatten()[1:] * 3,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_equals_eager(name: str, fresh_cache: Any) -> None:
    function = FUNCTIONS[name]
    compiled = tracejit.compile(function, wait=True, strict=True)
    x = torch.randn(33, 65, device="cuda")
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(
                compiled(x), function(x), rtol=1e-4, atol=1e-4, check_stride=True
            )
    (entry,) = dispatcher_of(compiled).entries
    assert entry.run is not None, entry.reason


def test_module_equals_eager_and_is_found_on_disk(fresh_cache: Any) -> None:
    block = Block().cuda().eval()
    x = torch.randn(4, 32, 64, device="cuda")
    sources = []
    with torch.no_grad():
        for _ in range(2):
            compiled = tracejit.compile(block, wait=True, strict=True)
            for _ in range(2):
                before = block.calls.clone()
                torch.testing.assert_close(compiled(x), block(x), rtol=1e-4, atol=1e-4)
                assert torch.equal(block.calls, before + 2)
            sources += [entry.source for entry in dispatcher_of(compiled).entries]
    assert sources == ["recorded", "disk"]


@pytest.mark.parametrize("dtype", philox.DIGITS, ids=str)
def test_fast_draws_are_those_of_their_keys(dtype: torch.dtype, fresh_cache: Any) -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.rand_like(x), torch.randn_like(x), F.dropout(x, 0.3)

    compiled = tracejit.compile(function, wait=True, strict=True, numerics="fast")
    x = torch.ones(33, 65, device="cuda", dtype=dtype)
    compiled(x)
    torch.manual_seed(7)
    uniform, normal, dropped = (t.cpu() for t in compiled(x))
    torch.manual_seed(7)
    keys = [key.cpu() for key in philox.keys(3, device=torch.device("cuda"))]
    assert torch.equal(uniform, philox.uniform(keys[0], x.shape, dtype))
    torch.testing.assert_close(normal, philox.normal(keys[1], x.shape, dtype))
    assert torch.equal(dropped != 0, philox.bernoulli(keys[2], x.shape, 0.7))

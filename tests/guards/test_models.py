"""Real models can be observed: nothing in them is taken for an effect, and nothing needs this
process.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tracejit.runtime.guards import GuardSet
from tracejit.trace.observe import Observer
from tracejit.trace.recorder import record

from .support import check

transformers = pytest.importorskip("transformers")


def _llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), {"input_ids": torch.ones(1, 8, dtype=torch.long)}


def _llama_masked() -> Any:
    model, inputs = _llama()
    return model, {**inputs, "attention_mask": torch.ones(1, 8, dtype=torch.long)}


def _gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config), {"input_ids": torch.ones(1, 8, dtype=torch.long)}


def _bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4,
    )  # fmt: skip
    ids = torch.ones(1, 8, dtype=torch.long)
    return transformers.BertModel(config), {"input_ids": ids, "attention_mask": ids}


def _vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        image_size=16, patch_size=8,
    )  # fmt: skip
    return transformers.ViTModel(config), {"pixel_values": torch.zeros(1, 3, 16, 16)}


def _resnet() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    return transformers.ResNetModel(config), {"pixel_values": torch.zeros(1, 3, 32, 32)}


def observed(model: nn.Module, inputs: dict[str, Any]) -> GuardSet:
    """Guards of one call, recorded."""
    observer = Observer(model, (), inputs)
    _, recording = record(model, (), inputs, observer=observer)
    assert recording.refused is None, recording.refused
    guards = observer.finish(recording)
    assert isinstance(guards, GuardSet), str(guards)
    return guards


@pytest.mark.parametrize("make", [_llama, _llama_masked, _gpt2, _bert, _vit, _resnet])
def test_models_of_transformers(make: Any) -> None:
    model, inputs = make()
    model.eval()
    if "input_ids" in inputs and hasattr(model.config, "use_cache"):
        inputs["use_cache"] = False
    with torch.no_grad():
        guards = observed(model, inputs)
        assert guards.local is None and "transformers" in guards.packages
        assert check(guards, model, **inputs) == ""
        last = next(
            m for m in reversed(list(model.modules())) if isinstance(m, (nn.Linear, nn.Conv2d))
        )
        last.register_forward_hook(lambda *args: None)
        assert "_forward_hooks was empty" in check(guards, model, **inputs)
        last._forward_hooks.clear()
        assert check(guards, model, **inputs) == ""
        model.train()
        assert "training was False, is True" in check(guards, model, **inputs)


def test_a_change_of_a_configuration_is_named() -> None:
    model, inputs = _llama()
    model.eval()
    inputs["use_cache"] = False
    with torch.no_grad():
        guards = observed(model, inputs)
        model.config._attn_implementation = "eager"
        found = check(guards, model, **inputs)
        assert found == "self.config._attn_implementation_internal was 'sdpa', is 'eager'"


@pytest.mark.parametrize(
    "module",
    [
        nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True),
        nn.Sequential(nn.Conv1d(4, 4, 1), nn.GELU(), nn.BatchNorm1d(4), nn.Flatten()),
        nn.Bilinear(8, 8, 2),
        nn.GroupNorm(2, 4),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_of_torch(module: nn.Module) -> None:
    module.eval()
    x = torch.zeros(2, 4, 8)
    args = (x, x) if isinstance(module, nn.Bilinear) else (x,)
    with torch.no_grad():
        observer = Observer(module, args, {})
        _, recording = record(module, args, {}, observer=observer)
        guards = observer.finish(recording)
        assert isinstance(guards, GuardSet), str(guards)
        assert check(guards, module, *args) == ""

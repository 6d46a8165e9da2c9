"""Models with random weights and their inputs, for benchmarks and for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from tracejit.benchmarks.registry import Work


class AddNorm(nn.Module):
    """The end of a residual block: LayerNorm(x + y)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.norm(x + y)
        return found


class Block(nn.Module):
    """A pre-norm transformer block: causal attention and a GELU feed-forward, 4 times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        split = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        found: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.norm1(x))
        found: torch.Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return found


class GPT(nn.Module):
    """Token ids [batch, tokens] to logits [batch, tokens, vocabulary]."""

    def __init__(
        self, blocks: int = 4, width: int = 256, heads: int = 8, vocabulary: int = 1000
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(128, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        found: torch.Tensor = self.head(self.norm(x))
        return found


@dataclass(frozen=True)
class Size:
    """How large a transformer and its input are."""

    blocks: int = 3
    width: int = 256
    heads: int = 8
    vocabulary: int = 1000
    batch: int = 4
    tokens: int = 128

    def ids(self) -> torch.Tensor:
        """Random token ids [batch, tokens]."""
        return torch.randint(0, self.vocabulary, (self.batch, self.tokens))

    @property
    def places(self) -> int:
        """Positions that the model has embeddings for."""
        return max(64, self.tokens)


SMALL = Size(blocks=3, width=64, heads=4, vocabulary=128, batch=2, tokens=16)  # of the tests
TINY = replace(SMALL, blocks=1, batch=1, tokens=8)  # a call is all overhead


def mlp(widths: tuple[int, ...], batch: int) -> Work:
    """Linear layers of these widths with GELU between them."""
    layers: list[nn.Module] = []
    for inner, outer in zip(widths, widths[1:]):
        layers += [nn.Linear(inner, outer), nn.GELU()]
    return Work(nn.Sequential(*layers[:-1]).eval(), (torch.randn(batch, widths[0]),))


class Sequences(nn.Module):
    """The last state of a stack of LSTM layers, mapped to scores."""

    def __init__(self, inputs: int, width: int, layers: int, scores: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, layers, batch_first=True)
        self.head = nn.Linear(width, scores)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(x)
        found: torch.Tensor = self.head(states[:, -1])
        return found


def lstm(inputs: int, width: int, layers: int, batch: int, steps: int) -> Work:
    model = Sequences(inputs, width, layers, 10)
    return Work(model.eval(), (torch.randn(batch, steps, inputs),))


def gpt(size: Size) -> Work:
    model = GPT(size.blocks, size.width, size.heads, size.vocabulary)
    return Work(model.eval(), (size.ids(),), options={"heads": size.heads})


def llama(size: Size) -> Work:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.width * 5 // 2,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 2,
        max_position_embeddings=size.places,
        use_cache=False,
    )
    return Work(LlamaForCausalLM(config).eval(), (size.ids(),))


def gpt2(size: Size) -> Work:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.places,
        n_embd=size.width,
        n_layer=size.blocks,
        n_head=size.heads,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    return Work(GPT2LMHeadModel(config).eval(), (size.ids(),))


def bert(size: Size) -> Work:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        max_position_embeddings=size.places,
    )
    return Work(BertModel(config).eval(), (size.ids(),))


def vit(size: Size, pixels: int = 32) -> Work:
    """On `size.batch` square images, in patches of 8 × 8."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=size.width,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        image_size=pixels,
        patch_size=8,
        num_labels=10,
    )
    images = torch.randn(size.batch, 3, pixels, pixels)
    return Work(ViTForImageClassification(config).eval(), (images,))


def resnet(blocks: int, widths: tuple[int, ...], batch: int, pixels: int) -> Work:
    """A stage of `blocks` basic layers for each width, on square images."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=[blocks] * len(widths),
        layer_type="basic",
        num_labels=10,
    )
    model = ResNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh ones are 0 and 1, which hides mistakes
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return Work(model, (torch.randn(batch, 3, pixels, pixels),))


def _small(build: Callable[[Size], Work]) -> Callable[..., Work]:
    """The model in the size of the tests, with as many blocks as asked for."""

    def made(blocks: int = SMALL.blocks) -> Work:
        return build(replace(SMALL, blocks=blocks))

    return made


# What the tests pin: small enough to run interpreted.
MODELS: dict[str, Callable[..., Work]] = {
    "gpt": lambda blocks=4: gpt(Size(blocks=blocks)),
    "llama": _small(llama),
    "gpt2": _small(gpt2),
    "bert": _small(bert),
    "vit": _small(vit),
    "resnet": lambda blocks=2: resnet(blocks, (16, 32), 2, 32),
}

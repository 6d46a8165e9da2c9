"""Language models and tensor notation: x-transformers, einops, einx."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tools.foreign.case import Case

WORDS, LENGTH, WIDTH = 64, 32, 64
Made = tuple[Callable[..., Any], tuple[Any, ...]]


def _library() -> Any:
    """x-transformers; imported when a case of it is built."""
    return importlib.import_module("x_transformers")


def _tokens(length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, WORDS, (2, length))


def _model(layers: str, wrapper: dict[str, Any], depth: int, **how: Any) -> Any:
    """A transformer over tokens; `how` are the options of its layers."""
    x = _library()
    stack = getattr(x, layers)(dim=WIDTH, depth=depth, heads=4, attn_dim_head=16, **how)
    given = {"num_tokens": WORDS, "max_seq_len": LENGTH} | wrapper
    return x.TransformerWrapper(attn_layers=stack, **given).eval()


def _over_tokens(layers: str, wrapper: dict[str, Any] | None = None, **how: Any) -> Made:
    torch.manual_seed(0)
    return _model(layers, wrapper or {}, how.pop("depth", 2), **how), (_tokens(),)


def _padded_encoder() -> Made:
    """An encoder that is given a mask of what is no padding."""
    torch.manual_seed(0)
    model = _model("Encoder", {}, 2)
    mask = torch.arange(LENGTH) < torch.tensor([[20], [32]])
    return (lambda tokens, kept: model(tokens, mask=kept)), (_tokens(), mask)


def _recurrent_memory() -> Made:
    """Transformer-XL: memories of the segment before are given and returned."""
    torch.manual_seed(0)
    model = _model("Decoder", {"max_mem_len": LENGTH}, 2, rel_pos_bias=True)
    memories = [torch.randn(2, LENGTH, WIDTH) for _ in range(2)]
    call = partial(model, return_mems=True)
    return (lambda tokens, given: call(tokens, mems=given)), (_tokens(), memories)


def _cached_step() -> Made:
    """One token more: keys and values of those before are given."""
    torch.manual_seed(0)
    model = _model("Decoder", {}, 2, rotary_pos_emb=True)
    with torch.no_grad():
        _, before = model(_tokens(16), return_intermediates=True)
    return partial(model, cache=before), (_tokens(17),)


def _encoder_decoder() -> Made:
    torch.manual_seed(0)
    sizes = {"num_tokens": WORDS, "max_seq_len": LENGTH, "depth": 2, "heads": 4}
    both = {f"{part}_{name}": n for part in ("enc", "dec") for name, n in sizes.items()}
    model = _library().XTransformer(dim=WIDTH, tie_token_emb=True, **both).eval()
    return model, (_tokens(), _tokens())


def _generate(**how: Any) -> Made:
    """The method that generates, four tokens after eight."""
    torch.manual_seed(0)
    model = _library().AutoregressiveWrapper(_model("Decoder", {}, 2, rotary_pos_emb=True))
    return partial(model.eval().generate, seq_len=4, **how), (_tokens(8),)


def _continuous() -> Made:
    torch.manual_seed(0)
    x = _library()
    layers = x.Encoder(dim=WIDTH, depth=2, heads=4)
    model = x.ContinuousTransformerWrapper(
        dim_in=24, dim_out=10, max_seq_len=LENGTH, attn_layers=layers
    )
    return model.eval(), (torch.randn(2, LENGTH, 24),)


def _image() -> Made:
    torch.manual_seed(0)
    x = _library()
    layers = x.Encoder(dim=WIDTH, depth=2, heads=4)
    model = x.ViTransformerWrapper(
        image_size=32, patch_size=8, num_classes=10, num_register_tokens=4, attn_layers=layers
    )
    return model.eval(), (torch.randn(2, 3, 32, 32),)


def _numbers() -> Made:
    """Tokens some of which are numbers, given beside them."""
    torch.manual_seed(0)
    x = _library()
    layers = x.Decoder(dim=WIDTH, depth=2, heads=4)
    model = x.XValTransformerWrapper(
        num_tokens=WORDS, numerical_token_id=3, max_seq_len=LENGTH, attn_layers=layers
    )
    return model.eval(), (_tokens(), torch.randn(2, LENGTH))


def _loss() -> Made:
    """The loss of a next-token predictor, without gradients."""
    torch.manual_seed(0)
    return _library().AutoregressiveWrapper(_model("Decoder", {}, 2)).eval(), (_tokens(),)


def _neo_mlp() -> Made:
    torch.manual_seed(0)
    model = _library().NeoMLP(dim_in=5, dim_hidden=7, dim_out=3, dim_model=WIDTH, depth=2)
    return model.eval(), (torch.randn(4, 5),)


def _attention() -> Made:
    """A layer by itself, with a relative bias of its own."""
    torch.manual_seed(0)
    layer = _library().Attention(dim=WIDTH, heads=4, qk_norm=True, pre_talking_heads=True)
    return layer.eval(), (torch.randn(2, LENGTH, WIDTH),)


def _einops(name: str, pattern: str, *shape: int, **sizes: Any) -> Made:
    torch.manual_seed(0)
    call = getattr(importlib.import_module("einops"), name)
    if name == "repeat" or name == "rearrange":
        return (lambda x: call(x, pattern, **sizes) + 1), (torch.randn(*shape),)
    return (lambda x: call(x, pattern, **sizes)), (torch.randn(*shape),)


def _einops_layers() -> Made:
    """einops' layers within a Sequential."""
    torch.manual_seed(0)
    layers = importlib.import_module("einops.layers.torch")
    cut = layers.Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=4, q=4)
    model = torch.nn.Sequential(
        cut, torch.nn.Linear(48, 32), torch.nn.GELU(), layers.Reduce("b n d -> b d", "max")
    )
    return model.eval(), (torch.randn(2, 3, 16, 16),)


def _einx(name: str, pattern: str, *shapes: tuple[int, ...]) -> Made:
    torch.manual_seed(0)
    call = getattr(importlib.import_module("einx"), name)
    return (lambda *given: call(pattern, *given)), tuple(torch.randn(shape) for shape in shapes)


def _case(package: str, name: str, build: Callable[..., Made], *args: Any, **how: Any) -> Case:
    return Case(name, package, partial(build, *args, **how))


_x = partial(_case, "x-transformers")

CASES = (
    _x("decoder", _over_tokens, "Decoder"),
    _x("encoder", _over_tokens, "Encoder"),
    _x("encoder, padded", _padded_encoder),
    _x("rotary, rmsnorm, swiglu", _over_tokens, "Decoder", rotary_pos_emb=True, use_rmsnorm=True,
       ff_glu=True, ff_swish=True, ff_no_bias=True),
    _x("alibi", _over_tokens, "Decoder", alibi_pos_bias=True),
    _x("relative bias", _over_tokens, "Decoder", rel_pos_bias=True),
    _x("dynamic bias", _over_tokens, "Decoder", dynamic_pos_bias=True),
    _x("xpos", _over_tokens, "Decoder", rotary_xpos=True),
    _x("flash attention", _over_tokens, "Decoder", attn_flash=True),
    _x("grouped queries", _over_tokens, "Decoder", attn_kv_heads=2, rotary_pos_emb=True),
    _x("memory tokens", _over_tokens, "Encoder", {"num_memory_tokens": 4}),
    _x("key-value memories", _over_tokens, "Encoder", attn_num_mem_kv=4),
    _x("macaron, sandwich norm", _over_tokens, "Encoder", macaron=True, sandwich_norm=True),
    _x("residual attention", _over_tokens, "Encoder", residual_attn=True),
    _x("shifted tokens", _over_tokens, "Decoder", shift_tokens=1),
    _x("sparse top-k attention", _over_tokens, "Decoder", attn_sparse_topk=8),
    _x("talking heads", _over_tokens, "Decoder", attn_pre_talking_heads=True),
    _x("gated residual", _over_tokens, "Encoder", gate_residual=True),
    _x("hyper-connections", _over_tokens, "Decoder", num_residual_streams=4),
    _x("value residual", _over_tokens, "Decoder", add_value_residual=True),
    _x("transformer-xl", _recurrent_memory),
    _x("one cached step", _cached_step),
    _x("encoder-decoder loss", _encoder_decoder),
    _x("generate, greedy", _generate, temperature=0.0),
    _x("generate, sampled", _generate),
    _x("continuous", _continuous),
    _x("vision", _image),
    _x("numbers", _numbers),
    _x("next-token loss", _loss),
    _x("neo-mlp", _neo_mlp),
    _x("attention", _attention),
    _case("einops", "rearrange", _einops, "rearrange", "b (h w) c -> b c h w", 2, 64, 8, h=8),
    _case("einops", "reduce", _einops, "reduce", "b c (h i) (w j) -> b c h w", 2, 8, 16, 16,
          reduction="mean", i=2, j=2),
    _case("einops", "repeat", _einops, "repeat", "b c -> b (r c) n", 4, 8, r=3, n=5),
    _case("einops", "layers", _einops_layers),
    _case("einx", "softmax", _einx, "softmax", "a [b]", (8, 32)),
    _case("einx", "dot", _einx, "dot", "b q [d], b k [d] -> b q k", (2, 8, 16), (2, 12, 16)),
    _case("einx", "mean", _einx, "mean", "b [s] c", (2, 16, 8)),
)  # fmt: skip

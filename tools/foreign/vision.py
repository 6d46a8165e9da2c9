"""Models that see: convolutions, transformers, and what is between them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from tools.foreign.case import Case

Args = tuple[Any, ...]


def images(size: int = 64, batch: int = 2) -> Callable[[], Args]:
    return lambda: (torch.randn(batch, 3, size, size),)


def _case(name: str, package: str, make: Callable[[], Any], args: Callable[[], Args]) -> Case:
    def build() -> tuple[Callable[..., Any], Args]:
        torch.manual_seed(0)
        made = make()
        return made.eval() if isinstance(made, torch.nn.Module) else made, args()

    return Case(name, package, build)


def timm(name: str, args: Callable[[], Args], **options: Any) -> Case:
    """A model of timm's, by the name in its registry."""
    return _case(name, "timm", lambda: import_module("timm").create_model(name, **options), args)


def torchvision(name: str, args: Callable[[], Args], **options: Any) -> Case:
    """A model of torchvision's, by the name in its registry."""

    def make() -> Any:
        return import_module("torchvision.models").get_model(name, weights=None, **options)

    return _case(name, "torchvision", make, args)


TRANSFORMER = {"num_classes": 10, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}
SQUARES = {"image_size": 64, "patch_size": 8, **TRANSFORMER}


def vit(module: str, name: str, args: Callable[[], Args], **options: Any) -> Case:
    """A small model of vit-pytorch's, by its module and class."""

    def make() -> Any:
        return getattr(import_module(f"vit_pytorch.{module}"), name)(**options)

    return _case(f"{module}.{name}", "vit-pytorch", make, args)


def function(package: str, module: str, name: str, args: Callable[[], Args]) -> Case:
    """A function, compiled by itself."""
    return _case(f"{module}.{name}", package, lambda: getattr(import_module(module), name), args)


CASES: list[Case] = [
    timm("test_resnet", images(96)),
    timm("test_efficientnet", images(96)),
    timm("test_convnext", images(96)),
    timm("test_vit", images(160)),
    timm("test_maxvit", images(160)),
    timm("test_mambaout", images(96)),
    timm("mobilenetv3_small_050", images()),
    timm("ghostnet_050", images()),
    timm("efficientvit_m0", images(224, 1)),
    timm("edgenext_xx_small", images(128, 1)),
    timm("mobilevit_xxs", images(128, 1)),
    timm("mixer_s32_224", images(224, 1)),
    timm("xcit_nano_12_p16_224", images(224, 1)),
    timm("pvt_v2_b0", images(128, 1)),
    timm("levit_128s", images(224, 1)),
    torchvision("resnet18", images()),
    torchvision("mobilenet_v3_small", images()),
    torchvision("shufflenet_v2_x0_5", images()),
    torchvision("squeezenet1_1", images()),
    torchvision("swin_t", images(64, 1)),
    torchvision("lraspp_mobilenet_v3_large", images(), weights_backbone=None),
    torchvision("r3d_18", lambda: (torch.randn(1, 3, 4, 32, 32),)),
    vit("vit", "ViT", images(), **SQUARES),
    vit("simple_vit", "SimpleViT", images(), **SQUARES),
    vit("cait", "CaiT", images(), cls_depth=2, **SQUARES),
    vit("deepvit", "DeepViT", images(), **SQUARES),
    vit("rvt", "RvT", images(), **SQUARES),
    vit("vit_with_patch_merger", "ViT", images(), **SQUARES),
    function(
        "timm",
        "timm.layers.pos_embed_sincos",
        "apply_rot_embed_cat",
        lambda: (torch.randn(2, 4, 16, 32), torch.randn(16, 64)),
    ),
    function(
        "timm",
        "timm.layers.pos_embed",
        "resample_abs_pos_embed",
        lambda: (torch.randn(1, 17, 32), [8, 8]),
    ),
    function("timm", "timm.layers.evo_norm", "group_rms", lambda: (torch.randn(2, 64, 8, 8),)),
    function("timm", "timm.layers.drop", "drop_path", lambda: (torch.randn(8, 16, 32), 0.2, True)),
    function(
        "timm",
        "timm.models.swin_transformer",
        "window_partition",
        lambda: (torch.randn(2, 16, 16, 8), (4, 4)),
    ),
    function("vit-pytorch", "vit_pytorch.simple_vit", "posemb_sincos_2d", lambda: (8, 8, 64)),
]

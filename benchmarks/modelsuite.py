"""The suite of models as data: `models/NAME/BATCH/DTYPE`, inference. How long a model takes to
start is measured at batch 1 in fp32, where the compilers' work is no different."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from tracejit.benchmarks.micro import DTYPES
from tracejit.benchmarks.registry import Pace, Work, Workload, enter

BATCHES = {"b1": 1, "b8": 8}
PACE = Pace(rounds=20, seconds=0.04, total=4.0)
STARTED = ("b1", "fp32")


def _transformer(name: str, blocks: int = 3) -> Callable[[int, bool], Work]:
    """A model of tracejit.benchmarks.models that is built from a Size."""

    def make(batch: int, tiny: bool) -> Work:
        from tracejit.benchmarks import models

        size = models.TINY if tiny else models.Size(blocks=blocks)
        work: Work = getattr(models, name)(replace(size, batch=batch))
        return work

    return make


def _vit(batch: int, tiny: bool) -> Work:
    from tracejit.benchmarks import models

    size = models.TINY if tiny else models.Size()
    return models.vit(replace(size, batch=batch), 16 if tiny else 88)


def _resnet18(batch: int, tiny: bool) -> Work:
    from tracejit.benchmarks import models

    if tiny:
        return models.resnet(1, (8,), 1, 16)
    return models.resnet(2, (64, 128, 256, 512), batch, 224)


def _lstm(batch: int, tiny: bool) -> Work:
    from tracejit.benchmarks import models

    return models.lstm(4, 8, 1, 1, 4) if tiny else models.lstm(128, 256, 2, batch, 64)


def _mlp(batch: int, tiny: bool) -> Work:
    from tracejit.benchmarks import models

    return models.mlp((4, 8, 4), 1) if tiny else models.mlp((512, 2048, 2048, 2048, 512), batch)


@dataclass(frozen=True)
class Model:
    """One line of the suite: its name, what it is, how it is built for a batch."""

    name: str
    about: str
    make: Callable[[int, bool], Work]
    needs: str = ""
    port: str = ""


MODELS = (
    Model(
        "gpt",
        "a 4-block GPT, 256 wide, 128 tokens",
        _transformer("gpt", blocks=4),
        port="models:gpt",
    ),
    Model("llama", "Llama, 3 layers, 256 wide, 128 tokens", _transformer("llama"), "transformers"),
    Model("bert", "BERT, 3 layers, 256 wide, 128 tokens", _transformer("bert"), "transformers"),
    Model("vit", "ViT, 3 layers, 256 wide, images of 88 × 88", _vit, "transformers"),
    Model("resnet18", "the shape of ResNet-18, images of 224 × 224", _resnet18, "transformers"),
    Model("lstm", "2 LSTM layers, 256 wide, 64 steps", _lstm),
    Model("mlp", "4 linear layers, 2048 wide, with GELU", _mlp, port="models:mlp"),
)


def build(model: Model, batch: int, dtype: str, tiny: bool) -> Work:
    """The model and its inputs in this element type."""
    import torch

    work, wanted = model.make(batch, tiny), getattr(torch, DTYPES[dtype])
    assert isinstance(work.function, torch.nn.Module)
    args = tuple(a.to(wanted) if a.is_floating_point() else a for a in work.args)
    return replace(work, function=work.function.to(wanted), args=args)


for _model in MODELS:
    for _batch, _count in BATCHES.items():
        for _dtype in DTYPES:
            started = (_batch, _dtype) == STARTED
            enter(
                Workload(
                    f"models/{_model.name}/{_batch}/{_dtype}",
                    f"{_model.about}; batch {_count}, {_dtype}",
                    functools.partial(build, _model, _count, _dtype),
                    needs=_model.needs,
                    default=False,
                    measures=("startup", "steady", "memory") if started else ("steady",),
                    port=_model.port,
                    pace=PACE,
                )
            )

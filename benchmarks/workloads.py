"""The registered workloads. torch and transformers are imported when one is built."""

from __future__ import annotations

from tracejit.benchmarks.registry import Work, workload


@workload("gelu(a·b + a)·sigmoid(b) on 2 M floats", port="micro:gate", streams=True)
def pointwise(tiny: bool) -> Work:
    import torch

    from tracejit.benchmarks.ports.torch_micro import gate

    shape = (4, 4) if tiny else (2048, 1024)
    return Work(gate, (torch.randn(shape), torch.randn(shape)))


@workload("softmax of the rows of 4096 × 512 floats", port="micro:softmax", streams=True)
def softmax(tiny: bool) -> Work:
    import torch

    from tracejit.benchmarks.ports import torch_micro

    return Work(torch_micro.softmax, (torch.randn((4, 4) if tiny else (4096, 512)),))


@workload("layer norm of a sum, 4096 × 512 floats", port="models:add-norm", streams=True)
def layer_norm(tiny: bool) -> Work:
    import torch

    from tracejit.benchmarks.models import AddNorm

    rows, width = (4, 4) if tiny else (4096, 512)
    return Work(AddNorm(width).eval(), (torch.randn(rows, width), torch.randn(rows, width)))


@workload("a 4-block GPT in plain PyTorch, 256 wide, 4 × 128 tokens", port="models:gpt")
def gpt(tiny: bool) -> Work:
    from tracejit.benchmarks import models

    return models.gpt(models.TINY if tiny else models.Size(blocks=4))


@workload("the same with 16 blocks", default=False, port="models:gpt")
def gpt16(tiny: bool) -> Work:
    from tracejit.benchmarks import models

    return models.gpt(models.TINY if tiny else models.Size(blocks=16))


@workload("Llama of transformers, 3 layers, 256 wide, 4 × 128 tokens", needs="transformers")
def llama(tiny: bool) -> Work:
    from tracejit.benchmarks import models

    return models.llama(models.TINY if tiny else models.Size())


@workload("GPT-2 of transformers, 3 layers, 256 wide, 4 × 128 tokens", needs="transformers")
def gpt2(tiny: bool) -> Work:
    from tracejit.benchmarks import models

    return models.gpt2(models.TINY if tiny else models.Size())


@workload("BERT of transformers, 3 layers, 256 wide, 4 × 128 tokens", needs="transformers")
def bert(tiny: bool) -> Work:
    from tracejit.benchmarks import models

    return models.bert(models.TINY if tiny else models.Size())


@workload("ViT of transformers, 3 layers, 256 wide, 4 images of 88 × 88", needs="transformers")
def vit(tiny: bool) -> Work:
    from tracejit.benchmarks import models

    return models.vit(models.TINY if tiny else models.Size(), 16 if tiny else 88)


@workload("ResNet of transformers, 2 stages of 2 layers, 8 images of 64 × 64", needs="transformers")
def resnet(tiny: bool) -> Work:
    from tracejit.benchmarks import models

    return models.resnet(1, (8,), 1, 16) if tiny else models.resnet(2, (64, 128), 8, 64)

"""Ambient state of torch that changes what a call does without any name in the user's code: guarded
once per entry.
"""

from __future__ import annotations

from typing import Any

import torch

from tracejit.runtime import private, tracers

_DEVICES = ("cpu", "cuda", "xpu", "hpu", "mps")


def capture() -> dict[str, Any]:
    """The state now, as JSON. With equal states, equal calls run the same operations."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "default device": default_device(),
        "autocast": _autocast(),
        "deterministic algorithms": _deterministic(),
        "TF32": torch.backends.cuda.matmul.allow_tf32,
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "reduced-precision reductions": _reduced_precision(),
        "forward-mode AD level": private.dual_level(),
        "global module hooks": global_hooks(),
    }


def default_device() -> str | None:
    """The device of `torch.set_default_device` or an active `with torch.device(…)`; None if there
    is neither.
    """
    if not private.function_modes():
        return None
    return str(torch.get_default_device())


def _autocast() -> dict[str, str]:
    """For each device with autocast on, its dtype."""
    return {
        device: str(torch.get_autocast_dtype(device)).removeprefix("torch.")
        for device in _DEVICES
        if torch.is_autocast_enabled(device)
    }


def _deterministic() -> list[bool]:
    """Whether it is on, and then whether it only warns and fills memory without values."""
    if not torch.are_deterministic_algorithms_enabled():
        return [False, False]
    return [True, torch.is_deterministic_algorithms_warn_only_enabled(), fills()]


def fills() -> bool:
    """Whether torch fills memory without values just now."""
    on = torch.are_deterministic_algorithms_enabled()
    return on and bool(getattr(torch.utils.deterministic, "fill_uninitialized_memory", False))


def _reduced_precision() -> list[bool]:
    matmul = torch.backends.cuda.matmul
    return [
        bool(matmul.allow_fp16_reduced_precision_reduction),
        bool(matmul.allow_bf16_reduced_precision_reduction),
    ]


def global_hooks() -> int:
    """How many hooks `torch.nn.modules.module.register_module_*_hook` has installed."""
    return sum(map(len, private.module_hooks()))


_QUICK = (
    "not same_state()",
    f"{private.DUAL_LEVEL} != level",
    "forward_hooks or before_hooks or backward_hooks or earlier_hooks",
)
_NO_FUNCTION_MODE = ("function_modes()",)
_FUNCTION_MODES = (
    "function_modes() != mode_count or foreign_mode() or default_device() != device",
)
# These show in the dispatch keys that tensors have at the moment of a call.
_WITHOUT_TENSORS = (
    "functorch() is not None",
    "tracing() is not None",
    "inference_mode() is not inference",
)


def quick_check(tensors: bool) -> tuple[list[str], dict[str, Any]]:
    """Conditions, in the text of a compiled check, that something may have changed since now: the
    state, or whether the call happens inside another tracer (runtime.tracers, all but the dispatch
    modes). And what the names in them stand for.

    It may be too careful (it also sees the number of threads): the full comparison follows.
    `tensors`: the metadata of some are compared too.
    """
    hooks = ("forward_hooks", "before_hooks", "backward_hooks", "earlier_hooks")
    names = {
        "functorch": private.functorch,
        "function_modes": private.function_modes,
        "tracing": private.jit_tracing,
        "same_state": private.global_state_guard().check,
        "mode_count": private.function_modes(),
        "foreign_mode": tracers.foreign_function_mode,
        "forward_ad": private.forward_ad,
        "level": private.dual_level(),
        "inference_mode": torch.is_inference_mode_enabled,
        "inference": torch.is_inference_mode_enabled(),
        "fills": fills,
        "filled": fills(),
        "default_device": default_device,
        "device": default_device(),
        **dict(zip(hooks, private.module_hooks())),
    }
    filled = ["fills() is not filled"] if torch.are_deterministic_algorithms_enabled() else []
    modes = _FUNCTION_MODES if private.function_modes() else _NO_FUNCTION_MODE
    return [*_QUICK, *filled, *modes, *(() if tensors else _WITHOUT_TENSORS)], names

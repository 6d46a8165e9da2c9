"""Settings of torch that a program can ask for and set: guarded where a call asks, replayed where
it sets them. (Those that change what operations do are guarded always: runtime.state.)

Each goes by the name of the function of torch's core that says what it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tracejit.runtime import private
from tracejit.runtime.constants import LEAVES

# The function that asks, and the one that sets: "" where no call may.
_ROWS: dict[str, str] = {
    "get_default_dtype": "_set_default_dtype",
    "get_num_threads": "set_num_threads",
    "get_num_interop_threads": "",
    "is_anomaly_enabled": "set_anomaly_enabled",
    "is_anomaly_check_nan_enabled": "set_anomaly_enabled",
    "_get_warnAlways": "_set_warnAlways",
    "_get_qengine": "_set_qengine",
    "_get_deterministic_fill_uninitialized_memory": "_set_deterministic_fill_uninitialized_memory",
    "_get_mkldnn_enabled": "_set_mkldnn_enabled",
    "_get_mkldnn_deterministic": "_set_mkldnn_deterministic",
    "_get_nnpack_enabled": "_set_nnpack_enabled",
    "_get_cudnn_enabled": "_set_cudnn_enabled",
    "_get_cudnn_benchmark": "_set_cudnn_benchmark",
    "_get_cudnn_deterministic": "_set_cudnn_deterministic",
    "_get_cudnn_allow_tf32": "_set_cudnn_allow_tf32",
    "_get_cublas_allow_fp16_accumulation": "_set_cublas_allow_fp16_accumulation",
    "_get_flash_sdp_enabled": "_set_sdp_use_flash",
    "_get_mem_efficient_sdp_enabled": "_set_sdp_use_mem_efficient",
    "_get_math_sdp_enabled": "_set_sdp_use_math",
    "_get_cudnn_sdp_enabled": "_set_sdp_use_cudnn",
    "_get_overrideable_sdp_enabled": "_set_sdp_use_overrideable",
    "_get_math_sdp_allow_fp16_bf16_reduction": "_set_math_sdp_allow_fp16_bf16_reduction",
    "_get_sdp_priority_order": "_set_sdp_priority_order",
    "_get_linalg_preferred_backend": "",
    "_get_blas_preferred_backend": "",
}
IN_STATE = frozenset({"default dtype"})  # what runtime.state calls the rows that it knows too
SETTINGS = frozenset(name for name in _ROWS if private.core_function(name) is not None)
SETS: dict[str, tuple[str, ...]] = {
    setter: tuple(name for name in SETTINGS if _ROWS[name] == setter)
    for setter in sorted({_ROWS[name] for name in SETTINGS} - {""})
}
_WRITE: dict[str, Callable[[Any], None]] = {
    "is_anomaly_enabled": lambda value: torch.set_anomaly_enabled(
        value, torch.is_anomaly_check_nan_enabled()
    ),
    "is_anomaly_check_nan_enabled": lambda value: torch.set_anomaly_enabled(
        torch.is_anomaly_enabled(), value
    ),
    "_get_sdp_priority_order": lambda value: _call("_set_sdp_priority_order", list(value)),
}


def _call(name: str, *args: Any) -> Any:
    return private.core_function(name)(*args)


def read(name: str) -> Any:
    """What a setting is now, as a constant."""
    value = _call(name)
    if type(value) is list:
        return tuple(value)
    return value if type(value) in LEAVES else str(value)


def reader(name: str) -> Callable[[], Any]:
    """`read` of one setting: torch's own function, if that gives the constant itself."""
    asked: Callable[[], Any] = private.core_function(name)
    return asked if type(asked()) in LEAVES else functools.partial(read, name)


def write(name: str, value: Any) -> None:
    """Let a setting be what `read` gave."""
    special = _WRITE.get(name)
    if special is not None:
        special(value)
    else:
        _call(_ROWS[name], value)

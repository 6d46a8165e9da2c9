"""What the figures depend on: the machine, versions, threads, variables."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tracejit.benchmarks.peer import Peer
from tracejit.benchmarks.peers import PEERS
from tracejit.runtime.version import VERSION

PACKAGES = (
    "torch",
    "triton",
    "llvmlite",
    "numpy",
    "transformers",
    "jax",
    "jaxlib",
    "tensorflow",
    "tensorflow-cpu",
)
PREFIXES = (
    "OMP_",
    "MKL_",
    "KMP_",
    "GOMP_",
    "TORCH",
    "TRITON_",
    "CUDA_",
    "LD_PRELOAD",
    "MALLOC_",
    "JAX_",
    "XLA_",
    "TF_ENABLE_",  # not TF_CLI_…, which are Terraform's
    "TF_NUM_",
    "TF_XLA_",
)
FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "asimd", "sve")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, vector features, bytes of memory."""
    about = cpuinfo()
    has = set(about.get("flags", about.get("Features", "")).split())
    return {
        "processor": about.get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in FEATURES if name in has],
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; {} where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def versions() -> dict[str, str]:
    """Of Python, this package and those that matter for speed, as installed; of the C++ compiler
    that Inductor takes."""
    found = {"python": platform.python_version(), "tracejit": VERSION}
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler):
        asked = [compiler, "-dumpfullversion", "-dumpversion"]
        found[compiler] = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def variables() -> dict[str, str]:
    """The environment variables that may change a figure."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIXES)}


def load() -> float:
    """Processes that wanted to run during the last minute."""
    return round(os.getloadavg()[0], 2)


def seen_by_torch(device: str) -> dict[str, Any]:
    """The device in use ("cuda" or "cpu" if none is asked for; "" if it is not here), its name,
    torch's threads, and each peer's availability and note. Imports torch."""
    import torch

    here = torch.cuda.is_available()
    used = device or ("cuda" if here else "cpu")
    if used == "cuda" and not here:
        return {"device": ""}
    return {
        "device": used,
        "gpu": torch.cuda.get_device_name() if used == "cuda" else "",
        "threads": torch.get_num_threads(),
        "peers": {
            name: {"missing": peer.available(used), **_described(peer, used)}
            for name, peer in PEERS.items()
        },
    }


def _described(peer: Peer, device: str) -> dict[str, str]:
    """The peer's words; of one that is not here, why."""
    if why := peer.available(device):
        return {"note": f"not measured: {why}", "remark": ""}
    return {"note": peer.note(device), "remark": peer.remark(device)}

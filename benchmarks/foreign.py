"""Peers of other frameworks: they run their own version of a workload on PyTorch's inputs and
parameters, which are converted once, outside of what is timed."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any, ClassVar

from tracejit.benchmarks.peer import Function, Peer
from tracejit.benchmarks.registry import Work, Workload


class Foreign(Peer):
    """A framework that has functions of its own in tracejit.benchmarks.ports."""

    ports: ClassVar[str]  # its modules there: `jax` of jax_micro and jax_models
    extra = "peers"
    foreign = True
    stored = True

    def available(self, device: str) -> str:
        if device not in ("", "cpu"):
            return f"measured on the CPU only, not on {device}"
        return super().available(device)

    def lacks(self, workload: Workload) -> str:
        return "" if workload.port else workload.unported

    def convert(self, array: Any) -> Any:
        """A NumPy array as the framework's."""
        raise NotImplementedError

    def converted(self, tree: Any) -> Any:
        """All tensors of a tree as the framework's arrays."""
        from torch.utils import _pytree as pytree

        from tracejit.benchmarks.convert import to_numpy

        return pytree.tree_map(lambda tensor: self.convert(to_numpy(tensor)), tree)

    def parameters(self, work: Work) -> tuple[Any, ...]:
        """The parameters of a module by name, as the first argument; () of a function."""
        import torch

        if not isinstance(work.function, torch.nn.Module):
            return ()
        return (self.converted(dict(work.function.state_dict())),)

    def version(self, work: Work, port: str) -> Function:
        module, _, name = port.partition(":")
        found = importlib.import_module(f"tracejit.benchmarks.ports.{self.ports}_{module}")
        function: Function = getattr(found, name.replace("-", "_"))
        return functools.partial(function, **work.options) if work.options else function

    def inputs(self, work: Work) -> tuple[Any, ...]:
        return (*self.parameters(work), *self.converted(work.args))

    def result(self, value: Any) -> Any:
        from tracejit.benchmarks.convert import to_torch

        return to_torch(self.array(value))

    def array(self, value: Any) -> Any:
        """The framework's array as NumPy's."""
        return importlib.import_module("numpy").asarray(value)


class Jax(Foreign):
    name = "jax.jit"
    package = "jax"
    ports = "jax"
    guess = (5, 4)

    def environment(self, caches: Path, threads: int) -> dict[str, str]:
        """Its persistent cache, of all programs; XLA's pool has NPROC threads."""
        return {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(caches / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        } | ({"NPROC": str(threads)} if threads else {})

    def load(self, threads: int) -> None:
        importlib.import_module("jax").devices()

    def convert(self, array: Any) -> Any:
        return importlib.import_module("jax.numpy").asarray(array)

    def compile(self, function: Function, device: str) -> Function:
        compiled = importlib.import_module("jax").jit(function)
        return lambda *args: compiled(*args).block_until_ready()

    def forget(self) -> None:
        importlib.import_module("jax").clear_caches()

    def note(self, device: str) -> str:
        return "jax.jit on this CPU; results awaited, its persistent cache for the warm start"


class TensorFlow(Foreign):
    name = "tf.function"
    package = "tensorflow"
    ports = "tf"
    guess = (10, 8)

    def environment(self, caches: Path, threads: int) -> dict[str, str]:
        """XLA's persistent cache; few words on standard error."""
        flags = {"directory": caches / "xla", "device_types": "CPU"}
        words = [f"--tf_xla_persistent_cache_{name}={value}" for name, value in flags.items()]
        return {
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_XLA_FLAGS": " ".join(words),
        }

    def load(self, threads: int) -> None:
        threading = importlib.import_module("tensorflow").config.threading
        if threads:
            threading.set_intra_op_parallelism_threads(threads)
            threading.set_inter_op_parallelism_threads(threads)

    def convert(self, array: Any) -> Any:
        return importlib.import_module("tensorflow").constant(array)

    def array(self, value: Any) -> Any:
        return super().array(value.numpy())  # a scalar is one of ml_dtypes

    def version(self, work: Work, port: str) -> Function:
        """The parameters are captured, as a program that uses tf.Variable would have it."""
        return functools.partial(super().version(work, port), *self.parameters(work))

    def inputs(self, work: Work) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self.converted(work.args)
        return found

    def compile(self, function: Function, device: str) -> Function:
        compiled: Function = importlib.import_module("tensorflow").function(
            function, jit_compile=True, autograph=False
        )
        return compiled

    def note(self, device: str) -> str:
        return "tf.function(jit_compile=True): XLA, its persistent cache for the warm start"

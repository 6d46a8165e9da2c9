"""The fence around private modules: each symbol does what we use it for, and nothing else reaches
behind it."""

from __future__ import annotations

import ctypes
import re
import types
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from tracejit.runtime import ambient, cpu, private
from tracejit.runtime.externs import resolve

ROOT = Path(__file__).resolve().parents[2]
BEHIND = re.compile(r"\b(torch|triton)(\.\w+)*\._[a-zA-Z]\w*|from (torch|triton)[.\w]* import _")
# Documented by torch as the way to write a dispatch mode, whatever the module's name.
PUBLIC = "torch.utils._python_dispatch"


def test_nothing_else_reaches_behind_the_fence() -> None:
    for folder in ("tracejit", "codegen", "runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name == "private.py":
                continue
            code = re.sub(r'"""(.|\n)*?"""|#.*|"[^"\n]*"', "", path.read_text()).replace(PUBLIC, "")
            assert not BEHIND.search(code), f"{path}: {BEHIND.search(code)}"


def test_allocation() -> None:
    made = private.empty_strided_cpu()((2, 3), (1, 2), torch.float16)
    assert made.size() == (2, 3) and made.stride() == (1, 2) and made.dtype is torch.float16


@pytest.mark.parametrize("there", [True, False])
def test_addresses_of_tensors(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not there:
        monkeypatch.setattr(private, "_guards_function", lambda name: None)
    private.tensor_address.cache_clear()
    address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(private.tensor_address())
    private.tensor_address.cache_clear()
    for tensor in (torch.ones(4)[2:], torch.nn.Parameter(torch.ones(3))):
        assert address(tensor) == tensor.data_ptr()


def test_reinterpreted_memory() -> None:
    base = torch.arange(10.0)[2:]
    view = private.reinterpret_tensor()(base, (2, 2), (1, 2), 1)
    assert view.tolist() == [[3, 5], [4, 6]]
    view.fill_(0)
    assert base.tolist() == [2, 0, 0, 0, 0, 7, 8, 9]


def test_what_is_active_is_noticed() -> None:
    seen: dict[str, bool] = {"nothing": ambient.traced()}
    torch.func.vmap(lambda x: seen.update(vmap=ambient.traced()) or x)(torch.ones(2))

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            return function(*args, **(kwargs or {}))

    with Mode():
        seen["function mode"] = ambient.traced()
    with torch.device("cpu"):
        seen["device"] = ambient.traced()
    with FlopCounterMode(display=False):
        seen["dispatch mode"] = ambient.traced()
    with forward_ad.dual_level():
        seen["dual level"] = ambient.traced()
    torch.jit.trace(
        lambda x: seen.update(trace=ambient.traced()) or x, torch.ones(2), check_trace=False
    )
    assert seen == {
        "nothing": False,
        "vmap": True,
        "function mode": True,
        "device": False,
        "dispatch mode": True,
        "dual level": True,
        "trace": True,
    }


def test_composite_ops() -> None:
    assert private.is_composite(resolve("aten.dropout")) and private.is_composite(
        resolve("aten.reshape")
    )
    assert not private.is_composite(resolve("aten.mm")) and not private.is_composite(
        resolve("aten.add.Tensor")
    )


def test_llvm_without_llvmlites_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    ffi = pytest.importorskip("llvmlite.binding.ffi")
    llvm = cpu.llvm()
    machine = llvm.Target.from_default_triple().create_target_machine()
    module = llvm.parse_assembly("define i32 @one() {\n ret i32 1\n}", llvm.create_context())
    assert private.emit_llvm_object(machine, module) == machine.emit_object(module)
    find = private._llvm_function.__wrapped__
    assert find("LLVMPY_ContextCreate") is not ffi.lib.LLVMPY_ContextCreate
    del module  # with the library that it came from
    monkeypatch.setattr(ffi, "lib", types.SimpleNamespace(LLVMPY_Other=max))  # has no _cfn
    assert find("LLVMPY_Other") is max


def test_functions_of_torchs_core() -> None:
    assert private.core_function("get_num_threads")() == torch.get_num_threads()
    assert private.core_function("get_what_is_not_there") is None


def test_dispatch_modes_set_aside() -> None:
    with FlopCounterMode(display=False):
        assert private.dispatch_modes() == 1
        with private.without_modes():
            assert private.dispatch_modes() == 0
        assert private.dispatch_modes() == 1


def test_whether_the_profiler_is_active() -> None:
    assert not private.profiler()._is_profiler_enabled
    with torch.profiler.profile():
        assert private.profiler()._is_profiler_enabled
    assert not private.profiler()._is_profiler_enabled


def test_the_default_generator() -> None:
    seen = []

    class Mode(private.dispatch_mode()):  # type: ignore[misc]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(private.is_default(kwargs["generator"]))
            return func(*args, **kwargs)

    with Mode():
        torch.rand(3, generator=torch.default_generator)
        torch.rand(3, generator=torch.Generator())
    assert seen == [True, False]


def test_parts_of_dynamo() -> None:
    lower = private.aot_autograd()(fw_compiler=lambda graph, inputs: graph)
    assert callable(lower)
    assert issubclass(torch._dynamo.exc.SkipFrame, private.dynamo_exception())


def test_negated() -> None:
    x = torch.ones(2)
    assert private.negated(x).is_neg() and private.negated(x).data_ptr() == x.data_ptr()
    assert not private.negated(private.negated(x)).is_neg()

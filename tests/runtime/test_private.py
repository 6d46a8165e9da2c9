"""The fence around private modules: each symbol is there and does what we use it for, and nothing
else reaches behind it."""

from __future__ import annotations

import ast
import ctypes
import importlib.metadata
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from tracejit.codegen.native import objects
from tracejit.runtime import cpu, private, settings, tracers
from tracejit.runtime.devices import native
from tracejit.runtime.externs import resolve

ROOT = Path(__file__).resolve().parents[2]
FENCE = ROOT / "runtime" / "private.py"
TREES = {
    path: ast.parse(path.read_text())
    for folder in ("tracejit", "codegen", "runtime")
    for path in {p.resolve() for p in (ROOT / folder).rglob("*.py")}
}
PRIVATE = re.compile(r"_[a-zA-Z]\w*")
BEHIND = re.compile(r"(^|\.)_[a-z]")
INSTANCES = {
    "torch.Generator": torch.Generator,
    "torch.UntypedStorage": lambda: torch.UntypedStorage(4),
    "torch.Tensor": lambda: torch.ones(1),
    "torch.nn.Module": lambda: torch.nn.Linear(1, 1),
}
# Python's own, which have no public twin: each is there in 3.10 … 3.14.
OF_PYTHON = {"sys._getframe", "copyreg._slotnames", "os.environ._data", "code._varname_from_oparg"}
# Attributes that are private in torch and are named elsewhere as data: found by name, never asked.
AS_DATA = {
    "_backward_hooks": "trace/reach.py: attributes that no guard looks at",
    "_post_accumulate_grad_hooks": "trace/reach.py: the same",
    "_forward_hooks_with_kwargs": "trace/observe.py: hooks",
    "_forward_pre_hooks_with_kwargs": "trace/observe.py: hooks",
    "_forward_hooks_always_called": "trace/observe.py: hooks",
    "_buffers": "runtime/paths.py, trace/reach.py: steps of access paths",
    "_parameters": "the same",
    "_modules": "the same",
    "_call_impl": "trace/plans.py: code objects by name",
    "_wrapped_call_impl": "trace/plans.py: the same",
    "Module._call_impl": "trace/plans.py: the same",
    "_jit_internal": "trace/plans.py: files by name",
    "importlib._bootstrap": "trace/plans.py: the same",
    "_typed_storage": "trace/constants.py: C functions by name",
    "torch._C": "trace/purity.py: modules of C functions by name",
    "numpy._core": "trace/purity.py: the same",
    "numpy._core._multiarray_umath": "trace/purity.py: the same",
    "posix._path_normpath": "trace/purity.py: the same",
}


def look(path: str) -> Any:
    """What stands at a path of SYMBOLS. Raises as looking does."""
    if path.startswith("libtorch_cpu:"):
        return native._address_of(path.partition(":")[2])
    owner, _, name = path.partition("().")
    if name:
        return getattr(INSTANCES[owner](), name, missing := object()) is not missing or [][0]
    return pkgutil.resolve_name(path)


@pytest.mark.parametrize("path", private.SYMBOLS)
def test_each_symbol_is_there(path: str) -> None:
    package = re.split(r"\W", path)[0].replace("libtorch_cpu", "torch")
    pytest.importorskip(package)
    here = importlib.metadata.version(package)
    try:
        look(path)
    except Exception as problem:
        seen = private.SEEN[package]
        raise AssertionError(
            f"{package} {here} has no {path} (seen in {seen}); without it: {private.SYMBOLS[path]}"
        ) from problem


def test_each_setting_of_torch_is_there() -> None:
    names = {*settings._ROWS, *settings._ROWS.values()} - {""}
    assert sorted(n for n in names if private.core_function(n) is None) == []


def documentation(tree: ast.Module) -> set[int]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    firsts = [n.body[0] for n in ast.walk(tree) if isinstance(n, kinds) and n.body]
    return {id(first.value) for first in firsts if isinstance(first, ast.Expr)}


def private_names(tree: ast.Module) -> Iterator[str]:
    """What a module reaches that begins with an underscore, as source text: attributes, imports,
    and the same in strings (`getattr`, generated code)."""
    said = documentation(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            yield ast.unparse(node)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if BEHIND.search(alias.name))
        elif isinstance(node, ast.ImportFrom):
            paths = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from filter(BEHIND.search, paths)
        elif isinstance(node, ast.Constant) and id(node) not in said:
            text = node.value if isinstance(node.value, str) else ""
            yield from re.findall(r"(?:\b[\w.]+\.)?(?<!\w)_[a-zA-Z]\w*\b", text)


def own_names() -> set[str]:
    """Names with an underscore that the package itself defines."""
    found = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in found if PRIVATE.fullmatch(name)}


def of_torch(text: str) -> bool:
    """Whether a name is one of torch's: an attribute of what our code holds of it, no op."""
    places = [torch, torch._C, torch.Tensor, torch.UntypedStorage, torch.nn.modules.module]
    places += [torch.ops.aten.add.Tensor, torch.nn.Linear(1, 1), torch.Generator(), forward_ad]
    name = text.rpartition(".")[2]
    return not hasattr(torch.ops.aten, name) and any(hasattr(place, name) for place in places)


def test_nothing_else_reaches_behind_the_fence() -> None:
    own = own_names() - {path.rpartition(".")[2] for path in private.SYMBOLS} | {"_count"}
    allowed = OF_PYTHON | set(AS_DATA) | {*settings._ROWS, *settings._ROWS.values()}
    leaks = [
        f"{path.relative_to(ROOT)}: {text}"
        for path, tree in TREES.items()
        if path != FENCE
        for text in private_names(tree)
        if text not in allowed
        and not text.startswith(("self.", "tracejit.", "aten.", "mkldnn."))
        and text.rpartition(".")[2] not in own
        and (text.count(".") or of_torch(text))
    ]
    assert leaks == []


def test_every_symbol_in_the_fence_has_a_row() -> None:
    tree = TREES[FENCE]
    parts = {part for path in private.SYMBOLS for part in re.split(r"[.:]", path)}
    mine = own_names() | {"_global"}  # joined with HOOKS
    reached = {text.rpartition(".")[2] for text in private_names(tree)}
    assert sorted(reached - parts - mine) == []


@pytest.mark.parametrize("path", private.SYMBOLS)
def test_every_row_is_used(path: str) -> None:
    name = re.split(r"[.:]", path)[-1]
    texts = [p.read_text() for p in TREES if p != FENCE]
    fence = FENCE.read_text()
    code = fence[: fence.index("SYMBOLS: dict")] + fence[fence.index("def at(") :]
    joined = name.removeprefix("_global") if "_global" in code else name
    assert any(re.search(rf"\b{name}\b|{joined}\b", text) for text in [code, *texts])


@pytest.mark.parametrize("there", [True, False])
def test_allocation(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not there:
        monkeypatch.setattr(private, "at", lambda path: None)
    private.empty_strided_cpu.cache_clear()
    made = private.empty_strided_cpu()((2, 3), (1, 2), torch.float16)
    private.empty_strided_cpu.cache_clear()
    assert made.size() == (2, 3) and made.stride() == (1, 2) and made.dtype is torch.float16


@pytest.mark.parametrize("there", [True, False])
def test_addresses_of_tensors(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not there:
        monkeypatch.setattr(private, "at", lambda path: None)
    private.tensor_address.cache_clear()
    address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(private.tensor_address())
    private.tensor_address.cache_clear()
    for tensor in (torch.ones(4)[2:], torch.nn.Parameter(torch.ones(3))):
        assert address(tensor) == tensor.data_ptr()


@pytest.mark.parametrize("there", [True, False])
def test_reinterpreted_memory(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not there:
        monkeypatch.setattr(private, "at", lambda path: None)
    private.reinterpret_tensor.cache_clear()
    base = torch.arange(10.0)[2:]
    view = private.reinterpret_tensor()(base, (2, 2), (1, 2), 1)
    private.reinterpret_tensor.cache_clear()
    assert view.tolist() == [[3, 5], [4, 6]]
    view.fill_(0)
    assert base.tolist() == [2, 0, 0, 0, 0, 7, 8, 9]


def test_what_is_active_is_noticed() -> None:
    seen: dict[str, bool] = {"nothing": tracers.traced()}
    torch.func.vmap(lambda x: seen.update(vmap=tracers.traced()) or x)(torch.ones(2))

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            return function(*args, **(kwargs or {}))

    with Mode():
        seen["function mode"] = tracers.traced()
    with torch.device("cpu"):
        seen["device"] = tracers.traced()
    with FlopCounterMode(display=False):
        seen["dispatch mode"] = tracers.traced()
    with forward_ad.dual_level():
        seen["dual level"] = tracers.traced()
    torch.jit.trace(
        lambda x: seen.update(trace=tracers.traced()) or x, torch.ones(2), check_trace=False
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
    assert objects.emit(machine, module) == machine.emit_object(module)
    name = "LLVMPY_TargetMachineEmitToMemory"
    assert private.without_lock(name) is not getattr(ffi.lib, name)
    monkeypatch.setattr(private, "at", lambda path: None)
    assert private.without_lock(name) is getattr(ffi.lib, name)


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

    class Mode(private.TorchDispatchMode):
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

"""The fence: every symbol of torch's and triton's private modules that tracejit uses is reached
through here.

Nothing is imported until it is asked for. Each function names the symbol, the versions it was
checked with, and what breaks without it. tests/runtime/test_private.py calls each one. Append only.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import types
from collections.abc import Callable
from typing import Any

import torch

from tracejit.runtime import forks

Allocate = Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], torch.Tensor]
Reinterpret = Callable[[torch.Tensor, tuple[int, ...], tuple[int, ...], int], torch.Tensor]


def _guards_function(name: str) -> Any:
    """A function of `torch._C._dynamo.guards`, a C module that stays on its own; None if it is not
    there."""
    dynamo: Any = torch._C._dynamo
    return getattr(dynamo.guards, name, None)


@functools.cache
def empty_strided_cpu() -> Allocate:
    """`torch._C._dynamo.guards._empty_strided_cpu` (torch 2.4 … 2.13): allocation in 0.8 µs.

    Without it: `torch.empty_strided` is returned, which is about twice as slow.
    """
    found: Allocate | None = _guards_function("_empty_strided_cpu")
    return found or (lambda sizes, strides, dtype: torch.empty_strided(sizes, strides, dtype=dtype))


@functools.cache
def tensor_address() -> int:
    """`torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr` (torch 2.1 … 2.13): where
    the C function `void *f(PyObject *tensor)` is that gives a tensor's address.

    Without it: a function in Python, at 1 µs a call.
    """
    found: int | None = _guards_function("_torchinductor_pyobject_tensor_data_ptr")
    if found:
        return found
    plain = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(lambda t: t.data_ptr())
    _kept.append(plain)
    return ctypes.cast(plain, ctypes.c_void_p).value or 0


_kept: list[object] = []  # functions whose machine code is in use


@functools.cache
def empty_strided_cuda() -> Allocate:
    """`torch._C._dynamo.guards._empty_strided_cuda` (torch 2.4 … 2.13), also HIP; on the current
    device.

    Without it: `torch.empty_strided(…, device="cuda")` is returned.
    """
    found: Allocate | None = _guards_function("_empty_strided_cuda")

    def plain(sizes: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty_strided(sizes, strides, dtype=dtype, device="cuda")

    return found or plain


@functools.cache
def reinterpret_tensor() -> Reinterpret:
    """`torch._C._dynamo.guards._reinterpret_tensor` (torch 2.4 … 2.13): an as_strided view with no
    dispatch.

    `(base, sizes, strides, offset)`; the offset counts from the start of `base`, not of its
    storage. Without it: `torch.as_strided` with the storage offset added is returned.
    """
    found: Reinterpret | None = _guards_function("_reinterpret_tensor")

    def plain(
        base: torch.Tensor, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int
    ) -> torch.Tensor:
        return torch.as_strided(base, sizes, strides, base.storage_offset() + offset)

    return found or plain


def function_modes() -> int:
    """`torch._C._len_torch_function_stack` (torch 2.0 … 2.13): how many TorchFunctionModes are
    active.

    Without it: a function mode (other than a default device) would see a compiled call's insides
    disappear.
    """
    return int(mode_probes()[2]())


def mode_probes() -> tuple[
    Callable[[], Any], Callable[[], Any], Callable[[], Any], Callable[[], Any]
]:
    """The four C functions that say what is active, bound once because every call asks them.

    `_len_torch_dispatch_stack`, `_functorch.peek_interpreter_stack` (None outside transforms; torch
    2.1 … 2.13), `_len_torch_function_stack`, `_get_tracing_state`. Without them:
    calls inside an outer tracer (fake tensors, make_fx, vmap, our own recorder) would not be
    noticed.
    """
    core: Any = torch._C
    return (
        core._len_torch_dispatch_stack,
        core._functorch.peek_interpreter_stack,
        core._len_torch_function_stack,
        core._get_tracing_state,
    )


def function_mode_stack() -> list[Any]:
    """`torch.overrides._get_current_function_mode_stack` (torch 2.0 … 2.13): the active
    TorchFunctionModes.

    Without it: a call under a mode of the user's would run a plan that the mode does not see.
    """
    import torch.overrides

    overrides: Any = torch.overrides
    return list(overrides._get_current_function_mode_stack())


def global_state_guard() -> Any:
    """`torch._C._dynamo.guards.GlobalStateGuard` (torch 2.1 … 2.13): grad mode, autocast, dtype and
    flags of now.

    `check()` takes 0.15 µs. Without it: a guard check would ask for each of a dozen flags in
    Python.
    """
    from torch._C._dynamo.guards import GlobalStateGuard

    return GlobalStateGuard()


def tensor_guards(tensors: list[torch.Tensor]) -> Callable[..., bool]:
    """`torch._C._dynamo.guards.TensorGuards` (torch 2.1 … 2.13): the metadata of these tensors, as
    one C++ check.

    The result takes as many tensors and says whether each has the same type, dtype, device, sizes,
    strides, requires_grad and dispatch keys (conjugate, negative, layout, autocast, functorch).
    TypeError for a non-tensor. Without it: the same in Python, 0.2 µs a tensor and attribute.
    """
    from torch._C._dynamo.guards import TensorGuards

    strided = [tensor.layout is torch.strided for tensor in tensors]
    sizes: list[Any] = [list(tensor.size()) for tensor in tensors]
    strides: list[Any] = [
        list(tensor.stride()) if plain else [None] * tensor.dim()
        for tensor, plain in zip(tensors, strided)
    ]
    guards: Any = TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    return guards.check  # type: ignore[no-any-return]


# Held while triton.language is patched for interpreting, and while a kernel's text is turned into
# Triton's IR: both use the same module, so they cannot happen at once. Taken inside of forks.gate.
triton_language = forks.Lock()


@functools.cache
def triton_interpreter() -> Any:
    """`triton.runtime.interpreter` (triton 3.6 … 3.9), loaded without TRITON_INTERPRET: it and
    compiling live together.

    Used of it: `_patch_lang`, `interpreter_semantic`, `InterpreterBuilder`, `TensorHandle`. Without
    it: backend="interpret" and the checks of generated kernels do not work.
    """
    from triton.runtime import interpreter

    return interpreter


@functools.cache
def triton_patches(semantic: Any) -> tuple[list[tuple[Any, str, Any]], list[tuple[Any, str, Any]]]:
    """What interpreting with this semantic changes in `triton.language`: (object, attribute, value)
    to apply, and to put back.

    Found by letting `interpreter._patch_lang` (triton 3.6 and 3.9) do it once and comparing,
    because doing it takes milliseconds and setting the attributes microseconds. A missing attribute
    is put back as `triton_patches`. Without it: as triton_interpreter.
    """
    import triton.language as tl

    interpreter = triton_interpreter()
    places = [
        tl,
        tl.core,
        tl.math,
        tl.tensor,
        tl.dtype,
        tl.core.tensor_descriptor_base,
        tl.condition,
    ]
    before = [dict(vars(place)) for place in places]
    theirs = interpreter.interpreter_builder, interpreter.interpreter_semantic
    interpreter.interpreter_builder, interpreter.interpreter_semantic = semantic.builder, semantic
    user = types.FunctionType((lambda: None).__code__, {"tl": tl})  # tl among a kernel's globals
    try:
        interpreter._patch_lang(user)
    finally:
        interpreter.interpreter_builder, interpreter.interpreter_semantic = theirs
    apply, restore = [], []
    for place, old in zip(places, before):
        for name, value in vars(place).items():
            if name not in old or old[name] is not value:
                apply.append((place, name, value))
                restore.append((place, name, old.get(name, triton_patches)))
    put_back(restore)
    return apply, restore


def put_back(changes: list[tuple[Any, str, Any]]) -> None:
    """Set attributes, or delete those whose value says that there was none."""
    for place, name, value in changes:
        if value is triton_patches:
            delattr(place, name)
        else:
            setattr(place, name, value)


def triton_semantic(builder: Any) -> Any:
    """`triton.language.semantic.TritonSemantic` (triton 3.4 … 3.9) on a builder. Without it: as
    triton_interpreter."""
    from triton.language.semantic import TritonSemantic

    return TritonSemantic(builder)


def triton_type(name: str) -> Any:
    """`triton.language.str_to_ty` (triton 3.3 … 3.9): the type called `*fp32`. Without it: as
    triton_interpreter."""
    import triton.language as tl

    return tl.str_to_ty(name, None)


@functools.cache
def core_decompositions() -> dict[Any, Callable[..., Any]]:
    """`torch._decomp.core_aten_decompositions` (torch 2.1 … 2.13): op overload -> its
    decomposition.

    Without it: an empty table, and ops without a row stay library calls.
    """
    try:
        from torch._decomp import core_aten_decompositions
    except ImportError:
        return {}
    return dict(core_aten_decompositions())


def is_composite(op: Any) -> bool:
    """`torch._C._dispatch_has_kernel_for_dispatch_key` (torch 1.9 … 2.13): whether an OpOverload is
    made of others.

    Such an op may return its argument itself although its schema does not say so. Without it:
    memory might be reused while a library call's result still shows it.
    """
    found = torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")
    return bool(found)


@functools.cache
def composite_kernel(op: Any) -> Callable[..., Any] | None:
    """`OpOverload._op_dk` with "CompositeImplicitAutograd" (torch 1.12 … 2.13): the kernel that
    makes an op out of calls of others; None for an op that is none, or that a device implements.

    `OpOverload.decompose` is not that: it prefers Python decompositions, whose results may be
    copies. Without it: in inference mode an op that gives back its argument could not be recorded.
    """
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    if not is_composite(op) or has_kernel(op.name(), "CPU") or has_kernel(op.name(), "CUDA"):
        return None
    return functools.partial(op._op_dk, torch._C.DispatchKey.CompositeImplicitAutograd)


def triton_pipeline(
    function: Any, signature: dict[str, str], constants: dict[str, Any], attributes: dict[Any, Any],
    target: tuple[str, Any, int], options: dict[str, Any],
) -> tuple[Any, dict[str, Any], dict[str, Callable[[Any, dict[str, Any]], Any]]]:  # fmt: skip
    """The stages of `triton.compile` (triton 3.6 … 3.9), for a caller who runs them: IR, metadata,
    stages by name.

    Uses `triton.compiler.compiler.make_backend`, `ASTSource.make_ir`, a backend's `parse_options`,
    `add_stages`, `get_codegen_implementation`, `get_module_map`, `load_dialects`, and
    `triton._C.libtriton.ir`. `triton.compile` itself would hash all of triton and write each stage
    to a cache of its own (0.3 s for the first kernel, files in the user's home). Without it:
    `triton.compile`, with TRITON_CACHE_DIR set to a temporary folder.
    """
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    goal = GPUTarget(*target)
    backend = make_backend(goal)
    source = ASTSource(function, signature, constants, attributes)
    parsed = backend.parse_options(dict(options))
    stages: dict[str, Any] = {}
    backend.add_stages(stages, parsed, source.language)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    with triton_language:
        module = source.make_ir(
            goal,
            parsed,
            backend.get_codegen_implementation(parsed),
            backend.get_module_map(),
            context,
        )
    return module, dict(parsed.__dict__), stages


def triton_ptxas(arch: int) -> str:
    """Path of the ptxas in triton's wheel for `sm_<arch>`:
    `triton.backends.nvidia.compiler.get_ptxas` (triton 3.6 … 3.9). Without it: triton's own stage
    makes the cubin, and register spills are not reported."""
    from triton.backends.nvidia.compiler import get_ptxas

    return str(get_ptxas(arch).path)


def triton_driver() -> Any:
    """`triton.runtime.driver.active` (triton 3.0 … 3.9): loads machine code (`utils.load_binary`)
    and launches it (`launcher_cls`). Without it: kernels would have to be launched through CUDA's
    or HIP's own API."""
    from triton.runtime import driver

    return driver.active


def pytree_nodes() -> Any:
    """`torch.utils._pytree.SUPPORTED_NODES` (torch 2.1 … 2.13): flatten_fn and unflatten_fn of each
    registered class.

    Without it: return values of registered classes (transformers' ModelOutput) could not be
    rebuilt.
    """
    from torch.utils._pytree import SUPPORTED_NODES

    return SUPPORTED_NODES


def is_device_context(mode: Any) -> bool:
    """`torch.utils._device.DeviceContext` (torch 2.0 … 2.13): whether a function mode is `with
    torch.device(…)`.

    Without it: compiled functions would run eagerly under a default device.
    """
    from torch.utils._device import DeviceContext

    return isinstance(mode, DeviceContext)


def triton_tool(name: str) -> str:
    """Path of `nvdisasm` or `cuobjdump` in triton's wheel: `triton.knobs.nvidia` (triton 3.3 …
    3.9). Without it: no listing of machine code."""
    from triton import knobs

    return str(getattr(knobs.nvidia, name).path)


def dispatch_modes() -> int:
    """`torch._C._len_torch_dispatch_stack` (torch 2.0 … 2.13): how many TorchDispatchModes are
    active.

    Without it: calls inside an outer tracer (fake tensors, make_fx) would not be noticed.
    """
    return int(mode_probes()[0]())


def functorch_level() -> int:
    """`torch._C._functorch.maybe_current_level` (torch 2.1 … 2.13): 0 outside vmap, grad, jvp,
    functionalize.

    Without it: a compiled function inside `torch.func.vmap` would be given wrapped tensors.
    """
    core: Any = torch._C
    level = core._functorch.maybe_current_level()
    return 0 if level is None else int(level)


def jit_tracing() -> bool:
    """`torch._C._get_tracing_state` (all versions): whether `torch.jit.trace` is recording."""
    return mode_probes()[3]() is not None


def profiler() -> Any:
    """Where `_is_profiler_enabled` says whether torch's profiler is active: the module
    `torch.autograd.profiler` (torch 2.0 … 2.13).

    Without it: generated kernels do not appear in the profiler on the CPU.
    """
    found: Any = torch.autograd.profiler
    if hasattr(found, "_is_profiler_enabled"):
        return found
    return types.SimpleNamespace(_is_profiler_enabled=False)


def core_function(name: str) -> Any:
    """A function of `torch._C` (all versions), where torch keeps its settings; None if this one has
    none of that name.

    Without one: what it says is not guarded, and a call that uses it cannot be compiled.
    """
    return getattr(torch._C, name, None)


def without_modes() -> Any:
    """`torch.utils._python_dispatch._disable_current_modes` (torch 2.0 … 2.13): a context in which
    no dispatch mode is active.

    Without it: a few composite operations compute something else in the call that is recorded.
    """
    from torch.utils import _python_dispatch

    found = getattr(_python_dispatch, "_disable_current_modes", None)
    return found() if found is not None else contextlib.nullcontext()


def generator_key(generator: torch.Generator) -> int:
    """`torch.Generator._cdata` (torch 1.9 … 2.13): which generator it is. C++ hands one to
    Python as one object or another.

    Without it: a call that is given a generator runs eagerly.
    """
    return int(getattr(generator, "_cdata", id(generator)))


def is_default(generator: torch.Generator) -> bool:
    """Whether this is the CPU's default generator."""
    return generator_key(generator) == generator_key(torch.default_generator)


def dispatch_mode() -> Any:
    """`torch.utils._python_dispatch.TorchDispatchMode` (torch 1.13 … 2.13), the recorder's base.

    Its `_should_skip_dynamo` (torch 2.6 … 2.13) is overridden there: without it, the first call
    that is recorded imports torch._dynamo. Without the class nothing can be recorded.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    return TorchDispatchMode


def weak_storage(storage: Any) -> int:
    """`UntypedStorage._weak_ref` (torch 1.0 … 2.13): keeps a storage's address from being used
    again, and not its memory. Give the number to `free_weak_storage`.

    Without it: the recorder would have to keep every tensor that a call makes alive.
    """
    return storage._weak_ref()  # type: ignore[no-any-return]


def free_weak_storage(pointer: int) -> None:
    """`UntypedStorage._free_weak_ref` (torch 1.0 … 2.13): see `weak_storage`."""
    free: Any = torch.UntypedStorage._free_weak_ref
    free(pointer)


@functools.cache
def op_overload() -> type:
    """`torch._ops.OpOverload` (torch 1.12 … 2.13): the type of `torch.ops.aten.add.Tensor`.

    Without it: calls of operations could not be told from calls of higher-order operators.
    """
    return type(torch.ops.aten.add.Tensor)


def variable_functions() -> type:
    """`torch._C._VariableFunctionsClass` (torch 1.5 … 2.13): holds `torch.add` and its like.

    Without it: those functions would be taken for unknown C code, and every frame would be eager.
    """
    found: type = torch._C._VariableFunctionsClass  # type: ignore[attr-defined]
    return found


@functools.cache
def _llvm_function(name: str) -> Callable[..., Any]:
    """`llvmlite.binding.ffi.lib.…._cfn` (llvmlite 0.45 … 0.50): a function of LLVM without the lock
    that llvmlite holds around each. Where modules have contexts of their own, LLVM needs none.

    Without it: the locked function is returned, and kernels are compiled one at a time.
    """
    from llvmlite.binding import ffi

    locked = getattr(ffi.lib, name)
    return getattr(locked, "_cfn", locked)  # type: ignore[no-any-return]


def run_llvm_passes(manager: Any, module: Any, passes: Any) -> None:
    """`manager.run(module, passes)` of llvmlite without its lock; see `_llvm_function`."""
    _llvm_function("LLVMPY_RunNewModulePassManager")(manager, module, passes)


def emit_llvm_object(machine: Any, module: Any) -> bytes:
    """`machine.emit_object(module)` of llvmlite without its lock; see `_llvm_function`."""
    from ctypes import string_at

    from llvmlite.binding import ffi

    with ffi.OutputString() as problem:
        buffer = _llvm_function("LLVMPY_TargetMachineEmitToMemory")(machine, module, 1, problem)
        if not buffer:
            raise RuntimeError(str(problem))
    try:
        start, size = ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer)
        return string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def aot_autograd() -> Callable[..., Any]:
    """`torch._dynamo.backends.common.aot_autograd` (torch 2.0 … 2.13): a Dynamo backend out of one
    compiler each for inference, forward and backward graphs; torch's own way to write backends.

    Without it: torch.compile(backend="tracejit") does not work.
    """
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd


def dynamo_exception() -> type[Exception]:
    """`torch._dynamo.exc.TorchDynamoException` (torch 2.0 … 2.13): base of what Dynamo's parts
    raise to each other (restart, skip this frame).

    Without it: a backend that catches what AOTAutograd raises would swallow them.
    """
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


def negated(tensor: torch.Tensor) -> torch.Tensor:
    """`torch._neg_view` (torch 1.10 … 2.13): the same memory, negated as it is read.

    Without it: calls with such inputs or results could not be compiled.
    """
    return torch._neg_view(tensor)

"""The fence: every private symbol of torch, triton and llvmlite that tracejit uses.

SYMBOLS lists them, each with what breaks without it; tests/runtime/test_private.py looks for each
in the versions that are installed, and for others beside the fence. Nothing is imported until it is
asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import operator
import pkgutil
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad as forward_ad
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

from tracejit.runtime import forks

Allocate = Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], torch.Tensor]
Reinterpret = Callable[[torch.Tensor, tuple[int, ...], tuple[int, ...], int], torch.Tensor]

# All symbols below are there, and do what they are used for, in these versions.
SEEN = {"torch": "2.11 … 2.13", "triton": "3.6 … 3.9", "llvmlite": "0.45 … 0.50"}

_INTERPRETING = 'backend="interpret" and the checks of generated kernels do not work'
_OUTSIDE = "a call inside an outer tracer would not be noticed"
_COMPILING = "kernels go through triton.compile, which keeps a cache of its own in the user's home"
_SETTING = "what it says is not guarded, and a call that uses it cannot be compiled"
_LLVM = "kernels are compiled one at a time, each under llvmlite's lock"
_HOOKS = "a hook put on all modules after a recording would not run"
_OWN_HOOKS = "a hook put on a tensor or a module after a recording would not run"

# path -> what breaks without it; `()` in a path is an instance.
SYMBOLS: dict[str, str] = {
    # what a call costs
    "torch._C._dynamo.guards._empty_strided_cpu": "an allocation takes 1.6 µs instead of 0.8",
    "torch._C._dynamo.guards._empty_strided_cuda": "the same on a GPU",
    "torch._C._dynamo.guards._reinterpret_tensor": "a view of a buffer takes a dispatch",
    "torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr": "an address takes 1 µs",
    "torch._C._dynamo.guards.GlobalStateGuard": "a check asks for a dozen flags in Python",
    "torch._C._dynamo.guards.TensorGuards": "a check compares each tensor in Python",
    # what is active around a call
    "torch._C._len_torch_dispatch_stack": _OUTSIDE,
    "torch._C._len_torch_function_stack": _OUTSIDE,
    "torch._C._functorch.peek_interpreter_stack": _OUTSIDE,
    "torch._C._get_tracing_state": _OUTSIDE,
    "torch.autograd.forward_ad._current_level": "forward-mode derivatives would be lost",
    "torch.overrides._get_current_function_mode_stack": "a user's mode would not see the call",
    "torch.utils._device.DeviceContext": "calls under a default device run eagerly",
    "torch.autograd.profiler._is_profiler_enabled": "kernels on the CPU are not in a profile",
    "torch.nn.modules.module._global_forward_hooks": _HOOKS,
    "torch.nn.modules.module._global_forward_pre_hooks": _HOOKS,
    "torch.nn.modules.module._global_backward_hooks": _HOOKS,
    "torch.nn.modules.module._global_backward_pre_hooks": _HOOKS,
    # recording
    "torch.utils._python_dispatch.TorchDispatchMode": "nothing can be recorded",
    "torch.utils._python_dispatch.TorchDispatchMode._should_skip_dynamo":
        "the first call that is recorded imports torch._dynamo (1.2 s)",
    "torch.utils._python_dispatch._disable_current_modes":
        "some composite operations compute something else in the call that is recorded",
    "torch._ops.OpOverload": "operations and higher-order operators look alike",
    "torch.ops.aten.add.Tensor._op_dk": "in inference mode an op may not give back its argument",
    "torch.ops.aten.add.Tensor._schema": "what an op writes to is not known: nothing is recorded",
    "torch.ops.aten.add.Tensor._overloadname": "an op that writes has no twin that does not",
    "torch._C._dispatch_has_kernel_for_dispatch_key":
        "memory might be used again while a library call's result still shows it",
    "torch._C._VariableFunctionsClass": "torch.add is taken for unknown C code: all runs eagerly",
    "torch._decomp.core_aten_decompositions": "ops without a row stay library calls",
    "torch.utils._pytree.SUPPORTED_NODES": "returned objects of registered classes run eagerly",
    "torch.Generator()._cdata": "a call that is given a generator runs eagerly",
    "torch.UntypedStorage()._cdata": "which tensors share memory is not known",
    "torch.UntypedStorage._weak_ref": "a recording keeps alive every tensor that its call makes",
    "torch.UntypedStorage._free_weak_ref": "as _weak_ref",
    "torch.Tensor._is_zerotensor": "a zero that torch has not written would be read as memory",
    "torch.Tensor()._backward_hooks": _OWN_HOOKS,
    "torch.Tensor()._post_accumulate_grad_hooks": _OWN_HOOKS,
    "torch.nn.Module()._forward_hooks": _OWN_HOOKS,
    "torch.nn.Module()._forward_pre_hooks": _OWN_HOOKS,
    "torch.nn.Module()._backward_hooks": _OWN_HOOKS,
    "torch.nn.Module()._backward_pre_hooks": _OWN_HOOKS,
    "torch.nn.Module()._forward_hooks_with_kwargs": _OWN_HOOKS,
    "torch.nn.Module()._forward_pre_hooks_with_kwargs": _OWN_HOOKS,
    "torch.nn.Module()._forward_hooks_always_called": _OWN_HOOKS,
    "torch.nn.Module()._parameters": "a module's parameters are found as computed attributes",
    "torch.nn.Module()._buffers": "as _parameters",
    "torch.nn.Module()._modules": "as _parameters",
    "torch.nn.Module._call_impl": "torch's own code around forward is observed like the user's",
    "torch.nn.Module._wrapped_call_impl": "as _call_impl",
    "torch.nn.Module()._compiled_call_impl": "a part that torch.compile has is compiled twice",
    "torch._neg_view": "calls with lazily negated inputs or results cannot be compiled",
    # torch.compile(backend="tracejit")
    "torch._dynamo.backends.common.aot_autograd": 'torch.compile(backend="tracejit") fails',
    "torch._dynamo.eval_frame._TorchDynamoContext.__call__":
        "a program that calls what torch.compile returned fails in the call that is recorded",
    "torch._dynamo.exc.TorchDynamoException": "Dynamo's parts cannot talk through our backend",
    # C++ functions of torch's library, which native kernels call
    "libtorch_cpu:_ZN2at18in_parallel_regionEv": "native kernels cannot be loaded",
    "libtorch_cpu:_ZN2at15get_num_threadsEv": "native kernels cannot be loaded",
    "libtorch_cpu:_ZN2at3cpu8init_amxEv": "native kernels with AMX cannot be loaded",
    # triton
    "triton.runtime.interpreter": _INTERPRETING,
    "triton.runtime.interpreter._patch_lang": _INTERPRETING,
    "triton.runtime.interpreter.interpreter_builder": _INTERPRETING,
    "triton.runtime.interpreter.interpreter_semantic": _INTERPRETING,
    "triton.runtime.interpreter.InterpreterBuilder": _INTERPRETING,
    "triton.runtime.interpreter.TensorHandle": _INTERPRETING,
    "triton.language.core.tensor_descriptor_base": _INTERPRETING,
    "triton.language.semantic.TritonSemantic": _INTERPRETING,
    "triton.language.str_to_ty": _INTERPRETING,
    "triton._C.libtriton.ir": _COMPILING,
    "triton.backends.compiler.GPUTarget": _COMPILING,
    "triton.compiler.ASTSource.make_ir": _COMPILING,
    "triton.compiler.compiler.make_backend": _COMPILING,
    "triton.backends.compiler.BaseBackend.add_stages": _COMPILING,
    "triton.backends.compiler.BaseBackend.parse_options": _COMPILING,
    "triton.backends.nvidia.compiler.get_ptxas": "register spills are not reported",
    "triton.knobs.nvidia": "machine code has no listing",
    "triton.runtime.driver.driver": "kernels have to be launched through CUDA's or HIP's own API",
    # llvmlite
    "llvmlite.binding.ffi.OutputString": "native kernels cannot be compiled",
    "llvmlite.binding.ffi.lib.LLVMPY_RunNewModulePassManager._cfn": _LLVM,
    "llvmlite.binding.ffi.lib.LLVMPY_TargetMachineEmitToMemory._cfn": _LLVM,
}  # fmt: skip


@functools.cache
def at(path: str) -> Any:
    """What stands at a path of SYMBOLS; None where this version has nothing there."""
    assert path in SYMBOLS, f"{path} has no row in SYMBOLS"
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError):
        return None


# --- what a call costs ---


@functools.cache
def empty_strided_cpu() -> Allocate:
    """`(sizes, strides, dtype)`: fresh memory on the CPU."""
    found: Allocate | None = at("torch._C._dynamo.guards._empty_strided_cpu")
    return found or (lambda sizes, strides, dtype: torch.empty_strided(sizes, strides, dtype=dtype))


@functools.cache
def empty_strided_cuda() -> Allocate:
    """The same on the current GPU, HIP's too."""

    def plain(sizes: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty_strided(sizes, strides, dtype=dtype, device="cuda")

    return at("torch._C._dynamo.guards._empty_strided_cuda") or plain


@functools.cache
def reinterpret_tensor() -> Reinterpret:
    """`(base, sizes, strides, offset)`: a view; the offset counts from the start of `base`."""

    def plain(
        base: torch.Tensor, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int
    ) -> torch.Tensor:
        return torch.as_strided(base, sizes, strides, base.storage_offset() + offset)

    return at("torch._C._dynamo.guards._reinterpret_tensor") or plain


@functools.cache
def tensor_address() -> int:
    """Where the C function `void *f(PyObject *tensor)` is that gives a tensor's address."""
    found: int | None = at("torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr")
    if found:
        return found
    plain = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(lambda t: t.data_ptr())
    _kept.append(plain)
    return ctypes.cast(plain, ctypes.c_void_p).value or 0


_kept: list[object] = []  # functions whose machine code is in use


def global_state_guard() -> Any:
    """Grad mode, autocast, dtype and flags of now; its `check()` takes 0.15 µs."""
    return at("torch._C._dynamo.guards.GlobalStateGuard")()


def tensor_guards(tensors: list[torch.Tensor]) -> Callable[..., bool]:
    """The metadata of these tensors, as one C++ check.

    The result takes as many tensors and says whether each has the same type, dtype, device, sizes,
    strides, requires_grad and dispatch keys (conjugate, negative, layout, autocast, functorch).
    TypeError for a non-tensor.
    """
    sizes = [list(tensor.size()) for tensor in tensors]
    strides = [
        list(tensor.stride()) if tensor.layout is torch.strided else [None] * tensor.dim()
        for tensor in tensors
    ]
    make = at("torch._C._dynamo.guards.TensorGuards")
    check: Callable[..., bool] = make(
        *tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
    ).check
    return check


# --- what is active around a call: C functions, bound once because every call asks them ---

dispatch_modes: Callable[[], int] = at("torch._C._len_torch_dispatch_stack")
function_modes: Callable[[], int] = at("torch._C._len_torch_function_stack")
functorch: Callable[[], Any] = at("torch._C._functorch.peek_interpreter_stack")  # None: outside
jit_tracing: Callable[[], Any] = at("torch._C._get_tracing_state")  # None: outside
# As text of a generated function, with `forward_ad` and `profiler()` among its globals.
DUAL_LEVEL = "forward_ad._current_level"
PROFILING = "profiler._is_profiler_enabled"


def dual_level() -> int:
    """The level of forward-mode differentiation; -1 outside of all."""
    return forward_ad._current_level


def function_mode_stack() -> list[Any]:
    """The active TorchFunctionModes."""
    return list(at("torch.overrides._get_current_function_mode_stack")())


def is_device_context(mode: Any) -> bool:
    """Whether a function mode is `with torch.device(…)`."""
    return isinstance(mode, at("torch.utils._device.DeviceContext"))


# Where a module keeps its hooks; torch keeps those of all modules under "_global" and that name.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def module_hooks() -> tuple[dict[int, Any], ...]:
    """The hooks on all modules, in tables as HOOKS says."""
    return tuple(at(f"torch.nn.modules.module._global{name}") for name in HOOKS)


def profiler() -> Any:
    """What has `_is_profiler_enabled`: whether torch's profiler is active."""
    found: Any = torch.autograd.profiler
    if hasattr(found, "_is_profiler_enabled"):
        return found
    return types.SimpleNamespace(_is_profiler_enabled=False)


def without_modes() -> Any:
    """A context in which no dispatch mode is active."""
    found = at("torch.utils._python_dispatch._disable_current_modes")
    return found() if found is not None else contextlib.nullcontext()


def is_dynamos(code: types.CodeType) -> bool:
    """Whether code is that of the functions which torch.compile returns."""
    return code.co_name == "compile_wrapper" and code.co_filename.startswith(_DYNAMO)


_DYNAMO = torch.__file__.replace("__init__.py", "_dynamo")

# --- ops ---

overload_name: Callable[[Any], str] = operator.attrgetter("_overloadname")


def schema_of(op: Any) -> Any:
    """What torch says of an op; None for a function of ours."""
    return getattr(op, "_schema", None)


@functools.cache
def op_overload() -> type:
    """The type of `torch.ops.aten.add.Tensor`."""
    return type(torch.ops.aten.add.Tensor)


@functools.cache
def core_decompositions() -> dict[Any, Callable[..., Any]]:
    """op overload -> PyTorch's own decomposition."""
    found = at("torch._decomp.core_aten_decompositions")
    return {} if found is None else dict(found())


def is_composite(op: Any) -> bool:
    """Whether an op is made of others. Such a one may return its argument itself although its
    schema does not say so."""
    return _has_kernel(op, "CompositeImplicitAutograd")


def _has_kernel(op: Any, key: str) -> bool:
    return bool(at("torch._C._dispatch_has_kernel_for_dispatch_key")(op.name(), key))


@functools.cache
def composite_kernel(op: Any) -> Callable[..., Any] | None:
    """The kernel that makes an op out of calls of others; None for an op that is none, or that a
    device implements. (`OpOverload.decompose` prefers Python decompositions, whose results may be
    copies.)"""
    if not is_composite(op) or _has_kernel(op, "CPU") or _has_kernel(op, "CUDA"):
        return None
    return functools.partial(op._op_dk, torch._C.DispatchKey.CompositeImplicitAutograd)


def core_function(name: str) -> Any:
    """A function of `torch._C`, where torch keeps its settings (runtime.settings lists them); None
    if this version has none of that name: it is not guarded then, and a call of it runs eagerly."""
    return getattr(torch._C, name, None)


def variable_functions() -> Any:
    """The class that holds `torch.add` and its like."""
    return at("torch._C._VariableFunctionsClass")


# --- tensors, storages, modules, generators ---

storage_key: Callable[[Any], int] = operator.attrgetter("_cdata")  # the same for all its wrappers
is_zero_tensor: Callable[[torch.Tensor], bool] = at("torch.Tensor._is_zerotensor")
negated: Callable[[torch.Tensor], torch.Tensor] = at("torch._neg_view")  # the same memory
free_weak_storage: Callable[[int], None] = at("torch.UntypedStorage._free_weak_ref")
# Keeps a storage's address from being used again, and not its memory, until it is freed.
weak_storage: Callable[[Any], int] = at("torch.UntypedStorage._weak_ref")


def tensor_hooks(tensor: torch.Tensor) -> tuple[Any, Any]:
    """A tensor's hooks on its gradient, and those after it is added up; each may be None."""
    return tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)


def is_compiled_module(module: torch.nn.Module) -> bool:
    """Whether `module.compile()` was called: its calls are torch's compiler's."""
    return module._compiled_call_impl is not None


def generator_key(generator: torch.Generator) -> int:
    """Which generator it is. C++ hands one to Python as one object or another."""
    return int(getattr(generator, "_cdata", id(generator)))


def is_default(generator: torch.Generator) -> bool:
    """Whether this is the CPU's default generator."""
    return generator_key(generator) == generator_key(torch.default_generator)


def pytree_nodes() -> Any:
    """flatten_fn and unflatten_fn of each class registered with torch's pytree."""
    return at("torch.utils._pytree.SUPPORTED_NODES")


# --- torch.compile ---


def aot_autograd() -> Callable[..., Any]:
    """A Dynamo backend out of one compiler each for inference, forward and backward graphs; torch's
    own way to write backends."""
    found: Callable[..., Any] = at("torch._dynamo.backends.common.aot_autograd")
    return found


def dynamo_exception() -> type[Exception]:
    """Base of what Dynamo's parts raise to each other (restart, skip this frame)."""
    found: type[Exception] = at("torch._dynamo.exc.TorchDynamoException")
    return found


# --- triton ---

# Held while triton.language is patched for interpreting, and while a kernel's text is turned into
# Triton's IR: both use the same module, so they cannot happen at once. Taken inside of forks.gate.
triton_language = forks.Lock()


def triton_interpreter() -> Any:
    """Triton's interpreter, loaded without TRITON_INTERPRET: it and compiling live together."""
    return at("triton.runtime.interpreter")


def patch_triton_language(semantic: Any) -> None:
    """Let the interpreter patch `triton.language`, so that it computes with this semantic."""
    interpreter = triton_interpreter()
    import triton.language as tl

    theirs = interpreter.interpreter_builder, interpreter.interpreter_semantic
    interpreter.interpreter_builder, interpreter.interpreter_semantic = semantic.builder, semantic
    user = types.FunctionType((lambda: None).__code__, {"tl": tl})  # tl among a kernel's globals
    try:
        interpreter._patch_lang(user)
    finally:
        interpreter.interpreter_builder, interpreter.interpreter_semantic = theirs


def triton_semantic(builder: Any) -> Any:
    """What `triton.language` means, on a builder."""
    return at("triton.language.semantic.TritonSemantic")(builder)


def triton_type(name: str) -> Any:
    """The type called `*fp32`."""
    return at("triton.language.str_to_ty")(name, None)


def triton_pipeline(
    function: Any, signature: dict[str, str], constants: dict[str, Any], attributes: dict[Any, Any],
    target: tuple[str, Any, int], options: dict[str, Any],
) -> tuple[Any, dict[str, Any], dict[str, Callable[[Any, dict[str, Any]], Any]]]:  # fmt: skip
    """The stages of `triton.compile`, for a caller who runs them: IR, metadata, stages by name.

    `triton.compile` itself would hash all of triton and write each stage to a cache of its own
    (0.3 s for the first kernel, files in the user's home).
    """
    from triton.compiler import ASTSource

    goal = at("triton.backends.compiler.GPUTarget")(*target)
    backend = at("triton.compiler.compiler.make_backend")(goal)
    source = ASTSource(function, signature, constants, attributes)
    parsed = backend.parse_options(dict(options))
    stages: dict[str, Any] = {}
    backend.add_stages(stages, parsed, source.language)
    ir = at("triton._C.libtriton.ir")
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    with triton_language:
        functions = backend.get_codegen_implementation(parsed)
        module = source.make_ir(goal, parsed, functions, backend.get_module_map(), context)
    return module, dict(parsed.__dict__), stages


def triton_ptxas(arch: int) -> str:
    """Path of the ptxas in triton's wheel for `sm_<arch>`."""
    return str(at("triton.backends.nvidia.compiler.get_ptxas")(arch).path)


def triton_tool(name: str) -> str:
    """Path of `nvdisasm` or `cuobjdump` in triton's wheel."""
    return str(getattr(at("triton.knobs.nvidia"), name).path)


def triton_driver() -> Any:
    """Loads machine code (`utils.load_binary`) and launches it (`launcher_cls`)."""
    return at("triton.runtime.driver.driver").active


# --- llvmlite ---


def without_lock(name: str) -> Callable[..., Any]:
    """A function of LLVM without the lock that llvmlite holds around each. Where modules have
    contexts of their own, LLVM needs none."""
    from llvmlite.binding import ffi

    unlocked: Callable[..., Any] | None = at(f"llvmlite.binding.ffi.lib.{name}._cfn")
    return unlocked or getattr(ffi.lib, name)

"""Runs native kernels: object code is put into memory (objectfile.py, or LLVM) and called.

A kernel is a Python function in machine code (codegen/native/entry.py), which takes the tensors
themselves: a call costs about 0.1 µs.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tracejit.runtime import cpu, private
from tracejit.runtime.devices import objectfile
from tracejit.runtime.devices.base import Launchable
from tracejit.runtime.kernel import Binary, KernelSource

METH_FASTCALL = 0x80
TENSOR_ADDRESS = "tensor_address"  # void *(PyObject *tensor)
# What every kernel needs of the process: Python's C interface, and torch's threads.
UNDEFINED = ("PyLong_AsVoidPtr", "Py_IncRef", "_Py_NoneStruct", TENSOR_ADDRESS)


def load(source: KernelSource, binary: Binary | None) -> Launchable:
    """The kernel from its object code. Raises ValueError without it, OSError for a function that
    this process lacks."""
    if binary is None:
        raise ValueError(f"{source.name} has no object code for {source.target}")
    if source.grid == 0:
        return _nothing
    run = entry(source.name, binary.code, tuple(binary.metadata["symbols"]))
    scratch = source.constants.get("scratch", 0)
    return _with_memory(run, scratch) if scratch else run


def _with_memory(run: Callable[..., None], size: int) -> Launchable:
    """A kernel that needs memory while it runs: a piece, aligned to 64 bytes, whose address is the
    last argument. Pieces are kept from call to call, as many as calls at once."""
    free: list[torch.Tensor] = []

    def using(*tensors: torch.Tensor) -> None:
        try:
            piece = free.pop()  # one step, so that threads do not get the same
        except IndexError:
            piece = torch.empty(size, dtype=torch.uint8, device="cpu")
        run(*tensors, piece.data_ptr())
        free.append(piece)

    return using


def _nothing(*tensors: torch.Tensor) -> None:
    """A kernel without an iteration."""


def entry(name: str, code: bytes, symbols: tuple[str, ...]) -> Callable[..., None]:
    """The function `name` of an object file, as a Python function of tensors."""
    engine: Any
    try:
        engine = objectfile.load(code, _address_of)
        address = engine.addresses.get(name)
    except objectfile.Unknown:
        engine = _by_llvm(code, symbols)
        address = engine.get_function_address(name)
    if not address:
        raise ValueError(f"the object code has no function {name}")
    definition = _Definition(name.encode(), address, METH_FASTCALL, None)
    function: Callable[..., Any] = _new_function()(ctypes.byref(definition), None, None)
    _alive[id(function)] = (engine, definition, function)
    return function


def _by_llvm(code: bytes, symbols: tuple[str, ...]) -> Any:
    """LLVM's engine with the object file loaded."""
    llvm = cpu.llvm()
    for symbol in symbols:
        llvm.add_symbol(symbol, _address_of(symbol))
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), cpu.loading_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


_alive: dict[int, Any] = {}  # code that Python functions point into


class _Definition(ctypes.Structure):
    """Python's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("method", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


@functools.cache
def _new_function() -> Any:
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    return make


@functools.cache
def _address_of(symbol: str) -> int:
    """Where a function of this process is. Raises OSError if it is nowhere."""
    address = private.tensor_address() if symbol == TENSOR_ADDRESS else None
    for library in () if address else _libraries():
        try:
            address = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
            break
        except AttributeError:
            continue
    if address is None:
        raise OSError(f"this process has no function {symbol}, which a kernel calls")
    return address


@functools.cache
def _libraries() -> tuple[Any, ...]:
    """Where functions are looked for: Python itself, torch's library and all that it loads (OpenMP,
    SLEEF, the C library)."""
    folder = Path(torch.__file__).parent / "lib"
    found = sorted(folder.glob("libtorch_cpu.*"))
    return (ctypes.pythonapi, *(ctypes.CDLL(str(path)) for path in found))

"""Every kernel compiles for every target without a GPU, holds what it computes in registers, and
moves 16 bytes at once.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tracejit.cli.cache.parts import nvdisasm
from tracejit.codegen.triton import offline, rules
from tracejit.codegen.triton.generate import generate
from tracejit.codegen.triton.strategy import Strategy
from tracejit.fuse.scalar import REDUCTIONS, SCANS, VOCABULARY, make
from tracejit.ir.dtypes import COMPUTED
from tracejit.runtime import devices
from tracejit.runtime.kernel import Binary, KernelSource

CUDA = ("cuda:80", "cuda:90", "cuda:100")
TARGETS = (*CUDA, "hip:gfx942")


@pytest.mark.parametrize("target", TARGETS)
def test_each_class_compiles_without_spills(examples, target: str) -> None:
    sources = [generate(nest, name, target=target) for name, nest in examples.items()]
    for source, binary in zip(sources, offline.compile_kernels(sources, target), strict=True):
        assert binary.spills == 0, source.name
        assert binary.compiled is None, f"{source.name}: the first choice of tiles spilled"
        assert 0 < binary.registers <= 255
        assert binary.metadata["name"] == source.name


def sass(binary: Binary, folder: Path) -> str:
    """CUDA's machine code as text."""
    path = folder / "kernel.cubin"
    path.write_bytes(binary.code)
    command = [nvdisasm(), "-c", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def chain(nests, size: int, dtype: str = "f32"):
    (i,) = nests.axes(i=size)
    x, y = (
        make("cast", nests.load(n, i, dtype), dtype="f32") if dtype != "f32" else nests.load(n, i)
        for n in "xy"
    )
    value = x * y + 1.0
    return nests.nest(
        [i], {"out": (i, make("cast", value, dtype=dtype) if dtype != "f32" else value)}
    )


@pytest.mark.parametrize("target", CUDA)
@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1 << 20, "f32"), (1 << 20, "bf16"), (512, "f32"), (768 * 5, "f32"), (1000, "f32")],
)
def test_contiguous_accesses_are_16_bytes_wide(
    nests, target: str, size: int, dtype: str, tmp_path: Path
) -> None:
    """Also with a mask, where the block does not divide the range but 16 bytes do."""
    binary = offline.compile_kernel(
        generate(chain(nests, size, dtype), "chain", target=target), target
    )
    assert set(re.findall(r"ld\.global\S*", binary.assembly)) == {"ld.global.v4.b32"}
    assert set(re.findall(r"st\.global\S*", binary.assembly)) == {"st.global.v4.b32"}
    code = sass(binary, tmp_path)
    loads, stores = re.findall(r"\bLDG\S*", code), re.findall(r"\bSTG\S*", code)
    assert loads and stores
    assert all(".128" in access for access in loads + stores), loads + stores


def test_contiguous_accesses_are_16_bytes_wide_on_hip(nests) -> None:
    binary = offline.compile_kernel(
        generate(chain(nests, 1 << 20), "chain", target="hip:gfx942"), "hip:gfx942"
    )
    accesses = re.findall(r"\b(?:buffer|global)_(?:load|store)_\w+", binary.assembly)
    assert accesses and all(access.endswith("dwordx4") for access in accesses)


def test_arithmetic_is_exact(nests) -> None:
    """No contraction, no flushing of denormals, division and square root as in IEEE 754."""
    (i,) = nests.axes(i=1024)
    x, y = nests.load("x", i), nests.load("y", i)
    value = make("sqrt", x) / (x * y + y)
    nest = nests.nest([i], {"out": (i, value)})
    for target in CUDA:
        ptx = offline.compile_kernel(generate(nest, "kernel", target=target), target).assembly
        assert (
            "fma" not in ptx and "ftz" not in ptx and "approx" not in ptx and "div.full" not in ptx
        )
        assert "div.rn.f32" in ptx and "sqrt.rn.f32" in ptx
    only = nests.nest([i], {"out": (i, x * y + y)})
    code = offline.compile_kernel(
        generate(only, "kernel", target="hip:gfx942"), "hip:gfx942"
    ).assembly
    assert not re.search(r"v_(pk_)?(fma|fmac|mad)", code)


WORDS = [w for w in sorted(VOCABULARY) if w not in rules.SPECIAL]


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_every_word_compiles(nests, target: str) -> None:
    """Twelve words a kernel, for each dtype that they take."""
    sources = []
    for dtype in ("f32", "f64", "i32", "u8", "bool"):
        kind = "f" if dtype[0] == "f" else "b" if dtype == "bool" else "i"
        words = [w for w in WORDS if kind in VOCABULARY[w].takes]
        for start in range(0, len(words), 12):
            sources.append(_of_words(nests, words[start : start + 12], dtype, target))
    for binary in offline.compile_kernels(sources, target):
        assert binary.code


def _of_words(nests, words: list[str], dtype: str, target: str) -> KernelSource:
    (i,) = nests.axes(i=128)
    condition = nests.load("condition", i, "bool")
    stores = {}
    for word in words:
        args = [nests.load(n, i, dtype) for n in "abc"][: VOCABULARY[word].arity]
        stores[f"out_{word}"] = (
            i,
            make(word, *([condition, *args[1:]] if word == "where" else args)),
        )
    return generate(nests.nest([i], stores), f"words_{words[0]}_{dtype}", target=target)


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_every_cast_and_reduction_compiles(nests, target: str) -> None:
    (i,) = nests.axes(i=128)
    kinds = sorted(COMPUTED)
    casts = {
        f"{a}_{b}": (i, make("cast", nests.load(a, i, a), dtype=b))
        for a in kinds
        for b in kinds
        if a != b
    }
    sources = [generate(nests.nest([i], casts), "casts", target=target)]
    j, r = nests.axes(j=8, r=100)
    for dtype, skip in (
        ("f32", {"any", "all", "xor"}),
        ("i64", set()),
        ("bool", {"sum"}),
        ("bf16", {"any", "all", "xor"}),
    ):
        x = nests.load("x", j * 100 + r, dtype)
        stores = {f"r_{n}": (j, nests.reduce(n, x)) for n in REDUCTIONS if n not in skip}
        stores |= {f"s_{n}": (j * 100 + r, nests.scan(n, x)) for n in SCANS if n not in skip}
        sources.append(generate(nests.nest([j, r], stores), f"reductions_{dtype}", target=target))
    for binary in offline.compile_kernels(sources, target):
        assert binary.code


def test_lighter_tiles_are_not_made_for_a_kernel_that_does_not_spill(nests) -> None:
    def unwanted() -> KernelSource:
        raise AssertionError("nobody asked for lighter tiles")

    (i,) = nests.axes(i=1024)
    nest = nests.nest([i], {"out": (1 * i, nests.load("x", 1 * i))})
    asked = generate(nest, "plain", target="cuda:90")
    binary = offline.compile_kernel(replace(asked, lighter=(unwanted,)), "cuda:90")
    assert binary.spills == 0 and binary.compiled is None


def test_a_kernel_that_spills_is_compiled_with_lighter_tiles(nests) -> None:
    """Sixteen rows of 4,096 held by one warp: 2,048 registers a thread."""
    i, r = nests.axes(i=8, r=4096)
    loads = [nests.load(f"x{k}", i * 4096 + r) for k in range(16)]
    total = loads[0]
    for load in loads[1:]:
        total = total + load * total
    out = {
        f"out{k}": (i * 4096 + r, load - nests.reduce("sum", total)) for k, load in enumerate(loads)
    }
    nest = nests.nest([i, r], out)
    asked = generate(nest, "kernel", target="cuda:90")
    heavy = Strategy("persistent", 1, 4096, num_warps=4)
    bad = generate(nest, "kernel", target="cuda:90", strategy=heavy)
    assert offline.compile_once(bad, "cuda:90").spills > 0
    binary = offline.compile_kernel(replace(bad, lighter=asked.lighter), "cuda:90")
    assert binary.spills == 0
    assert binary.compiled is not None and binary.compiled.constants != bad.constants
    again = Binary.from_json(binary.to_json(), binary.code)
    assert again.compiled == binary.compiled
    assert again.code == binary.code


def test_positions_beyond_32_bits(nests) -> None:
    """A range of more than 2³¹ elements, and a stride that passes it: addresses are computed in 64
    bits.
    """
    (i,) = nests.axes(i=1 << 32)
    long = generate(
        nests.nest([i], {"out": (i, nests.load("x", i) + 1.0)}), "long", target="cuda:90"
    )
    i, r = nests.axes(i=100, r=1000)
    far = nests.load("x", i * 30_000_000 + r)
    strided = generate(
        nests.nest([i, r], {"out": (i, nests.reduce("sum", far))}), "strided", target="cuda:90"
    )
    for source in (long, strided):
        assert "tl.program_id(0).to(tl.int64)" in source.text
        assert offline.compile_kernel(source, "cuda:90").spills == 0
    assert long.grid == (1 << 32) // 1024


def test_compiling_and_interpreting_the_same_text_in_one_process(examples) -> None:
    nest = examples["softmax"]
    x = torch.randn(256, 1000)
    for _ in range(2):
        out = torch.empty(256, 1000)
        devices.load(generate(nest, "softmax", target="interpret"))(x, out)
        torch.testing.assert_close(out, x.softmax(1))
        assert offline.compile_kernel(generate(nest, "softmax", target="cuda:90"), "cuda:90").code


def test_the_plain_interpreter_runs_the_text_too(examples) -> None:
    """Triton's own InterpretedFunction, as far as it goes: no libdevice, and slow reductions."""
    from triton.runtime.interpreter import InterpretedFunction

    from tracejit.runtime.devices.base import execute

    for name in ("argmax", "cumsum"):
        source = generate(examples[name], name, target="cuda:90")
        namespace = execute(source)
        for key, value in list(namespace.items()):
            if hasattr(value, "fn") and callable(value.fn):
                namespace[key] = InterpretedFunction(value.fn)
        x = torch.randn(64, 50)
        outputs = (
            [torch.empty(64, 50)]
            if name == "cumsum"
            else [torch.empty(64, dtype=torch.int64) for _ in range(2)]
        )
        namespace[name][(2,)](x, *outputs, **source.constants)
        want = x.cumsum(1) if name == "cumsum" else x.argmax(1)
        torch.testing.assert_close(outputs[0][:2], want[:2])


def test_a_failure_names_the_kernel_and_shows_its_text(examples) -> None:

    source = generate(examples["add"], "add", target="cuda:90")
    broken = replace(source, text=source.text.replace("x * 2.0", "x * missing"))
    with pytest.raises(offline.CannotCompile, match=r"(?s)add for cuda:90.*missing.*def add"):
        offline.compile_kernel(broken, "cuda:90")
    with pytest.raises(ValueError, match="interpret"):
        offline.compile_kernel(source, "interpret")


def test_nothing_is_written_to_tritons_cache(
    examples, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton import knobs

    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    offline.compile_kernel(generate(examples["add"], "add", target="cuda:90"), "cuda:90")
    assert list(tmp_path.iterdir()) == []

"""`tracejit cache show`: an entry in words and as JSON, its texts, keys that are shortened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.caches import (
    COMPILED,
    INTERPRETED,
    MANIFEST,
    PLAN,
    SOURCE,
    add_kernel,
    document,
    fails,
    filled,
    handwritten,
    only,
    path,
    run,
    snapshot,
    text,
)
from tracejit.cli.cache import show
from tracejit.cli.cache.describe import item_size
from tracejit.cli.cache.index import opened
from tracejit.runtime.cache import Cache, Kernel, StoredPlan
from tracejit.runtime.files import Item
from tracejit.runtime.kernel import Binary
from tracejit.runtime.store import Store


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("show"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return filled(tmp_path)


@pytest.fixture
def little(tmp_path: Path) -> Path:
    return handwritten(tmp_path)


def labelled(shown: str) -> dict[str, list[str]]:
    """The lines of what is printed, by their label."""
    found: dict[str, list[str]] = {}
    label = ""
    for line in shown.split("\n\n")[0].splitlines()[1:]:
        label = line[2:14].strip() or label
        found.setdefault(label, []).append(line[14:])
    return found


# in words


def test_kernel(directory: Path) -> None:
    """Its model lines, launch, parameters, bytes, code, plan, guards, writer, and source."""
    key = only(directory, "kernels", "cuda:90")
    plan, record = only(directory, "plans", "cuda:90"), only(directory, "records", "cuda:90")
    shown = text(directory, "show", key[:8])
    lines = labelled(shown)
    assert shown.startswith(f"kernel {key}\n")
    assert "for cuda:90: persistent reduction" in lines["what"][0] and lines["of"] == [COMPILED]
    assert len(lines["lines"]) == 2 and "caches.py:" in lines["lines"][0]
    assert lines["lines"][0].endswith("in norm")
    assert lines["launch"][0].split(";")[0].endswith("1 stage") and "RBLOCK = 64" in shown
    words = [line.split() for line in lines["parameters"]]
    assert ["x_ptr", "*fp32", "256", "elements", "1.0", "KiB", "read"] in words
    assert [line[-1] for line in words] == ["read", "read", "written", "written"]
    assert lines["bytes"] == [
        "reads 2.0 KiB (2,048 bytes), writes 2.0 KiB (2,048 bytes) in a launch"
    ]
    assert "of cubin" in lines["code"][0] and "0 spilled" in lines["code"][0]
    part = ": 1 of its 1 launch, 4.0 KiB, 100% of its kernels' bytes"
    assert lines["plans"] == [f"{plan[:12]} {COMPILED}{part}"]
    assert lines["guards"][0] == f"of record {record[:12]}, by which {COMPILED} comes here:"
    assert lines["guards"][1] == "x is a float32 tensor [4, 64] on cpu, contiguous, no grad"
    assert lines["guards"][-1].startswith("and ") and "functions' code (1)" in lines["guards"][-1]
    assert " by " in lines["written"][0] and "process " in lines["written"][0]
    assert "tracejit " in lines["with"][0] and "numerics eager" in lines["with"][0]
    assert lines["used"][0].startswith("no process found it yet; last used ")
    assert shown.endswith(text(directory, "show", key, "--source"))


def test_plan(directory: Path) -> None:
    """Kernels with launches, bytes and share; library calls with their lines; stages; records."""
    key, kernel = only(directory, "plans", "interpret"), only(directory, "kernels", "interpret")
    shown = text(directory, "show", key)
    lines = labelled(shown)
    assert lines["what"] == [f"{INTERPRETED} for interpret"]
    assert lines["does"] == ["1 launch of 1 kernel, 1 library call"]
    assert lines["bytes"][0].startswith("kernels read 1.0 KiB (1,024 bytes), write ")
    assert lines["captured"][0].startswith("3 operations: ") and "aten.mm" in lines["captured"][0]
    assert lines["library"][0].startswith("aten.mm: ") and "caches.py:" in lines["library"][0]
    assert "stages: " in lines["compiler"][0] and " ms" in lines["compiler"][0]
    record = only(directory, "records", "interpret")
    assert lines["records"] == [f"{record[:12]} {INTERPRETED} (1 hit)"]
    assert lines["used"][0].startswith("found by processes once; last used ")
    head, row = shown.split("\n\n")[1].splitlines()
    assert head.split()[:5] == ["kernel", "name", "launches", "bytes", "share"]
    assert row.split()[0] == kernel[:12] and row.split()[2:] == ["1", "2.0", "KiB", "100%"]
    assert "def run(inputs):" in shown


def test_plan_with_machine_code(directory: Path) -> None:
    shown = text(directory, "show", only(directory, "plans", "cuda:90"))
    head, row = shown.split("\n\n")[1].splitlines()
    assert head.split()[-3:] == ["registers", "spills", "compile"]
    registers, spills, compiled, unit = row.split()[-4:]
    assert int(registers) > 0 and spills == "0" and int(compiled) > 0 and unit == "ms"


def test_record(directory: Path) -> None:
    """All its guards, tensors first; the plan it leads to; no source."""
    key, plan = only(directory, "records", "interpret"), only(directory, "plans", "interpret")
    lines = labelled(text(directory, "show", key))
    assert lines["what"] == [f"guards of {INTERPRETED} that lead to plan {plan[:12]}"]
    assert lines["plan"][0].startswith(f"{plan[:12]} {INTERPRETED}")
    assert lines["guards"][0].startswith("x is a float32 tensor [8, 16]")
    assert "args has length 2" in lines["guards"] and "no keyword arguments" in lines["guards"]
    assert any(line.startswith("code of attend unchanged") for line in lines["guards"])
    assert "def run" not in text(directory, "show", key)


def test_kernel_with_spilling_machine_code(little: Path) -> None:
    """Its sizes, registers and spills, the plan that uses it; assembly only when asked for."""
    binary = Binary(b"\x7fELF", "cubin", {}, "// ptx\nret;\n", 38, 16, 512, 0.25, SOURCE)
    source = replace(SOURCE, target="cuda:90", constants={"BLOCK": 64}, reads=12, writes=8)
    add_kernel(little, "fe", source, binary)
    shown = text(little, "show", "fe")
    for words in (
        "1 program of 4 warps, 1 stage; BLOCK = 64",
        "reads 12 bytes, writes 8 bytes in a launch",
        "4 B of cubin, 38 registers, 16 spilled, 512 B of shared memory, compiled in 250 ms, with "
        "lighter tiles because the first ones spilled",
        "fd0000000000 model.f",
    ):
        assert words in shown
    assert "ret;" not in shown
    assert text(little, "show", "fe", "--ptx") == "// ptx\nret;\n"
    data = document(little, "show", "fe")
    assert data["texts"]["assembly"] == "// ptx\nret;\n"
    assert data["kernel"]["machine_code"]["spills"] == 16
    assert [user["key"] for user in data["used_by"]] == ["fd" + "0" * 62]


def test_what_is_not_known_is_left_out(little: Path) -> None:
    """Entries without report, record, lines and environment."""
    shown = text(little, "show", "abd")
    assert "none uses it" in shown and "it runs from its source" in shown
    assert "def relu(x):" in shown and "guards" not in labelled(shown)
    lines = labelled(text(little, "show", "abc"))
    assert lines["records"] == ["none leads to it"] and "compiler" not in lines
    assert lines["does"] == ["1 launch of 0 kernels, 2 library calls"]


def test_many_guards_are_counted(own: Path) -> None:
    """Of a plan, the first tensors in full; of its record, all."""
    index = opened(own)
    entry = index.find(only(own, "records", "interpret"))
    item = index.store.inspect(entry.kind, entry.key)
    nodes = item.fields["guards"]["nodes"]
    tensor = next(node for node in nodes if node[3] == "tensor")
    nodes += [[tensor[0], "item", 2 + i, *tensor[3:]] for i in range(40)]
    assert index.store.write(entry.kind, entry.key, item)
    guards = labelled(text(own, "show", only(own, "plans", "interpret")))["guards"]
    assert (
        len(guards) == 1 + show.MOST_GUARDS + 1
        and f"{42 - show.MOST_GUARDS} more tensors" in guards[-1]
    )
    assert len(labelled(text(own, "show", entry.own_key))["guards"]) == len(nodes)


def test_guards_of_another_version(own: Path) -> None:
    file = path(own, "records", "interpret")
    index = opened(own)
    entry = index.find(file.name)
    item = index.store.inspect(entry.kind, entry.key)
    item.fields["guards"]["version"] = 99
    assert index.store.write(entry.kind, entry.key, item)
    words = f"of record {entry.short}: this version cannot read them"
    assert labelled(text(own, "show", file.name))["guards"] == [words]
    assert document(own, "show", file.name)["guards"] == []


def test_dangling_and_damaged(own: Path) -> None:
    """A record whose plan is gone says so; a kernel whose plan is damaged is shown without it; a
    damaged entry is a sentence. Nothing is set aside."""
    record, kernel = only(own, "records", "interpret"), only(own, "kernels", "cuda:90")
    damaged = path(own, "plans", "cuda:90")
    path(own, "plans", "interpret").unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = snapshot(own)
    assert "not in the cache" in labelled(text(own, "show", record))["plan"][0]
    assert "no whole plan of record" in fails(own, "show", record, "--graph")
    assert "record" not in labelled(text(own, "show", kernel))
    sentence = fails(own, "show", damaged.name)
    assert sentence.startswith(f"plan {damaged.name[:12]} cannot be shown: its content does not")
    assert snapshot(own) == before and not (own / "damaged").exists()


def test_fields_of_another_kind(own: Path) -> None:
    """A whole file, by its digest, of something else."""
    store, file = Store(own), path(own, "kernels", "interpret")
    assert store.write("kernels", file.name, Item({"sauce": 1}))
    words = "cannot be shown: its fields are not those of kernels"
    assert fails(own, "show", file.name).endswith(words)


def test_a_kernel_that_is_missing_from_its_plan(own: Path) -> None:
    path(own, "kernels", "cuda:90").unlink()
    plan = only(own, "plans", "cuda:90")
    assert text(own, "show", plan).split("\n\n")[1].splitlines()[1].split()[-1] == "missing"
    (row,) = document(own, "show", plan)["plan"]["kernels"]
    assert row["stored"] is False and row["registers"] > 0 and row["compile_seconds"] is None


def test_shares_and_users_of_several(little: Path) -> None:
    """A plan's kernels by their bytes; a kernel of many plans names a few."""
    made = Cache(little)
    big = Kernel("e1" + "0" * 62, replace(SOURCE, name="big", reads=300))
    small = Kernel("e2" + "0" * 62, replace(SOURCE, name="small", reads=50, writes=50))
    report = {"kernels": [{"name": n, "launches": c, "lines": []} for n, c in REPORTED.items()]}
    for number in range(6):
        plan = StoredPlan(f"d{number}" + "0" * 62, PLAN.text, MANIFEST, {"big": big}, report)
        both = {"small": small, "big": big} if number == 0 else plan.kernels
        assert made.write_plan(replace(plan, kernels=both))
    rows = document(little, "show", "d0")["plan"]["kernels"]
    assert [(r["name"], r["bytes"], r["share"]) for r in rows] == [
        ("big", 300, 0.75),
        ("small", 200 // 2, 0.25),
    ]
    assert labelled(text(little, "show", "e1"))["plans"][-1] == "and 1 more"


REPORTED = {"big": 1, "small": 1}


# JSON


@pytest.mark.parametrize("kind", ["kernels", "plans", "records"])
def test_json(directory: Path, kind: str) -> None:
    data = document(directory, "show", only(directory, kind, "cuda:90"))
    row = next(e for e in document(directory, "ls")["entries"] if e["key"] == data["key"])
    assert {name: data[name] for name in row} == row
    help_text = run(directory, "show", "--help").output
    for name in ("about", "written_by", *set(data).difference(row, ["schema"])):
        assert f"\n    {name} " in help_text, name
    assert set(data["written_by"]) == {"time", "pid", "host", "program", "environment"}
    assert data["about"][0].startswith("what: ") and isinstance(data["fields"], dict)
    assert "guards" not in data["fields"]
    assert data["guards"][2].startswith("x is a float32 tensor [4, 64]")
    assert data["record"] == only(directory, "records", "cuda:90")
    assert data["plan"]["key"] == only(directory, "plans", "cuda:90")
    for name in (*data["plan"], *data["plan"]["kernels"][0], *(data["kernel"] or {})):
        assert f'"{name}"' in help_text, name


def test_json_of_a_kernel(directory: Path) -> None:
    data = document(directory, "show", only(directory, "kernels", "cuda:90"))
    kernel = data["kernel"]
    assert kernel["reads"] == kernel["writes"] == 2048 and kernel["tiles"] == {"RBLOCK": 64}
    assert kernel["parameters"][0] == {
        "name": "x_ptr",
        "type": "*fp32",
        "elements": 256,
        "bytes": 1024,
        "written": False,
    }
    assert kernel["machine_code"]["kind"] == "cubin" and kernel["machine_code"]["registers"] > 0
    assert kernel["machine_code"]["bytes"] > 1000 and not kernel["machine_code"]["lighter_tiles"]
    assert set(data["texts"]) == {"kernel.py", "assembly"}
    assert [user["kind"] for user in data["used_by"]] == ["plans"]


def test_json_of_a_plan(directory: Path, little: Path) -> None:
    data = document(directory, "show", only(directory, "plans", "interpret"))
    plan = data["plan"]
    assert plan["launches"] == plan["calls"] == plan["outputs"] == 1 and plan["inputs"] == 2
    assert plan["captured"] == {"aten.mm": 1, "aten.relu": 1, "aten._softmax": 1}
    assert [call["op"] for call in plan["library"]] == ["aten.mm"]
    assert {"recorded", "schedule", "machine code"} <= {s["name"] for s in plan["stages"]}
    (row,) = plan["kernels"]
    assert row["share"] == 1.0 and row["launches"] == 1 and row["bytes"] == 2048
    assert set(data["texts"]) == {"plan.py", "graph.txt"} and data["kernel"] is None
    assert [user["kind"] for user in data["used_by"]] == ["records"]
    handmade = document(little, "show", PLAN.key)
    assert handmade["texts"] == {"plan.py": PLAN.text}
    assert handmade["fields"]["manifest"] == MANIFEST


def test_sizes_of_elements() -> None:
    sizes = {"*fp32": 4, "*fp64": 8, "*bf16": 2, "*i1": 1, "*i8": 1, "*fp8e4nv": 1, "*i64": 8}
    assert {kind: item_size(kind) for kind in sizes} == sizes

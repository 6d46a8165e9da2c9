"""`tracejit cache prune` and `clear`: what goes, what goes with it, and what stays."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.caches import (
    COMPILED,
    INTERPRETED,
    document,
    fails,
    filled,
    keys,
    leave_behind,
    other_format,
    path,
    run,
    snapshot,
    text,
    web,
)
from tracejit.cli.cache import upkeep
from tracejit.runtime.config import config
from tracejit.runtime.store import Store


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return filled(tmp_path)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    return web(tmp_path)


def names(directory: Path) -> list[str]:
    """What is there: kernels by name, plans and records as `plan m.f`."""
    rows = document(directory, "ls")["entries"]
    kinds = {"kernels": "", "plans": "plan ", "records": "record "}
    return sorted(kinds[row["kind"]] + row["name"] for row in rows)


ALL = sorted(
    ["alone", "own_f", "own_g", "shared", "plan m.f", "plan m.g"]
    + ["record m.f", "record m.f", "record m.g"]
)
OF_F = ["own_f", "plan m.f", "record m.f", "record m.f"]


def without(*gone: str) -> list[str]:
    left = list(ALL)
    for name in gone:
        left.remove(name)
    return left


def pruned(directory: Path, *words: str) -> list[str]:
    """Prune; what stays. A dry run before it says the same and removes nothing."""
    before = snapshot(directory)
    said = document(directory, "prune", *words, "--dry-run")
    assert snapshot(directory) == before and said["dry_run"] is True
    done = document(directory, "prune", *words)
    assert {**done, "dry_run": True} == said
    assert done["entries"] + done["files"] == len(done["removed"])
    assert done["bytes"] == sum(row["bytes"] for row in done["removed"])
    gone = set(before).difference(snapshot(directory))
    assert len([name for name in gone if not name.startswith("hits/")]) == len(done["removed"])
    assert document(directory, "verify")["ok"] is True
    return names(directory)


def test_nothing_to_do(own: Path) -> None:
    assert pruned(own) == names(own)
    assert text(own, "prune") == f"nothing to remove in {own}\n"


def test_a_plan_goes_with_its_records_and_kernels(linked: Path) -> None:
    """What another plan uses stays, also if it is as old."""
    assert names(linked) == ALL
    shared = linked / "kernels" / ("2" * 64)
    os.utime(shared, (time.time() - 20 * 86400,) * 2)
    assert pruned(linked, "--older-than", "15d") == without("alone", *OF_F)


def test_text(linked: Path) -> None:
    shown = text(linked, "prune", "--older-than", "15d", "--dry-run")
    assert "not used for 15 d: " in shown and "plan 555555555555 m.f" in shown
    assert "would remove 2 kernels, 1 plan and 2 records (" in shown
    assert text(linked, "prune", "--older-than", "15d").splitlines()[-1].startswith("removed 2 ker")


def test_a_used_record_keeps_its_plan(linked: Path) -> None:
    """One record of two is old: it goes alone."""
    index = {row["key"]: row["name"] for row in document(linked, "ls")["entries"]}
    of_f = [p for p in (linked / "records" / ("f" * 64)).iterdir() if index[p.name] == "m.f"]
    for file in (*of_f[1:], linked / "plans" / ("5" * 64)):
        os.utime(file)
    assert pruned(linked, "--older-than", "15d") == without("alone", "record m.f")


def test_max_size(linked: Path) -> None:
    """What was used longest ago goes first, with what is of no use without it."""
    size = document(linked, "ls")["total"]["bytes"]
    assert pruned(linked, "--max-size", str(size)) == ALL
    left = pruned(linked, "--max-size", str(size - 1))
    assert set(ALL).difference(left) and "plan m.g" in left and "shared" in left
    left = pruned(linked, "--max-size", str(size // 2))
    assert document(linked, "ls")["total"]["bytes"] <= size // 2
    assert "plan m.f" not in left and left
    assert pruned(linked, "--max-size", "0") == []


def test_down_to_the_limit(linked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = document(linked, "ls")["total"]["bytes"] // 2
    monkeypatch.setattr(config, "cache_limit", half)
    assert pruned(linked) and document(linked, "ls")["total"]["bytes"] <= half


def test_unused(own: Path) -> None:
    left = pruned(own, "--unused")
    assert len(left) == 3 and f"record {INTERPRETED}" in left and f"record {COMPILED}" not in left


def test_options_narrow_each_other(own: Path) -> None:
    """Unused and old: none is."""
    assert len(pruned(own, "--unused", "--older-than", "1h")) == 6
    assert len(pruned(own, "--stale", "--unused")) == 6


def test_stale(own: Path) -> None:
    """Entries of another version of something, and of another format."""
    assert len(pruned(own, "--stale")) == 6
    store, kernel = Store(own), path(own, "kernels", "interpret")
    plan = path(own, "plans", "interpret")
    item = store.inspect("plans", plan.name)
    assert store.write("plans", plan.name, item, {**item.written["environment"], "torch": "1.0"})
    other_format(kernel)
    data = document(own, "prune", "--stale")
    assert {row["kind"] for row in data["removed"]} == {"kernels", "plans", "records"}
    assert data["removed"][0]["why"] == "of other versions"
    assert set(names(own)) == {"add_pow_mean_rsqrt_more", f"plan {COMPILED}", f"record {COMPILED}"}


def test_entries_that_do_not_say_their_version_are_stale(linked: Path) -> None:
    assert pruned(linked, "--stale") == []


def test_hits_go_with_their_record(own: Path) -> None:
    assert [p.stat().st_size for p in (own / "hits").iterdir()] == [1]
    pruned(own, "--max-size", "0")
    assert list((own / "hits").iterdir()) == []


def test_dangling(own: Path) -> None:
    path(own, "plans", "interpret").unlink()
    assert len(names(own)) == 5
    assert f"record {INTERPRETED}" not in pruned(own, "--dangling")


def test_damaged(own: Path) -> None:
    """Files set aside, and those in place that cannot be read."""
    plan = path(own, "plans", "interpret")
    plan.write_bytes(b"")
    with pytest.warns(match="a test"):
        Store(own).set_aside("kernels", path(own, "kernels", "interpret").name, "a test")
    left = leave_behind(own)  # not asked for
    data = document(own, "prune", "--damaged")
    assert all(file.exists() for file in left)
    assert data["entries"] >= 1 and data["files"] == 1 and not plan.exists()
    assert list(Store(own).files("damaged")) == []


def test_without_options_what_is_of_no_use_goes(own: Path) -> None:
    gone = leave_behind(own)
    path(own, "plans", "interpret").unlink()
    with pytest.warns(match="a test"):
        Store(own).set_aside("kernels", path(own, "kernels", "interpret").name, "a test")
    shown = text(own, "prune")
    assert "its process ended before it was done: " in shown and "found damaged before: " in shown
    assert "it leads to plan " in shown and "removed 1 record and 3 other files" in shown
    assert not any(file.exists() for file in gone) and len(names(own)) == 3


def test_json_is_described(own: Path) -> None:
    help_text = run(own, "prune", "--help").output
    data = document(own, "prune", "--max-size", "0", "--dry-run")
    assert all(name in help_text for name in (*data, *data["removed"][0]) if name != "schema")


@pytest.mark.parametrize("command", [("prune",), ("prune", "--stale"), ("clear", "--yes")])
def test_no_cache_yet(tmp_path: Path, command: tuple[str, ...]) -> None:
    directory = tmp_path / "none"
    assert text(directory, *command) == f"no cache yet: {directory} does not exist\n"
    assert document(directory, *command)["removed"] == [] and not directory.exists()


@pytest.mark.parametrize("command", [("prune", "--max-size", "0"), ("clear", "--yes")])
def test_another_users_files_stay(
    own: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    user, before = os.getuid(), snapshot(own)
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    assert f"belongs to user {user}: nothing is removed" in fails(own, *command)
    assert snapshot(own) == before


@pytest.mark.parametrize("command", [("prune", "--max-size", "0"), ("clear", "--yes")])
def test_a_file_that_cannot_be_removed(
    own: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    kernel, remove = path(own, "kernels", "interpret"), Store.remove

    def refused(self: Store, kind: str, key: str) -> int:
        return 0 if key == kernel.name else remove(self, kind, key)

    monkeypatch.setattr(Store, "remove", refused)
    found = run(own, *command)
    assert found.exit_code == 1
    assert found.stderr == f"1 file cannot be removed, {kernel} for one\n"
    assert document(own, *command, code=1)["stuck"] == [str(kernel)]


# clear


def test_clear(own: Path) -> None:
    """Everything that is ours, and nothing else."""
    leave_behind(own)
    (own / "kernels" / "notes.txt").write_text("mine")
    other_format(path(own, "kernels", "interpret"))
    size = document(own, "stats")["bytes"] - 4
    data = document(own, "clear", "--yes")
    assert data["entries"] == 6 and data["files"] == 2 and data["bytes"] == size
    left = [Path(name).name for name in snapshot(own)]
    assert len(left) == 2 and "notes.txt" in left  # and what a running process is writing
    assert text(own, "clear", "--yes") == f"nothing to remove in {own}\n"


def test_clear_says_how_much(own: Path) -> None:
    shown = text(own, "clear", "--yes").splitlines()[-1]
    assert shown.startswith("removed 2 kernels, 2 plans and 2 records (")
    assert shown.endswith(f"0 B left in {own}")


def test_clear_one_model(linked: Path) -> None:
    """What another model uses stays."""
    assert document(linked, "clear", "--model", "m.f", "--yes")["entries"] == 4
    assert names(linked) == without(*OF_F)
    assert document(linked, "clear", "--model", "nothing", "--yes")["removed"] == []
    assert document(linked, "clear", "--model", "m.*", "--yes")["entries"] == 4
    assert names(linked) == ["alone"]


def test_clear_asks_in_a_terminal_only(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(own)
    assert "add --yes" in fails(own, "clear")
    assert snapshot(own) == before
    refused = on_terminal(own, monkeypatch, "n\n")
    assert refused.exit_code == 0 and "nothing was removed" in refused.stderr
    question = "Remove 2 kernels, 2 plans and 2 records ("
    assert question in refused.stderr and snapshot(own) == before and not refused.stdout
    agreed = on_terminal(own, monkeypatch, "y\n")
    assert agreed.exit_code == 0 and keys(own, "kernels") == []


def on_terminal(directory: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> Any:
    """`clear`, with somebody there to answer."""
    monkeypatch.setattr(upkeep, "attended", lambda: True)
    return run(directory, "clear", stdin=answer)

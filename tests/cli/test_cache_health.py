"""`tracejit cache stats` and `verify`: totals, and every kind of finding with what --fix does."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.caches import (
    COMPILED,
    INTERPRETED,
    document,
    filled,
    handwritten,
    keys,
    leave_behind,
    other_format,
    path,
    run,
    snapshot,
    text,
    web,
)
from tracejit.cli.cache import audit, health
from tracejit.cli.cache.index import opened
from tracejit.runtime.config import config
from tracejit.runtime.files import Item
from tracejit.runtime.store import Store


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("health"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return filled(tmp_path)


def cut(file: Path) -> Path:
    """Lose the last byte."""
    file.write_bytes(file.read_bytes()[:-1])
    return file


def found(directory: Path, *words: str, code: int = 0) -> list[tuple[str, str, str]]:
    """What, file name and what was done, of each finding."""
    rows = document(directory, "verify", *words, code=code)["findings"]
    return sorted((row["what"], Path(row["path"]).name, row["done"]) for row in rows)


# stats


def test_stats(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "cache_limit", 1 << 20)
    shown = text(directory, "stats")
    first = shown.splitlines()[0]
    assert first.startswith("6 entries, ") and " of 1.0 MiB (" in first and str(directory) in first
    assert "the disk has " in first and "1 hit: a process found" in shown
    assert "last used " in shown.splitlines()[1]
    for name in ("kernels", "records", "cuda:90", "interpret", COMPILED, INTERPRETED):
        assert any(line.split()[:1] == [name] for line in shown.splitlines()), name
    assert "other versions" not in shown and "damaged" not in shown


def test_stats_as_json(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "cache_limit", 1 << 20)
    data = document(directory, "stats")
    rows = document(directory, "ls")["entries"]
    assert data["entries"] == 6 and data["bytes"] == sum(row["bytes"] for row in rows)
    assert data["limit"] == 1 << 20 and data["share"] == data["bytes"] / (1 << 20)
    assert data["free"] > 0 and data["hits"] == 1
    assert data["oldest"] == min(row["written"] for row in rows)
    assert data["used"] == max(row["used"] for row in rows) and data["newest"] >= data["oldest"]
    assert {kind: total["entries"] for kind, total in data["kinds"].items()} == {
        "kernels": 2,
        "plans": 2,
        "records": 2,
    }
    assert list(data["targets"]) == ["cuda:90", "interpret"]  # large ones first
    assert data["models"][INTERPRETED]["hits"] == 1 and data["models"][COMPILED]["hits"] == 0
    assert data["models"][COMPILED]["entries"] == 3
    assert sum(total["bytes"] for total in data["kinds"].values()) == data["bytes"]
    for name in ("stale", "damaged"):
        assert data[name] == {"entries": 0, "bytes": 0}
    for name in ("set_aside", "leftovers"):
        assert data[name] == {"files": 0, "bytes": 0}
    help_text = run(directory, "stats", "--help").output
    assert all(name in help_text for name in data if name != "schema")


def test_stats_of_what_is_wrong(own: Path) -> None:
    plan, record = path(own, "plans", "interpret"), path(own, "records", "interpret")
    other_format(plan)
    record.write_bytes(b"")
    with pytest.warns(match="a test"):
        Store(own).set_aside("kernels", path(own, "kernels", "interpret").name, "a test")
    leave_behind(own)
    data, shown = document(own, "stats"), text(own, "stats")
    assert data["stale"]["entries"] == data["damaged"]["entries"] == 1
    assert data["set_aside"]["files"] == 1 and data["set_aside"]["bytes"] > 0
    assert data["leftovers"] == {"files": 2, "bytes": 8}
    for words in ("--stale): 1, ", "--fix): 1, 0 B", "--damaged): 1, ", "ended (tracejit cache p"):
        assert words in shown


def test_stats_of_many_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_MODELS", 1)
    lines = text(web(tmp_path), "stats").splitlines()
    assert "and 1 more" in lines and not any(line.startswith("m.g ") for line in lines)


@pytest.mark.parametrize("command", ["stats", "verify"])
def test_no_cache_yet(tmp_path: Path, command: str) -> None:
    directory = tmp_path / "none"
    assert text(directory, command) == f"no cache yet: {directory} does not exist\n"
    assert document(directory, command)["entries"] == 0
    assert not directory.exists()


# verify


def test_verify(directory: Path) -> None:
    before = snapshot(directory)
    assert text(directory, "verify").endswith(f" read in {directory}: no fault\n")
    data = document(directory, "verify")
    assert data["ok"] is True and data["entries"] == 6 and data["findings"] == []
    assert data["counts"] == {} and data["bytes"] > 0
    help_text = run(directory, "verify", "--help").output
    assert all(name in help_text for name in data if name != "schema")
    assert all(name in help_text for name in audit.FAULTS)
    assert snapshot(directory) == before


def test_a_bar_on_a_terminals_standard_error(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    bar = Console(file=err, force_terminal=True, width=80)
    monkeypatch.setattr(health, "Console", lambda stderr: bar)
    assert document(directory, "verify")["ok"] is True
    assert "reading" in err.getvalue() and "100%" in err.getvalue()


def test_handwritten_entries_are_no_fault(tmp_path: Path) -> None:
    """They do not say in which environment they were made, so their keys cannot be checked."""
    assert document(handwritten(tmp_path), "verify")["ok"] is True


def test_damage(own: Path) -> None:
    """Found by its digest, though `ls` sees nothing; set aside by --fix, and then what led there
    is removed too, so that a second look finds nothing."""
    kernel = cut(path(own, "kernels", "cuda:90"))
    plan, record = path(own, "plans", "cuda:90"), path(own, "records", "cuda:90")
    before = snapshot(own)
    shown = run(own, "verify")
    assert shown.exit_code == 1 and f"damaged: {kernel}: its " in shown.stdout
    assert "1 fault; tracejit cache verify --fix sets faulty files aside" in shown.stdout
    assert found(own, code=1) == [("damaged", kernel.name, "")]
    assert snapshot(own) == before
    assert found(own, "--fix") == [
        ("damaged", kernel.name, "set aside"),
        *(("dangling", name, "removed") for name in sorted((plan.name, record.name))),
    ]
    assert [file.key for file in Store(own).files("damaged")] == [f"kernels-{kernel.name}"]
    assert found(own) == [("set aside", f"kernels-{kernel.name}", "")]
    assert keys(own, "records") == keys(own, "records", "interpret")


def test_every_byte_is_read(own: Path) -> None:
    """One that differs anywhere, in every kind."""
    for kind in ("kernels", "plans", "records"):
        file = path(own, kind, "interpret")
        whole = file.read_bytes()
        for place in (0, 20, 100, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert [what for what, *_ in found(own, code=1)] == ["damaged"], (kind, place)
        file.write_bytes(whole)
    assert found(own) == []


def test_no_warning_and_one_fixed_fault(own: Path, recwarn: pytest.WarningsRecorder) -> None:
    cut(path(own, "records", "interpret"))
    shown = text(own, "verify", "--fix")
    assert "(set aside)" in shown and "1 fault (1 fixed)" in shown
    assert not recwarn.list


KINDS = ["kernels", "plans", "records"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_name(own: Path, kind: str) -> None:
    file = path(own, kind, "interpret")
    placed = file.replace(file.with_name("0" * 64))
    assert ("damaged", placed.name, "") in found(own, code=1)
    (line,) = (x for x in run(own, "verify").stdout.splitlines() if x.startswith("damaged: "))
    assert "it is the file of another key, " in line
    found(own, "--fix")
    assert not placed.exists() and document(own, "verify")["ok"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_content_of_another_key(own: Path, kind: str) -> None:
    """A whole file that somebody made: it says the key that its content does not have."""
    file, other = path(own, kind, "interpret"), path(own, kind, "cuda:90")
    store = Store(own)
    item = store.inspect(kind, str(other.relative_to(own / kind)))
    assert store.write(kind, str(file.relative_to(own / kind)), item, item.written["environment"])
    assert found(own, code=1) == [("misplaced", file.name, "")]
    shown = run(own, "verify").stdout
    assert f"its content has the key {other.name[:12]}" in shown
    assert ("misplaced", file.name, "set aside") in found(own, "--fix")
    assert not file.exists() and document(own, "verify")["ok"] is True


def test_another_format_is_left_alone(own: Path) -> None:
    file = other_format(path(own, "kernels", "interpret"))
    before = file.read_bytes()
    assert found(own, "--fix") == [("other format", file.name, "")]
    assert file.read_bytes() == before
    assert document(own, "verify")["counts"] == {"other format": 1}


def test_what_leads_to_nothing(own: Path) -> None:
    """A record without its plan, a plan without a kernel: no fault."""
    kernel, plan = path(own, "kernels", "cuda:90"), path(own, "plans", "interpret")
    kernel.unlink()
    plan.unlink()
    dangling = sorted(
        file.name for file in (path(own, "plans", "cuda:90"), path(own, "records", "interpret"))
    )
    # The record of the plan without its kernel leads to a plan that is there.
    assert found(own) == [("dangling", name, "") for name in dangling]
    shown = text(own, "verify")
    assert f"it leads to kernels {kernel.name[:12]}: not there" in shown
    assert f"it leads to plan {plan.name[:12]}: not there" in shown and "no fault" in shown
    assert [row[2] for row in found(own, "--fix")] == ["removed"] * 3
    assert found(own) == [] and keys(own, "records") == []


def test_leftovers(own: Path) -> None:
    """Of processes that ended; those of one that runs stay."""
    gone = leave_behind(own)
    names = sorted(file.name for file in gone)
    assert found(own) == sorted(("leftover", name, "") for name in names)
    assert found(own, "--fix") == sorted(("leftover", name, "removed") for name in names)
    assert not any(file.exists() for file in gone)
    assert len([p for p in (own / "kernels").iterdir() if p.name.startswith(".")]) == 1


def test_a_strangers_file(own: Path) -> None:
    (own / "kernels" / "notes.txt").write_text("mine")
    assert found(own, "--fix") == [("foreign", "notes.txt", "")]
    assert (own / "kernels" / "notes.txt").read_text() == "mine"


def test_a_file_that_cannot_be_read(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, inspect = path(own, "kernels", "interpret"), Store.inspect

    def refused(self: Store, kind: str, key: str) -> Item:
        if key == file.name:
            raise PermissionError(13, "Permission denied")
        return inspect(self, kind, key)

    monkeypatch.setattr(Store, "inspect", refused)
    assert found(own, "--fix", code=1) == [("unreadable", file.name, "")]
    assert "it cannot be read (Permission denied)" in run(own, "verify").stdout


@pytest.mark.parametrize(
    ("mode", "what", "code"), [(0o755, "open", 0), (0o777, "unsafe", 1), (0o770, "unsafe", 1)]
)
def test_whose_directory(own: Path, mode: int, what: str, code: int) -> None:
    own.chmod(mode)
    assert found(own, code=code) == [(what, "cache", "")]
    assert own.stat().st_mode & 0o777 == mode
    assert found(own, "--fix") == [(what, "cache", "made private")]
    assert own.stat().st_mode & 0o777 == 0o700 and found(own) == []


def test_another_users_directory(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    assert found(own, "--fix", code=1) == [("unsafe", "cache", "")]
    assert f"it belongs to user {user}, and a cache holds code" in run(own, "verify").stdout


def test_an_entry_that_goes_meanwhile(own: Path) -> None:
    """Another process may remove what was listed."""
    index = opened(own)
    path(own, "records", "interpret").unlink()
    assert audit.findings(index, lambda entry: None) == []


def test_an_entry_that_comes_meanwhile(own: Path) -> None:
    """A record that was listed after its plan was written, though the plan was not."""
    plan = path(own, "plans", "interpret")
    whole = plan.read_bytes()
    plan.unlink()
    index = opened(own)
    plan.write_bytes(whole)
    assert audit.findings(index, lambda entry: None) == []

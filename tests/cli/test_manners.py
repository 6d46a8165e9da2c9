"""The manners of the command: a mistake is one sentence and exit status 2, a stop is quiet, nothing
is imported that is not needed."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest

import tracejit.cli
from tracejit.cli import root
from tracejit.runtime.errors import CacheWarning
from tracejit.runtime.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tracejit"]
Capture = pytest.CaptureFixture[str]


def run(monkeypatch: pytest.MonkeyPatch, capsys: Capture, *words: str) -> tuple[int, str, str]:
    """Exit status, output and errors of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["tracejit", *words])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it
    with pytest.raises(SystemExit) as caught:
        tracejit.cli.main()
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


MISTAKES = {
    "tracejit --vers": "no such option '--vers' (did you mean --version?); see tracejit --help",
    "tracejit cahce": "no such command 'cahce' (did you mean cache?); see tracejit --help",
    "tracejit cache lss": "no such command 'lss' (did you mean ls?); see tracejit cache --help",
    "tracejit cache ls --jsno": (
        "no such option '--jsno' (did you mean --json?); see tracejit cache ls --help"
    ),
    "tracejit cache ls --kind": (
        "option '--kind' requires an argument; see tracejit cache ls --help"
    ),
    "tracejit completion tcsh": (
        "invalid value for 'bash|zsh|fish': 'tcsh' is not one of 'bash', 'zsh', 'fish'; "
        "see tracejit completion --help"
    ),
    "tracejit completion": (
        "missing argument 'bash|zsh|fish'. Choose from: bash, zsh, fish; "
        "see tracejit completion --help"
    ),
    "tracejit doctor now": ("got unexpected extra argument (now); see tracejit doctor --help"),
    "tracejit explain": "missing argument 'MODULE:FUNCTION'; see tracejit explain --help",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_sentence(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    code, out, err = run(monkeypatch, capsys, *command.split()[1:])
    # click's own quotes and full stops differ between its versions
    plain = [re.sub(r"['.:]", "", text) for text in (err, f"tracejit: {MISTAKES[command]}\n")]
    assert (code, out) == (2, "") and plain[0] == plain[1]


def test_errors_of_ours_end_in_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    code, out, err = run(monkeypatch, capsys, "cache", "show", "zz", "--dir", str(tmp_path))
    assert (code, out) == (2, "")
    assert err == (
        f"tracejit: no entry of the cache at {tmp_path} begins with 'zz'; "
        "tracejit cache ls lists the keys\n"
    )


def test_missing_packages_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(monkeypatch, capsys, "cache", "ls") == (
        2,
        "",
        "tracejit: the command line needs click and rich: pip install 'tracejit[cli]'\n",
    )


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    @click.command()
    def broken() -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(root.tracejit, "get_command", lambda ctx, name: broken)
    monkeypatch.setattr(sys, "argv", ["tracejit", "broken"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(ZeroDivisionError):
        tracejit.cli.main()


def test_exit_status_of_a_command(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    ends = {
        "wrong": click.exceptions.Exit(1),
        "stopped": click.Abort(),
        "stop": KeyboardInterrupt(),
    }
    found = {}
    for name, end in ends.items():

        @click.command()
        def ending(end: BaseException = end) -> None:
            raise end

        monkeypatch.setattr(root.tracejit, "get_command", lambda ctx, name, c=ending: c)
        found[name] = run(monkeypatch, capsys, name)
    stopped = (130, "", "tracejit: stopped\n")
    assert found == {"wrong": (1, "", ""), "stopped": stopped, "stop": stopped}


def test_our_warnings_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    @click.command()
    def warning() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = tracejit.cli.one_line(warnings.showwarning)  # undone by pytest
            warnings.warn("the disk\nis full", CacheWarning, stacklevel=1)

    monkeypatch.setattr(root.tracejit, "get_command", lambda ctx, name: warning)
    assert run(monkeypatch, capsys, "warning") == (
        0,
        "",
        "tracejit: warning: the disk is full\n",
    )


def test_version_and_help(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    code, out, _ = run(monkeypatch, capsys, "--version")
    assert (code, out) == (0, f"tracejit {VERSION}\n")
    code, out, _ = run(monkeypatch, capsys, "-h")
    assert code == 0 and "Examples:" in out
    assert all(name in out and about in out for name, (_, about) in root.COMMANDS.items())
    code, out, err = run(monkeypatch, capsys)
    assert code in (0, 2) and "Examples:" in out + err  # click before 8.2: 0


@pytest.mark.parametrize("name", root.COMMANDS)
def test_every_command_has_examples_and_the_help_of_the_table(name: str) -> None:
    command = root.tracejit.get_command(click.Context(root.tracejit), name)
    assert command is not None and command.name == name
    assert "Examples:" in (command.epilog or "")
    assert name == "completion" or name == "cache" or "JSON:" in (command.epilog or "")


def test_looking_at_the_cache_imports_little() -> None:
    code = (
        "import sys, tracejit.cli as c\n"
        "assert c.status(['cache', 'ls']) == 0\n"
        "assert c.status(['--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'triton', 'sympy', 'tracejit.cli.explain', "
        "'tracejit.cli.bench', 'tracejit.cli.doctor.command'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [("--help",), ("completion", "bash"), ("cache", "--help")])
def test_a_broken_pipe_is_silent(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *words], env=environment(), stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_no_room_for_the_output() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "completion", "bash"], env=environment(), stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert done.stderr == b"tracejit: the output could not be written: no space is left there\n"


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [*COMMAND, "explain", "slow.py:f"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"tracejit: stopped\n")


def test_without_the_packages_in_a_fresh_process(tmp_path: Path) -> None:
    """Hidden from the import system, as where they were never installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.machinery as m\n"
        "found = m.PathFinder.find_spec\n"
        "def find_spec(name, path=None, target=None):\n"
        "    return None if name in ('click', 'rich') else found(name, path, target)\n"
        "m.PathFinder.find_spec = find_spec\n"
    )
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [*COMMAND, "doctor"], env=environment(PYTHONPATH=path), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("needs click and rich: pip install 'tracejit[cli]'\n")
    assert done.stderr.count("\n") == 1


def test_colours_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Also not in one, if NO_COLOR is set."""
    code = (
        "import pty, sys\n"
        "sys.exit(pty.spawn([sys.executable, '-c', 'from tracejit.cli.terminal import console;"
        'console().print("x", style="red")\']) >> 8)'
    )
    found = []
    for more in ({}, {"NO_COLOR": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(TERM="xterm", **more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        found.append("\x1b[31m" in done.stdout)
        assert "x" in done.stdout
    assert found == [True, False]
    from tracejit.cli.terminal import console

    console().print("x", style="red")
    assert capsys.readouterr().out == "x\n"


@pytest.mark.parametrize(
    ("name", "value", "code", "start"),
    [
        ("TRACEJIT_DEBUG", "9", 2, "tracejit: TRACEJIT_DEBUG='9' is not a setting"),
        ("TRACEJIT_STRIKT", "1", 0, "tracejit: warning: TRACEJIT_STRIKT is not a setting"),
    ],
)
def test_settings_are_read_with_manners(name: str, value: str, code: int, start: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--version"], env=environment(**{name: value}), capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stderr.startswith(start) and done.stderr.count("\n") == 1

"""Completion as the shells ask for it, and the scripts that make them ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete, ShellComplete
from click.testing import CliRunner

from tracejit.cli import root
from tracejit.runtime.targets import BACKENDS

ROOT = Path(__file__).resolve().parents[2]


def completed(words: list[str], incomplete: str) -> list[str]:
    """What may follow these words."""
    asked: ShellComplete = BashComplete(root.tracejit, {}, "tracejit", "_TRACEJIT_COMPLETE")
    return [item.value for item in asked.get_completions(words, incomplete)]


def test_commands_and_options() -> None:
    assert completed([], "") == list(root.COMMANDS)
    assert completed([], "c") == ["cache", "completion"]
    assert completed([], "--v") == ["--version"]
    assert {"ls", "show", "verify"} <= set(completed(["cache"], ""))
    assert "--json" in completed(["cache", "ls"], "--")
    assert completed(["completion"], "") == ["bash", "zsh", "fish"]
    assert completed(["explain", "model.py:f", "--backend"], "") == list(BACKENDS)


def test_a_command_that_cannot_be_imported_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later = {"gone": ("tracejit.cli.gone:gone", "Not there."), **root.COMMANDS}
    monkeypatch.setattr(root.tracejit, "later", later)
    assert "gone" in completed([], "") and "ls" in completed(["cache"], "")
    assert "Not there." in CliRunner().invoke(root.tracejit, ["--help"]).output


@pytest.mark.parametrize(
    ("shell", "first", "install"),
    [
        ("bash", 0, 'eval "$(tracejit completion bash)" in ~/.bashrc'),
        ("zsh", 1, 'eval "$(tracejit completion zsh)" in ~/.zshrc'),
        ("fish", 0, "tracejit completion fish > ~/.config/fish/completions/tracejit.fish"),
    ],
)
def test_scripts_say_how_they_are_installed(shell: str, first: int, install: str) -> None:
    done = CliRunner().invoke(root.tracejit, ["completion", shell])
    lines = done.output.splitlines()
    assert done.exit_code == 0 and install in lines[first] and lines[first].startswith("# ")
    assert "_TRACEJIT_COMPLETE" in done.output
    assert shell != "zsh" or lines[0] == "#compdef tracejit"


def test_a_shell_asks(tmp_path: Path) -> None:
    """The variable that carries the question is not mistaken for a setting of ours."""
    asked = {"_TRACEJIT_COMPLETE": "bash_complete", "COMP_WORDS": "tracejit ca", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tracejit"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **asked},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "plain,cache\n", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_takes_the_script() -> None:
    script = CliRunner().invoke(root.tracejit, ["completion", "bash"]).output
    done = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p tracejit"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "-F _tracejit_completion tracejit" in done.stdout, done.stderr

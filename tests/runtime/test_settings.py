"""Settings, errors and reasons: one table each, and nothing in the code that is not in its
table."""

from __future__ import annotations

import pickle
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tracejit.runtime import errors, reasons
from tracejit.runtime.config import FLAGS, Config, read

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    p for folder in ("tracejit", "codegen", "runtime") for p in (ROOT / folder).rglob("*.py")
]


def test_every_flag_is_a_field() -> None:
    assert [flag.field for flag in FLAGS] == [field.name for field in fields(Config)]
    assert read({}) == Config()


def test_values_are_taken() -> None:
    found = read({"TRACEJIT_DEBUG": "3", "TRACEJIT_STRICT": "1", "TRACEJIT_TARGET": "cuda:90"})
    assert (found.debug, found.strict, found.target, found.verify) == (3, True, "cuda:90", False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRACEJIT_DEBUG", "5"),
        ("TRACEJIT_STRICT", "yes"),
        ("TRACEJIT_TARGET", "sm_90"),
        ("TRACEJIT_VERIFY", ""),
    ],
)
def test_illegal_value_names_the_legal_ones(name: str, value: str) -> None:
    flag = next(f for f in FLAGS if f.name == name)
    with pytest.raises(errors.BadSetting, match=re.escape(flag.legal)) as caught:
        read({name: value})
    assert name in str(caught.value)


def test_misspelt_flag_warns() -> None:
    with pytest.warns(errors.SettingWarning, match="did you mean TRACEJIT_STRICT"):
        read({"TRACEJIT_STRIKT": "1"})


def test_only_the_table_reads_the_environment() -> None:
    known = {flag.name for flag in FLAGS}
    for path in SOURCES:
        text = path.read_text()
        assert set(re.findall(r"TRACEJIT_[A-Z_]*[A-Z]", text)) <= known, path
        if re.search(r"environ\b.*TRACEJIT|getenv\(", text):
            assert path.name == "config.py", path


def test_every_reason_in_the_code_is_in_the_table() -> None:
    for path in SOURCES:
        for kind in re.findall(r"\bReason\(\s*(?:kind=)?\"([^\"]+)\"", path.read_text()):
            assert kind in reasons.KINDS, f"{path}: {kind}"


def test_reason_round_trip() -> None:
    reason = reasons.Reason("impure", "time.time was called", "train.py:3")
    assert reasons.Reason(**reason.to_json()) == reason
    assert str(reason) == "impure: time.time was called (train.py:3)"


def test_errors_have_templates_and_survive_pickling() -> None:
    error = errors.BadOption(name="backend", value="gpu", legal="'auto'")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "backend='gpu' is not one of 'auto'"
    assert isinstance(again, ValueError)


def test_nothing_is_unpickled() -> None:
    for path in SOURCES:
        assert not re.search(
            r"\b(pickle|marshal|shelve|dill)\.(load|loads)\b|torch\.load\(", path.read_text()
        ), path

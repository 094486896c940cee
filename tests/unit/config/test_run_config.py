"""Run configurations from TOML."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from baltoro.config import BaltoroError, load_toml, to_json


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    model: str
    group_size: int = 16
    lr: float = 2e-6


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_a_run_is_read_and_written_resolved(tmp_path):
    config = load_toml(RunConfig, write(tmp_path, 'model = "tiny"\nlr = 0.1\n'))
    assert config == RunConfig(model="tiny", lr=0.1)
    assert json.loads(to_json(config)) == {"model": "tiny", "group_size": 16, "lr": 0.1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('model = "tiny"\ngroupsize = 8\n', "unknown key 'groupsize'. Did you mean 'group_size'?"),
        ('model = "tiny"\nzzz = 8\n', "unknown key 'zzz'. Known keys: model, group_size, lr."),
        ("lr = 0.1\n", "key 'model' is missing."),
        ("lr = \n", "is not valid TOML"),
    ],
)
def test_a_mistake_in_a_run_is_answered_with_file_and_key(tmp_path, text, sentence):
    with pytest.raises(BaltoroError) as error:
        load_toml(RunConfig, write(tmp_path, text))
    assert "run.toml" in str(error.value)
    assert sentence in str(error.value)


def test_a_run_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "run.toml").write_bytes(b'model = "\xff"')
    with pytest.raises(BaltoroError, match=r"run\.toml is not valid TOML"):
        load_toml(RunConfig, tmp_path / "run.toml")


def test_a_run_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(BaltoroError, match=r"there is no file .*absent\.toml"):
        load_toml(RunConfig, tmp_path / "absent.toml")

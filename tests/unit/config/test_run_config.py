"""Run configurations from TOML."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from baltoro.config import BaltoroError, load_toml, to_json


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    model: str
    group_size: int = 16
    lr: float = 2e-6
    quantize_from: int | None = None
    dtype: Literal["f32", "bf16"] = "f32"
    resume: bool = False
    mixture: dict[str, float] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_a_run_is_read_and_written_resolved(tmp_path):
    text = 'model = "tiny"\nlr = 1\nquantize_from = 5\nsizes = [2, 4]\nmixture = { sums = 0.5 }\n'
    config = load_toml(RunConfig, write(tmp_path, text))
    wanted = RunConfig(model="tiny", lr=1, quantize_from=5, sizes=(2, 4), mixture={"sums": 0.5})
    assert config == wanted
    assert json.loads(to_json(config))["group_size"] == 16


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('model = "tiny"\ngroupsize = 8\n', "unknown key 'groupsize'. Did you mean 'group_size'?"),
        ('model = "tiny"\nzzz = 8\n', "unknown key 'zzz'. Known keys: model, group_size, lr,"),
        ("lr = 0.1\n", "key 'model' is missing."),
        ("lr = \n", "is not valid TOML"),
        ("model = 3\n", "model is 3, but must be text."),
        ("lr = '3'\n", "lr is '3', but must be a number."),
        ("lr = inf\n", "lr is inf, but must be a number."),
        ("lr = nan\n", "lr is nan, but must be a number."),
        ("group_size = 1.5\n", "group_size is 1.5, but must be a whole number."),
        ("group_size = true\n", "group_size is True, but must be a whole number."),
        ("quantize_from = 'now'\n", "quantize_from is 'now', but must be a whole number."),
        ("dtype = 'f16'\n", "dtype is 'f16', but must be 'f32' or 'bf16'."),
        ("resume = 1\n", "resume is 1, but must be true or false."),
        ("mixture = 1\n", "mixture is 1, but must be a table, each value a number."),
        ("sizes = ['a']\n", "sizes is ['a'], but must be a list, each of it a whole number."),
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

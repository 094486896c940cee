"""Right attempts kept as demonstrations."""

import json
import random

import pytest

from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import BUNDLED
from baltoro.config import BaltoroError
from baltoro.engine.open_model import open_model
from baltoro.engine.options import EngineOptions
from baltoro.rl.rejection import sample_right
from baltoro.rl.rollout import TaskSettings
from baltoro.tasks.task import split_of
from baltoro.train.sft import Phase, demonstration, read_lines


async def test_right_attempts_become_demonstrations(tmp_path):
    settings = TaskSettings(task="single_lookup_with_failures", budget=200)
    options = EngineOptions(threads=1, max_context=1024, cache_memory="32MiB")
    with open_model("tiny", options) as model:
        rows = await sample_right(model, settings, problems=6, attempts=2, seed=3)
    assert 0 < len(rows) <= 6
    for row in rows:
        answer = row["messages"][-1]["content"]
        key = answer.removeprefix("The value of ").split(" is ")[0]
        assert split_of(key) == "train"
    file = tmp_path / "right.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    phase = Phase(until=1, mixture={"sums": 1.0}, trajectories={str(file): 1.0})
    tokenizer = Tokenizer.load(BUNDLED / "tiny")
    ids, learned = demonstration(random.Random(0), tokenizer, phase)
    assert any(learned)
    assert "The value of" in tokenizer.decode([i for i, on in zip(ids, learned, strict=True) if on])


def test_a_file_without_trajectories_says_how_to_make_one(tmp_path):
    with pytest.raises(BaltoroError, match=r"python -m baltoro\.rl\.rejection"):
        read_lines(str(tmp_path / "none.jsonl"))

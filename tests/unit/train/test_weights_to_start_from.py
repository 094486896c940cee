"""Weights to start from: what a run left, and what it exported."""

import json

import pytest
import torch

from baltoro.checkpoint.bundled import BUNDLED
from baltoro.config import BaltoroError, preset
from baltoro.model.transformer import Transformer
from baltoro.train.export import export_checkpoint
from baltoro.train.folder import RunFolder
from baltoro.train.load import load_model, stretched
from baltoro.train.sft import SftConfig


def stretched_run(folder) -> RunFolder:
    """A run of tiny's preset with a context of four times its preset's."""
    torch.manual_seed(0)
    model = Transformer(stretched(preset("tiny"), {"factor": 16.0}))
    run = RunFolder(folder)
    config = SftConfig(
        model="tiny", tokenizer="", init="", out="", phases=[], yarn={"factor": 16.0}
    )
    run.start(config, fresh=True)
    run.save(1, {"model": model.state_dict()}, model.config)
    export_checkpoint(model, BUNDLED / "tiny", folder / "int4", int4=True)
    return run


def context_of(init) -> tuple:
    config = load_model(str(init), "tiny").config
    return config.rope_scaling, config.max_position_embeddings


def test_a_run_and_its_checkpoint_have_the_same_context(tmp_path):
    stretched_run(tmp_path)
    scaling, longest = context_of(tmp_path)
    assert (scaling.factor, longest) == (16.0, 16 * 2048)
    assert context_of(tmp_path / "int4") == (scaling, longest)
    (tmp_path / "run.json").write_text("{}")  # as of a run that took its context from its init
    assert context_of(tmp_path) == (scaling, longest)


def test_a_state_without_a_config_has_the_context_that_run_json_names(tmp_path):
    run = stretched_run(tmp_path)
    state = torch.load(run.latest)
    del state["config"]
    torch.save(state, run.latest)
    assert context_of(tmp_path)[1] == 16 * 2048
    (tmp_path / "run.json").write_text(json.dumps({"model": "tiny"}))
    assert context_of(tmp_path)[1] == preset("tiny").max_position_embeddings


def test_a_state_of_another_shape_is_a_sentence(tmp_path):
    run = stretched_run(tmp_path)
    with pytest.raises(BaltoroError, match="hidden_size is 128, but the preset 'small' has 512"):
        load_model(str(tmp_path), "small")
    state = torch.load(run.latest)
    del state["config"]
    torch.save(state, run.latest)
    with pytest.raises(BaltoroError, match=r"lm_head\.weight is \(4352, 128\), but the preset"):
        load_model(str(tmp_path), "small")

"""The recipes as they are: every stage can start, and starts where the one before it ended."""

from pathlib import Path

import pytest

from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import BUNDLED
from baltoro.config import from_mapping, load_toml
from baltoro.rl.config import RlConfig
from baltoro.rl.train import read_tasks
from baltoro.tasks.mixture import find_task
from baltoro.train.export import export_checkpoint
from baltoro.train.load import load_model
from baltoro.train.pretrain import PretrainConfig
from baltoro.train.schedule import Schedule
from baltoro.train.sft import Phase, SftConfig, check_phases, unseen_samples

STAGES = (
    *("pretrain", "sft", "hone", "finish", "mend"),
    *("widen", "lengthen", "settle", "polish", "burnish", "recover", "weigh", "gloss"),
    *("reach", "drill", "temper", "endure", "mellow", "rl"),
)


def config_of(recipe, stage):
    kind = {"pretrain": PretrainConfig, "rl": RlConfig}.get(stage, SftConfig)
    return load_toml(kind, f"recipes/{recipe}/{stage}.toml")


@pytest.mark.parametrize("recipe", ["tiny", "smoke"])
def test_every_stage_starts_where_the_one_before_it_ended(recipe):
    stages = STAGES if recipe == "tiny" else STAGES[:-1]  # smoke learns from the bundled weights
    outs = [config_of(recipe, stage).out for stage in stages]
    inits = [config_of(recipe, stage).init for stage in stages[1:]]
    assert [init.removesuffix("/int4") for init in inits] == outs[:-1]


@pytest.mark.parametrize("stage", STAGES[1:-1])
@pytest.mark.parametrize("recipe", ["tiny", "smoke"])
def test_every_supervised_stage_names_tasks_and_documents_that_exist(recipe, stage):
    config = config_of(recipe, stage)
    schedule = from_mapping(Schedule, config.schedule, stage)
    phases = [from_mapping(Phase, p, stage) for p in config.phases]
    check_phases(phases, schedule.steps, config.weak_rows, stage)


@pytest.mark.parametrize("file", sorted(map(str, Path("recipes").glob("*/rl.toml"))))
def test_every_stage_of_reinforcement_learning_names_tasks_that_exist(file):
    config = load_toml(RlConfig, file)
    for name in (*read_tasks(config, file), *config.ptx_mixture):
        find_task(name)


def test_once_stretched_the_context_stays_so_from_stage_to_stage():
    stretched = [config_of("tiny", stage).yarn for stage in STAGES[STAGES.index("widen") :]]
    assert stretched == [{"factor": 16.0}] * len(stretched)


def test_a_checkpoint_that_was_stretched_is_loaded_with_its_own_context(tmp_path):
    model = load_model("tiny", "tiny", {"factor": 16.0})
    export_checkpoint(model, BUNDLED / "tiny", tmp_path / "int4", int4=True)
    config = load_model(str(tmp_path / "int4"), "tiny").config
    assert config.rope_scaling.factor == 16.0
    assert config.max_position_embeddings == 32768


def test_looks_at_long_samples_are_few():
    tokenizer = Tokenizer.load("baltoro/weights/tiny")
    phase = Phase(until=1, mixture={"recall_900": 1.0, "countdown_2": 1.0})
    counts = {name: len(drawn) for name, drawn in unseen_samples(tokenizer, phase, 32).items()}
    assert counts == {"recall_900": 3, "countdown_2": 32}

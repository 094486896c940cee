"""A run of reinforcement learning: resumed, refused."""

import json
import zlib

import pytest
import torch

from baltoro.config import BaltoroError
from baltoro.rl.train import RlTrainer, run
from baltoro.tasks.mixture import MORE_TASKS
from baltoro.tasks.sums import Sums


class Lottery(Sums):
    """Sums whose verifier is a coin, so that every group has winners and losers."""

    name = "lottery"

    def verify(self, problem, reply):
        return zlib.crc32(reply.encode()) % 2 == 0


CONFIG = """
model = "tiny"
tokenizer = "baltoro/weights/tiny"
init = "tiny"
out = "{out}"
groups = 2
group_size = 3
temperature = 1.6
final_temperature = 1.2
max_context = 512
eval_problems = 2
ptx_weight = 0.1
ptx_tokens = 300
ptx_mixture = {{ compare = 1.0 }}
{more}

[[tasks]]
task = "lottery"
budget = 200

[schedule]
steps = 4
lr = 1e-3
eval_every = 4
save_every = 1
threads = 1
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setitem(MORE_TASKS, "lottery", Lottery())

    def write(name, more=""):
        path = tmp_path / f"{name}.toml"
        path.write_text(CONFIG.format(out=tmp_path / name, more=more))
        return path

    return write


def rows_of(folder, *without):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clocks = ("rollout_tokens_per_s", "rollout_seconds", "update_seconds", "push_seconds")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


def test_a_run_killed_and_resumed_goes_on_bit_for_bit(config, tmp_path, monkeypatch):
    whole = run(config("whole"))
    step = RlTrainer.train_step
    taken = []

    def killed(self):
        taken.append(self.step)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(RlTrainer, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config("killed"))
    monkeypatch.setattr(RlTrainer, "train_step", step)
    resumed = run(config("killed"), resume=True)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    rows = rows_of(tmp_path / "whole")
    assert rows == rows_of(tmp_path / "killed")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["kept"] > 0
    assert {"gap_mean", "gap_max", "reward", "ptx_loss", "max_logit"} <= set(rows[0])
    assert rows[0]["temperature"] == 1.6
    assert rows[3]["temperature"] == pytest.approx(1.2)
    assert rows[3]["eval"]["lottery"]["n"] == 2
    assert (tmp_path / "whole" / "metrics.png").stat().st_size > 10_000
    assert (tmp_path / "whole" / "int4" / "config.json").exists()
    sample = json.loads((tmp_path / "whole" / "samples.jsonl").read_text().splitlines()[0])
    assert sample["messages"][-1]["role"] == "assistant"


def test_grpo_runs_through_the_same_loop(config, tmp_path):
    path = config("grpo", 'objective = "grpo"\nupdates = 2')
    path.write_text(path.read_text().replace("steps = 4", "steps = 1"))
    run(path)
    (row,) = rows_of(tmp_path / "grpo")
    assert row["kept"] > 0
    assert row["trained_tokens"] > 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('objective = "ppo"', "must be 'mirror_descent' or 'grpo'"),
        ("grup_size = 3", "Did you mean 'group_size'"),
        ('activations = "int4"', "must be 'int8' or 'f32'"),
        ("updates = 0", "updates is 0, but must be at least 1"),
        ("tau = 0.0", "tau is 0.0, but must be more than 0"),
    ],
)
def test_a_mistake_in_the_configuration_is_a_sentence(config, more, says):
    with pytest.raises(BaltoroError, match=says):
        run(config("wrong", more))


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("eval_problems = 2", "eval_problems = 0", "eval_problems is 0, but must be at least 1"),
        (
            "\ntemperature = 1.6",
            "\ntemperature = 0.0",
            "temperature is 0.0, but must be more than 0",
        ),
        ("final_temperature = 1.2", "final_temperature = 0.0", "final_temperature is 0.0, but"),
        ("[schedule]", '[[tasks]]\ntask = "lottery"\n[schedule]', "'lottery' is there twice"),
    ],
)
def test_a_run_that_could_not_learn_is_refused(config, right, wrong, says):
    path = config("wrong")
    text = path.read_text()
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong))
    with pytest.raises(BaltoroError, match=says):
        run(path)


def test_a_task_that_does_not_exist_is_named_with_its_nearest(config):
    path = config("wrong")
    path.write_text(path.read_text().replace('"lottery"', '"lotery"'))
    with pytest.raises(BaltoroError, match=r"no task 'lotery'\. Did you mean 'lottery'"):
        run(path)


def test_several_ranks_are_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BaltoroError, match="train rl runs in one process"):
        run(config("several"))

"""A run of training: resumed, stopped, scheduled."""

import dataclasses
import json
import random

import pytest
import torch

from baltoro.config import BaltoroError, preset
from baltoro.model.transformer import Transformer
from baltoro.train.folder import drop_rows_from
from baltoro.train.load import stretched
from baltoro.train.schedule import Schedule
from baltoro.train.sft import SftConfig
from baltoro.train.trainer import Trainer, teacher_forced
from baltoro.train.updater import Diverged

CONFIG = dataclasses.replace(
    preset("tiny"), vocab_size=64, hidden_size=64, num_hidden_layers=2, pad_token_id=0,
    intermediate_size=64, moe_intermediate_size=32, n_routed_experts=4,
)  # fmt: skip
SCHEDULE = Schedule(steps=8, tokens_per_step=400, eval_every=4, save_every=3, warmup_steps=2,
                    quantize_from=4, threads=1)  # fmt: skip


def make_sample(step):
    """Eight tokens said twice; the second time can be learned."""

    def make(rng):
        span = [rng.randrange(1, 64) for _ in range(8)]
        return span * 2, [0] * len(span) + [1] * len(span)

    return make


def trainer(folder, schedule=SCHEDULE, evaluate=None) -> Trainer:
    torch.manual_seed(0)
    return Trainer(Transformer(CONFIG), schedule, make_sample, folder, evaluate)


def rows_of(folder) -> list[dict]:
    """The log, but for what clocks said."""
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    clocks = ("tokens_per_s", "optimizer_share")
    return [{key: value for key, value in row.items() if key not in clocks} for row in rows]


def take(run: Trainer, steps: int) -> None:
    """Steps of a run that is killed then."""
    for _ in range(steps):
        row = run.train_step()
        run.step += 1
        run.record(row)


@pytest.mark.parametrize("looks", [False, True])
def test_a_run_killed_and_resumed_ends_with_the_same_weights_and_log(tmp_path, looks):
    # The threshold clips every step, and the unseen samples have larger logits than a batch.
    schedule = dataclasses.replace(SCHEDULE, eval_every=3, qk_clip_threshold=0.05)
    rng = random.Random("unseen")
    unseen = [make_sample(0)(rng) for _ in range(100)]
    evaluate = (lambda model: {"copying": teacher_forced(model, unseen)}) if looks else None

    whole = trainer(tmp_path / "whole", schedule, evaluate).run(schedule)
    take(trainer(tmp_path / "killed", schedule, evaluate), 5)  # saved after step 3, lost after 5
    resumed = trainer(tmp_path / "killed", schedule, evaluate).run(schedule, resume=True)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    assert [row["step"] for row in rows_of(tmp_path / "whole")] == list(range(8))


def test_a_run_killed_before_its_first_state_forgets_its_rows_on_resume(tmp_path):
    take(trainer(tmp_path), 2)
    with open(tmp_path / "metrics.jsonl", "a") as log:
        log.write('{"step": 2, "lo')
    trainer(tmp_path).run(SCHEDULE, resume=True)
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(8))


def test_a_resumed_run_takes_rates_and_decay_from_its_configuration(tmp_path):
    trainer(tmp_path).run(SCHEDULE)
    changed = dataclasses.replace(SCHEDULE, weight_decay=0.7, vocabulary_lr_scale=0.25)
    resumed = trainer(tmp_path, changed)
    resumed.load_latest()
    groups = resumed.updater.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.7] * 3
    assert [group["lr_scale"] for group in groups] == [1.0, 0.25, 1.0]
    assert resumed.updater.optimizer.state


def test_each_state_is_saved_once(tmp_path, monkeypatch):
    run, saved = trainer(tmp_path), []
    save = run.results.save
    monkeypatch.setattr(
        run.results, "save", lambda step, *rest: (saved.append(step), save(step, *rest))
    )
    run.run(SCHEDULE)
    assert saved == [3, 6, 8]


def test_a_run_begun_anew_and_killed_at_once_is_not_resumed_from_an_earlier_one(tmp_path):
    trainer(tmp_path).run(SCHEDULE)
    begun = trainer(tmp_path)
    begun.results.start(SCHEDULE, fresh=True)  # killed here
    resumed = trainer(tmp_path)
    resumed.load_latest()
    assert resumed.step == 0


def test_the_log_says_when_the_experts_became_quantized(tmp_path):
    trainer(tmp_path).run(SCHEDULE)
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["quantized"] for row in rows] == [False] * 4 + [True] * 4


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_last_good_state(tmp_path):
    broken = trainer(tmp_path)
    with torch.no_grad():
        broken.model.lm_head.weight[3] = float("nan")
    with pytest.raises(Diverged, match=r"step 0: loss nan.*Nothing was saved yet"):
        broken.train_step()
    broken.save_latest()
    with pytest.raises(Diverged, match=r"step 0: loss nan.*last good state is .*latest\.pt"):
        broken.train_step()


def test_the_learning_rate_warms_up_stays_and_decays():
    schedule = Schedule(steps=100, lr=1.0, warmup_steps=10, decay_from=50)
    rates = [schedule.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert rates[74] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"eval_every": 0},
        {"lr": -1.0},
        {"max_gradient_norm": -1.0},
        {"qk_clip_threshold": 0.0},
        {"qk_clip_threshold": float("nan")},
    ],
)
def test_a_schedule_that_no_run_can_have_is_refused(wrong):
    with pytest.raises(BaltoroError, match=r"but must be (at least|more than)"):
        Schedule(**{"steps": 8, **wrong})


def test_a_look_at_no_problem_is_refused():
    with pytest.raises(BaltoroError, match="eval_problems is 0, but must be at least 1"):
        SftConfig(model="", tokenizer="", init="", out="", phases=[], eval_problems=0)


def test_copying_is_learned_within_a_minute(tmp_path):
    schedule = dataclasses.replace(SCHEDULE, steps=200, tokens_per_step=800, lr=5e-3)
    model = trainer(tmp_path, schedule).run(schedule)
    rng = random.Random("unseen")
    score = teacher_forced(model, [make_sample(0)(rng) for _ in range(40)])
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] / 4
    assert score["exact"] > 0.5


def test_bf16_steps_follow_the_f32_ones_and_keep_f32_weights(tmp_path):
    plain = trainer(tmp_path / "f32")
    half = trainer(tmp_path / "bf16", dataclasses.replace(SCHEDULE, precision="bf16"))
    for _ in range(3):
        a, b = plain.train_step(), half.train_step()
        plain.step += 1
        half.step += 1
        assert a["loss"] != b["loss"]
        assert b["loss"] == pytest.approx(a["loss"], rel=0.02)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert all(p.grad.dtype == torch.float32 for p in half.model.parameters() if p.grad is not None)


def test_a_gradient_far_beyond_the_usual_is_left_out_and_says_what_it_saw(tmp_path):
    guarded = trainer(tmp_path, dataclasses.replace(SCHEDULE, skip_above=5.0))
    guarded.updater.norms = [0.001] * 20
    before = {k: v.clone() for k, v in guarded.model.state_dict().items() if "bias" not in k}
    row = guarded.train_step()
    assert "times the median of the last 20 steps, 0.001" in row["skipped"]
    for name, tensor in before.items():
        assert torch.equal(tensor, guarded.model.state_dict()[name]), name
    guarded.updater.skipped = 7
    with pytest.raises(Diverged, match=r"8 steps in a row were left out"):
        guarded.train_step()


def test_a_row_that_a_kill_cut_off_is_dropped_on_resume(tmp_path):
    (tmp_path / "latest.pt").touch()
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 0}\n{"step": 1}\n{"ste')
    drop_rows_from(log, 2)
    assert log.read_text() == '{"step": 0}\n{"step": 1}\n'


def test_a_longer_context_needs_no_other_weights():
    short = preset("tiny")
    long = stretched(short, {"factor": 16.0})
    assert long.max_position_embeddings == 16 * 2048
    torch.manual_seed(0)
    model = Transformer(short).eval()
    other = Transformer(long).eval()
    other.load_state_dict(model.state_dict())
    ids = torch.randint(0, 4352, (1, 40))
    assert not torch.allclose(model(ids), other(ids))
    with pytest.raises(BaltoroError, match="Did you mean 'factor'"):
        stretched(short, {"facter": 16.0})

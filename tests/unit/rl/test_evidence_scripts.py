"""The scripts that gather evidence, with as little work as they can do."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "training"))


def test_configurations_written_for_a_seed_read_back_as_they_were():
    import tomllib

    from rl_curves import to_toml

    values = tomllib.loads(Path("recipes/tiny/rl.toml").read_text())
    assert tomllib.loads(to_toml(values)) == values


def test_a_finished_run_is_kept_until_its_configuration_changes(tmp_path, monkeypatch):
    import rl_curves

    started = []

    def run(config, resume):
        started.append((config.parent / "latest.pt").exists())
        (config.parent / "latest.pt").touch()
        (config.parent / "int4").mkdir()
        (config.parent / "int4" / "config.json").touch()

    monkeypatch.setattr(rl_curves, "run", run)
    values = {"model": "tiny", "tasks": [{"task": "sums"}], "schedule": {"lr": 1e-3}}
    rl_curves.train(values, tmp_path / "run")
    rl_curves.train(values, tmp_path / "run")
    assert started == [False]
    rl_curves.train(values | {"schedule": {"lr": 2e-3}}, tmp_path / "run")
    assert started == [False, False]  # and nothing of the other one was left


def test_a_schedule_of_fewer_steps_decays_over_the_same_share():
    from rl_curves import schedule_of

    given = {"steps": 80, "lr": 5e-4, "decay_from": 60, "warmup_steps": 5}
    assert schedule_of(given, 40, 5e-4) == given | {"steps": 40, "decay_from": 30}
    assert schedule_of(given, 80, 1e-3) == given | {"lr": 1e-3}


def test_variants_are_compared_at_their_best_rates_seed_by_seed():
    from rl_curves import sentence

    def row(variant, lr, seed, right):
        of = {"tasks": {"sums": {"before": [0.2], "after": [right]}}, "steps": 9, "seconds": 60}
        return of | {"variant": variant, "lr": lr, "seed": seed, "mean_gap": 0.0}

    rows = [row("ours", 1e-3, 0, 0.9), row("ours", 2e-3, 0, 0.3), row("ours", 1e-3, 1, 0.8)]
    rows += [row("theirs", 1e-3, 0, 0.5), row("theirs", 2e-3, 0, 0.7), row("theirs", 2e-3, 1, 0.6)]
    ours, theirs = sentence(rows).split("; ")
    for said in ("ours at 0.001", "20% to 85%", "30% at 0.002"):
        assert said in ours
    assert "ours is +20.0 ± 0.0 (95 %, 2 seeds) points ahead" in theirs


@pytest.mark.long
def test_optimizers_are_compared_and_clipped(tmp_path, monkeypatch):
    import lessons
    import optimizers
    import training_runs

    monkeypatch.setattr(training_runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(lessons, "HELD_OUT_TOKENS", 512)
    monkeypatch.setattr(optimizers, "BEGINNING_TOKENS", 512)
    optimizers.compare(steps=10, seeds=2, tokens=256, out=tmp_path)
    rows = answer(tmp_path, "optimizers_text")["rows"]
    for name in optimizers.OPTIMIZERS:
        seeds = [row["seed"] for row in rows if row["optimizer"] == name]
        assert seeds == [0] * len(optimizers.RATES) + [1]
    optimizers.clip(steps=4, beginning=4, tokens=512, seeds=1, threshold=1.0, out=tmp_path)
    held, free = answer(tmp_path, "clip")["rows"]
    assert held["largest_logits"][:5] == free["largest_logits"][:5]  # the fifth made the first clip
    assert held["largest_logits"][5] < free["largest_logits"][5]


def test_a_stage_whose_run_is_not_at_hand_keeps_its_row_of_spikes(tmp_path):
    from optimizers import SPIKE, spikes

    calm = {"loss": 1.0, "gradient_norm": 1.0, "max_logit": 5.0, "tokens": 9, "optimizer_share": 0}
    log = [calm] * 80 + [calm | {"loss": 2 * SPIKE}]
    for stage in ("first", "second"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "metrics.jsonl").write_text("\n".join(map(json.dumps, log)))
    spikes(folder=tmp_path, stage=["first"], out=tmp_path)
    (tmp_path / "first" / "metrics.jsonl").unlink()
    spikes(folder=tmp_path, stage=["first", "second"], out=tmp_path)
    rows = json.loads((tmp_path / "spikes.json").read_text())["rows"]
    assert [(row["stage"], row["spikes"]) for row in rows] == [("first", 1), ("second", 1)]


def answer(folder, name):
    """What a script left, its picture looked for."""
    assert (folder / f"{name}.png").stat().st_size > 5_000
    return json.loads((folder / f"{name}.json").read_text())


def test_thinking_is_measured_by_difficulty_and_budget(tmp_path):
    from thinking import SIZES, main

    main(problems=2, budget=[4, 16], threads=1, out=tmp_path)
    rows = answer(tmp_path, "thinking")["rows"]
    assert [(r["size"], r["budget"]) for r in rows] == [
        (s, b) for s in SIZES for b in (None, 4, 16)
    ]
    assert all(row["mean_thinking"] <= row["budget"] for row in rows if row["budget"])


def test_calls_in_a_row_are_counted_and_what_is_done_is_not_done_again(tmp_path):
    from many_calls import main

    asked = {"kind": ["linked lookups"], "strategy": ["full history", "keep-last-5"]}
    asked |= {"calls": 3, "threads": 1, "runs": tmp_path / "runs", "out": tmp_path}
    main(problems=2, **asked)
    first = answer(tmp_path, "many_calls")["rows"]
    assert [row["right"] for row in first] == [2, 2]
    assert all(row["median_calls"] == 3 for row in first)
    main(problems=2, **asked)
    assert answer(tmp_path, "many_calls")["rows"] == first
    (tmp_path / "many_calls.json").unlink()  # as if stopped before a row was whole
    main(problems=2, **asked)
    assert answer(tmp_path, "many_calls")["rows"] == first


def test_experts_tell_more_of_tasks_than_of_shuffled_ones(tmp_path):
    from experts import main

    main(model="tiny", samples=4, shuffles=20, out=tmp_path)
    rows = answer(tmp_path, "experts")["rows"]
    assert [row["layer"] for row in rows] == [1, 2, 3]
    assert all(row["bits"] > row["shuffled_95"] for row in rows)


def test_mutual_information_is_what_the_mathematics_says():
    import numpy as np

    from experts import mutual_information

    own = np.eye(4)[:, None, :] * 7.0  # each task has an expert of its own
    assert mutual_information(own) == pytest.approx(2.0)
    assert mutual_information(np.ones((4, 3, 8))) == pytest.approx(0.0)


@pytest.mark.long
def test_quantization_is_compared_on_twins(tmp_path, monkeypatch):
    import quantization
    import training_runs as runs

    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    quantization.main(steps=4, twin_steps=4, tokens=512, seeds=1, out=tmp_path)
    rows = answer(tmp_path, "quantization")["rows"]
    assert [row["kind"] for row in rows] == list(quantization.KINDS)


@pytest.mark.long
def test_right_attempts_are_learned_as_a_stage_of_its_own(tmp_path):
    from rejection import main

    config = Path("recipes/smoke/rl.toml")
    asked = {"runs": tmp_path, "out": tmp_path, "problems": 3, "attempts": 2, "steps": 3}
    main(config, seeds=2, rate=[1e-4, 2e-4], **asked)
    rows = json.loads((tmp_path / "rejection.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 0, 1]
    assert {task for row in rows for task in row["tasks"]} == {"chain", "sums"}


@pytest.mark.long
def test_the_gap_to_the_engine_is_measured_with_and_without_rounding(tmp_path):
    from engine_gap import VARIANTS, main

    main(init="tiny", groups=2, seeds=1, out=tmp_path)
    rows = {row["variant"]: row for row in answer(tmp_path, "engine_gap")["rows"]}
    assert list(rows) == list(VARIANTS)
    # The bundled weights are rounded already, and all variants saw the same attempts.
    assert rows["without QAT"]["gap_mean"] == pytest.approx(rows["QAT and replay"]["gap_mean"])
    assert len({row["trained_tokens"] for row in rows.values()}) == 1


def test_rates_are_chosen_by_the_first_seed_and_compared_over_all():
    from optimizers import RATES, best_rate, rates_of_next_seed

    def row(seed, lr, loss):
        return {"optimizer": "adamw", "seed": seed, "lr": lr, "held_out_loss": loss}

    assert rates_of_next_seed([], "adamw", RATES) == RATES
    first = [row(0, lr, loss) for lr, loss in zip(RATES, (3.0, 2.0, 1.0, 4.0), strict=True)]
    assert rates_of_next_seed(first, "adamw", RATES) == [RATES[2]]
    rows = [*first, row(1, RATES[2], 3.5)]
    assert best_rate(rows, "adamw") == (RATES[2], [1.0, 3.5])


def test_the_margin_is_that_of_students_t():
    from answers import mean_and_margin

    mean, margin = mean_and_margin([1.0, 2.0, 3.0])
    assert (mean, margin) == (2.0, pytest.approx(2.484, abs=1e-3))


def test_a_run_goes_on_where_it_was_stopped_unless_it_is_another(tmp_path):
    import dataclasses

    import torch

    from baltoro.config import preset
    from baltoro.model.transformer import Transformer
    from baltoro.train.schedule import Schedule
    from baltoro.train.trainer import Trainer
    from training_runs import finish

    steps = []

    def made(schedule):
        torch.manual_seed(0)
        config = dataclasses.replace(preset("tiny"), vocab_size=64, num_hidden_layers=2)

        def sample(step):
            steps.append(step)
            return lambda rng: ([rng.randrange(64) for _ in range(16)], [1] * 16)

        return Trainer(Transformer(config), schedule, sample, tmp_path)

    schedule = Schedule(steps=3, tokens_per_step=64, threads=1)
    assert len(finish(made(schedule), schedule)) == 3
    assert len(finish(made(schedule), schedule)) == 3
    assert steps == [0, 1, 2]
    other = dataclasses.replace(schedule, seed=1)
    finish(made(other), other)
    assert steps == [0, 1, 2, 0, 1, 2]


def test_the_table_has_a_row_for_each_answer(tmp_path):
    from answers import save, table

    for name in ("a", "b"):
        save(tmp_path, name, claim=f"claim {name}", bar="1", result="2", command="c", rows=[{}])
    assert table(tmp_path).count("| claim") == 3  # with the heading

"""Two and four processes beside one: the same gradients, steps and checkpoints."""

import filecmp
import json
import shutil
from pathlib import Path

import pytest
import torch
from small_run import (
    CONFIG,
    go_on,
    in_ranks,
    log_and_resume,
    save_and_export,
    small_trainer,
    state_of,
    steps_taken,
    take_steps,
)

from baltoro.config import BaltoroError
from baltoro.train.export import export_checkpoint
from baltoro.train.ranks import Ranks

TOKENIZER = Path(__file__).parents[3] / "baltoro" / "weights" / "tiny"
# In INT4 a last bit of a weight can be a whole code, so only one step of it can be compared.
CASES = {
    2: {
        "gathered": {"expert_parallel": 1},
        "exchanged": {"expert_parallel": 2},
        "int4": {"expert_parallel": 2, "steps": 1, "quantize_from": 0},
    },
    4: {
        "mixed": {"expert_parallel": 2},
        "exchanged": {"expert_parallel": 4},
        "bf16": {"expert_parallel": 2, "steps": 1, "precision": "bf16"},
    },
}


@pytest.fixture(scope="module", params=[2, 4])
def runs(request, tmp_path_factory):
    """What several ranks did, and what one process did, for each case."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = CASES[request.param]
    in_ranks(request.param, take_steps, folder, cases)
    return {
        name: (torch.load(folder / f"{name}.pt"), steps_taken(small_trainer(folder / "one", **c)))
        for name, c in cases.items()
    }


def largest_difference(ours: dict, theirs: dict) -> float:
    """Over all tensors, beside the largest number of each."""
    assert list(ours) == list(theirs)
    worst = 0.0
    for name, expected in theirs.items():
        if isinstance(expected, torch.Tensor) and expected.numel():
            scale = max(float(expected.abs().max()), 1e-12)
            worst = max(worst, float((ours[name] - expected).abs().max()) / scale)
    return worst


def test_ranks_have_the_gradients_of_one_process(runs):
    for name, (ours, theirs) in runs.items():
        bound = 2e-2 if name == "bf16" else 1e-4
        assert largest_difference(ours[0]["gradients"], theirs[0]["gradients"]) < bound, name


def test_ranks_take_the_steps_of_one_process(runs):
    for name, (ours, theirs) in runs.items():
        if name == "bf16":
            continue  # Newton-Schulz makes whole numbers of differences in the last bit
        for after, expected in zip(ours, theirs, strict=True):
            moved = 0.01 * 0.004  # a hundredth of a step of the learning rate
            for key, weight in expected["weights"].items():
                assert (after["weights"][key] - weight).abs().max() < moved, (name, key)
            assert largest_difference(after["optimizer"], expected["optimizer"]) < 1e-3, name


def test_ranks_log_what_one_process_logs(runs):
    for name, (ours, theirs) in runs.items():
        for after, expected in zip(ours, theirs, strict=True):
            keys = ["loss", "gradient_norm", "max_logit", "expert_load", "tokens", "lr"]
            found = [after["row"][key] for key in keys]
            close = 2e-2 if name == "bf16" else 1e-4
            assert found == pytest.approx([expected["row"][key] for key in keys], rel=close), name


def looks(folder: Path) -> list[float]:
    """What a run has logged of its skill."""
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["eval"]["copying"]["likely"] for row in rows if "eval" in row]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """The folder of a run that four ranks saved and exported."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    in_ranks(4, save_and_export, folder, TOKENIZER)
    return folder


def test_a_run_saved_on_four_ranks_goes_on_with_one_and_two(saved, tmp_path):
    assert [p.name for p in saved.glob("step-*")] == ["step-2"]
    for place in ("one", "two"):
        shutil.copytree(saved, tmp_path / place)
    whole = small_trainer(tmp_path / "whole", steps=3, eval_every=1)
    whole.run(whole.schedule)
    assert looks(saved) == pytest.approx(looks(tmp_path / "whole")[:2], rel=1e-3)

    alone = small_trainer(tmp_path / "one", steps=3)
    alone.load_latest()
    before = state_of(alone)
    alone.run(alone.schedule, resume=True)
    assert (tmp_path / "one" / "latest.pt").exists()
    assert not list((tmp_path / "one").glob("step-*"))

    in_ranks(2, go_on, tmp_path / "two", 2, 3, tmp_path / "two.pt")
    resumed, ended = torch.load(tmp_path / "two.pt")
    assert resumed["step"] == before["step"] == 2
    for part in ("weights", "optimizer"):
        for name, value in before[part].items():
            assert torch.equal(torch.as_tensor(resumed[part][name]), torch.as_tensor(value)), name
    for name, weight in state_of(whole)["weights"].items():
        for after in (state_of(alone), ended):
            assert (after["weights"][name] - weight).abs().max() < 0.01 * 0.004, name

    # And back: what one process saved goes on with two.
    in_ranks(2, go_on, tmp_path / "one", 1, 4, tmp_path / "back.pt")
    resumed, ended = torch.load(tmp_path / "back.pt")
    for name, weight in state_of(alone)["weights"].items():
        assert torch.equal(resumed["weights"][name], weight), name
    assert ended["step"] == 4


def test_ranks_export_the_checkpoint_that_one_process_exports(saved, tmp_path):
    alone = small_trainer(saved)
    alone.load_latest()
    export_checkpoint(alone.model, TOKENIZER, tmp_path / "one", int4=True)
    names = [p.name for p in (tmp_path / "one").iterdir()]
    assert "model.safetensors" in names
    _, differ, missing = filecmp.cmpfiles(tmp_path / "one", saved / "int4", names, shallow=False)
    assert not differ
    assert not missing


def test_ranks_killed_before_their_first_state_forget_their_rows_on_resume(tmp_path):
    in_ranks(2, log_and_resume, tmp_path)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0, 1]


def refusals(ranks: Ranks) -> None:
    with pytest.raises(BaltoroError, match=r"expert_parallel is 3, but there are 2 ranks"):
        Ranks(3, ranks.device)
    ranks.count = 3
    with pytest.raises(BaltoroError, match=r"8 experts can't be divided among 3 ranks"):
        ranks.check(CONFIG)


def test_numbers_of_ranks_that_do_not_fit_are_refused():
    in_ranks(2, refusals)

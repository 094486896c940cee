"""Batches hold every sample once and no padding."""

from __future__ import annotations

import random

import torch

from baltoro.train.data import Sample, draw_samples, make_batches


def samples_of_mixed_length() -> list[Sample]:
    rng = random.Random(0)
    lengths = [rng.choice((12, 50, 200, 900)) + rng.randrange(10) for _ in range(60)]
    return [([rng.randrange(1, 99) for _ in range(n)], [0] + [1] * (n - 1)) for n in lengths]


def test_every_sample_is_in_one_batch_and_unchanged() -> None:
    samples = samples_of_mixed_length()
    found = []
    for batch in make_batches(samples, 2048):
        parts = [x[0].split(batch.lengths) for x in (batch.inputs, batch.targets, batch.learned)]
        for inputs, targets, learned in zip(*parts, strict=True):
            assert learned.all()
            found.append([int(inputs[0]), *targets.tolist()])
            assert inputs[1:].tolist() == targets[:-1].tolist()
    assert sorted(found) == sorted(ids for ids, _ in samples)


def test_a_batch_stays_below_the_limit_unless_one_sample_exceeds_it() -> None:
    for batch in make_batches(samples_of_mixed_length(), 800):
        assert batch.inputs.numel() <= 800 or len(batch.lengths) == 1


def test_every_third_sample_three_times_are_all_of_them() -> None:
    for count in (1, 2, 3):
        (batch,) = make_batches(samples_of_mixed_length()[:count], 8192)
        parts = [batch.every(3, start) for start in range(3)]
        assert sum(part.inputs.numel() for part in parts) == batch.inputs.numel()
        together = torch.cat([part.targets for part in parts], dim=1)
        assert torch.equal(together, batch.targets)
        assert [part.lengths for part in parts] == [[n] for n in batch.lengths] + [[]] * (3 - count)


def test_a_step_goes_on_drawing_until_enough_is_learned() -> None:
    def list_or_sum(rng: random.Random) -> Sample:
        """A long list of which little is learned, or a short sum of which all is."""
        return rng.choice((([1] * 900, [0] * 890 + [1] * 10), ([2] * 50, [1] * 50)))

    for step in range(40):
        few, enough = (draw_samples(0, step, 800, list_or_sum, n) for n in (0, 200))
        assert enough[: len(few)] == few
        assert sum(sum(learned) for _, learned in enough) >= 200
        assert sum(sum(learned) for _, learned in enough[:-1]) < 200 or enough == few

"""From conversations to what is learned."""

import random

import numpy as np
import pytest

from baltoro.chat.chat_model import TokenTrace
from baltoro.config import BaltoroError
from baltoro.rl.advantage import with_variance
from baltoro.rl.batch import make_rollout_batches
from baltoro.rl.curriculum import Curriculum
from baltoro.rl.trajectory import Trajectory, join


def trace(prompt, generated, logprobs=None, experts=None, sampled=None):
    logprobs = logprobs or [-0.5] * len(generated)
    return TokenTrace(
        prompt_ids=prompt,
        generated_ids=generated,
        logprobs=logprobs,
        sampled_logprobs=sampled or logprobs,
        expert_choices=experts,
    )


def trajectory(segments, reward=0.0, task="a"):
    return Trajectory(
        task=task, segments=segments, right=reward > 0, reward=reward, generated=1,
        stop_reason="answered", calls=0, question="", answer="",
    )  # fmt: skip


def test_turns_whose_prompts_begin_with_all_before_become_one_segment():
    turns = [trace([1, 2], [3, 4]), trace([1, 2, 3, 4, 5, 6], [7]), trace([9, 9], [8])]
    first, second = join(turns)
    assert first.ids == [1, 2, 3, 4, 5, 6, 7]
    assert first.learned == [False, False, True, True, False, False, True]
    assert first.logprobs == [0, 0, -0.5, -0.5, 0, 0, -0.5]
    assert (second.ids, second.learned) == ([9, 9, 8], [False, False, True])


def test_forced_tokens_are_not_learned():
    forced = trace([1], [2, 3, 4], logprobs=[-0.1, -4.0, 0.0], sampled=[-0.1, 0.0, 0.0])
    for temperature in (1.0, 1.5):
        (segment,) = join([forced], temperature)
        assert segment.learned == [False, True, False, True]


def test_tokens_whose_choice_a_grammar_narrowed_are_not_learned():
    narrowed = trace([1], [2, 3], logprobs=[-0.1, -18.0], sampled=[-0.1, -5.7])
    (segment,) = join([narrowed])
    assert segment.learned == [False, True, False]


def of_two_tokens(sampled):
    return TokenTrace(
        prompt_ids=[1], generated_ids=[2, 3], logprobs=[-0.1, -0.2], sampled_logprobs=sampled
    )


def test_a_reply_at_temperature_1_needs_one_kind_of_log_prob():
    reply = of_two_tokens(sampled=[])
    (segment,) = join([reply])
    assert segment.sampled_logprobs == [0.0, -0.1, -0.2]


@pytest.mark.parametrize("sampled", [[], [-0.3]])
def test_a_reply_at_another_temperature_needs_the_log_prob_of_each_token_as_sampled(sampled):
    reply = of_two_tokens(sampled)
    says = f"{len(sampled)} sampled_logprobs for 2 tokens.*temperature = 1.0"
    with pytest.raises(BaltoroError, match=says):
        join([reply], temperature=1.4)


def test_expert_choices_belong_to_the_pass_before_the_token():
    choices = [[[0, 1]], [[2, 3]]]
    (segment,) = join([trace([1, 2], [3, 4], experts=choices)])
    known = segment.known_experts(1, 2)
    assert known[:, 0].tolist() == [[-1, -1], [0, 1], [2, 3], [-1, -1]]


def test_batches_hold_whole_samples_and_line_up_tokens_log_probs_and_experts():
    rng = random.Random(0)
    samples, experts = [], []
    for i in range(9):
        segments = []
        for _ in range(rng.randint(1, 3)):
            length = rng.randint(2, 12)
            ids = [100 * i + j for j in range(length + 3)]
            segments += join([trace(ids[:3], ids[3:], [-float(x) / 1000 for x in ids[3:]])])
        samples.append(trajectory(segments))
        experts.append([np.array(s.ids)[:, None, None].astype(np.int16) for s in segments])
    batches = make_rollout_batches(samples, experts, max_tokens=60)
    assert sorted(place for b in batches for place in b.samples) == list(range(9))
    for batch in batches:
        owner = [batch.samples[i] for i in batch.sample.tolist()]
        assert [t // 100 for t in batch.targets.tolist()] == owner
        np.testing.assert_allclose(batch.old, -batch.targets / 1000, rtol=1e-6)
        assert (batch.experts[..., 0, 0] == batch.inputs).all()
        assert sum(batch.lengths) == batch.inputs.numel()
        assert len(batch.samples) == 1 or batch.inputs.numel() <= 60
    learned = sum(sum(s.learned) for sample in samples for s in sample.segments)
    assert sum(len(batch.targets) for batch in batches) == learned


def test_groups_whose_rewards_are_all_the_same_are_dropped():
    same = [trajectory([], 1.0), trajectory([], 1.0)]
    mixed = [trajectory([], 1.0), trajectory([], 0.0)]
    assert with_variance([same, mixed, same]) == [mixed]


def test_the_curriculum_draws_what_is_neither_solved_nor_hopeless():
    curriculum = Curriculum({"easy": 1.0, "apt": 1.0, "hard": 1.0})
    for _ in range(60):
        curriculum.update("easy", 1.0)
        curriculum.update("apt", 0.5)
        curriculum.update("hard", 0.0)
    rng = random.Random(0)
    drawn = [curriculum.draw(rng) for _ in range(1000)]
    assert drawn.count("apt") > 800
    assert drawn.count("easy") > 10  # still looked at
    assert drawn.count("hard") > 10

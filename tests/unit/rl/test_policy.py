"""The engine as the trainer's policy: same weights, same experts, nearly the same log-probs."""

import numpy as np
import pytest
import torch

from baltoro.chat.chat_model import ChatRequest, Sampling, complete
from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import BUNDLED
from baltoro.checkpoint.reader import open_checkpoint
from baltoro.engine.open_model import open_engine
from baltoro.engine.options import EngineOptions
from baltoro.rl.loss import token_log_probs
from baltoro.rl.policy import EnginePolicy, engine_config, with_log_probs
from baltoro.rl.replay import replayed
from baltoro.rl.rollout import Rollouts, TaskSettings
from baltoro.tasks.mixture import MORE_TASKS
from baltoro.tasks.sums import Sums
from baltoro.train.export import export_checkpoint, named_arrays
from baltoro.train.load import load_model, plain_tensors
from baltoro.train.qat import set_fake_quantization

TINY = BUNDLED / "tiny"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(TINY)


@pytest.fixture
def model():
    return load_model("tiny", "tiny")


def open_policy(model, tokenizer, activations="int8"):
    return EnginePolicy(
        model, tokenizer, activations=activations, threads=1, max_context=512, num_sequences=4
    )


def rollouts_of(policy, temperature=1.3):
    """A few samples, hot enough to leave the beaten track."""
    tasks = {"chain": TaskSettings(task="chain", budget=120)}
    return Rollouts(policy, tasks, group_size=3).run(["chain"], "a", temperature)[0]


def logits_of(step_model, ids):
    tokens = np.array(ids, dtype=np.int32)
    table = np.arange(step_model.num_blocks, dtype=np.int32)[None]
    rows = np.arange(len(ids), dtype=np.int32)
    return step_model.step(tokens, rows, np.zeros_like(tokens), table, rows)


def test_int4_weights_survive_unpacking_and_rounding_again(model):
    checkpoint = open_checkpoint(TINY)
    plain = dict(plain_tensors(checkpoint))
    again = dict(named_arrays(model))
    assert set(plain) == set(again)
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    np.testing.assert_allclose(again[name].astype(np.float32), plain[name], rtol=2**-8)


def test_pushed_weights_are_the_exported_checkpoint_s_bit_for_bit(model, tokenizer, tmp_path):
    with torch.no_grad():
        for p in model.parameters():
            p += 0.01 * torch.randn_like(p)
    policy = open_policy(load_model("tiny", "tiny"), tokenizer)
    before = policy.engine.weights_version
    policy.push(model)
    export_checkpoint(model, TINY, tmp_path / "int4", int4=True)
    ids = tokenizer.encode("What is 12 + 34? 12 + 34 = 46.")
    options = EngineOptions(threads=1, max_context=512, cache_memory="8MiB")
    with open_engine(tmp_path / "int4", options) as exported:
        assert policy.engine.weights_version == exported.weights_version != before
        pushed = logits_of(policy.engine.model, ids)
        assert np.array_equal(pushed, logits_of(exported.model, ids))
    assert engine_config(model.config) == open_checkpoint(tmp_path / "int4").config
    policy.close()


async def reply_to_a_long_question(policy):
    question = "What is 12 + 34? " * 12
    sampling = with_log_probs(Sampling(max_tokens=4, seed=0))
    request = ChatRequest(messages=[{"role": "user", "content": question}], sampling=sampling)
    return await complete(policy.chat_model(), request)


async def test_new_weights_empty_the_prefix_cache_and_name_their_version(model, tokenizer):
    policy = open_policy(model, tokenizer)
    first = await reply_to_a_long_question(policy)
    again = await reply_to_a_long_question(policy)
    assert (first.usage.cached, again.usage.cached > 0) == (0, True)
    with torch.no_grad():
        for p in model.parameters():
            p *= 1.01
    policy.push(model)
    after = await reply_to_a_long_question(policy)
    assert after.usage.cached == 0
    assert first.trace.weights_version == again.trace.weights_version
    assert first.trace.weights_version != after.trace.weights_version
    policy.close()


def test_looked_up_experts_are_those_that_the_rollout_reported(model, tokenizer):
    policy = open_policy(model, tokenizer)
    for sample in rollouts_of(policy):
        for segment in sample.segments:
            all_experts = policy.experts_of(segment.ids)
            reported = segment.known_experts(*all_experts.shape[1:])
            known = reported >= 0
            assert known.any()
            assert (all_experts[known] == reported[known]).all()
    policy.close()


@pytest.mark.parametrize(("activations", "tolerance"), [("f32", 1e-4), ("int8", 0.5)])
def test_trainer_log_probs_match_the_engine_s_when_routing_is_replayed(
    model, tokenizer, activations, tolerance, record_property
):
    policy = open_policy(model, tokenizer, activations)
    set_fake_quantization(model.eval(), True)
    gaps = []
    for sample in rollouts_of(policy):
        for segment in sample.segments:
            ids = torch.tensor(segment.ids)
            experts = torch.from_numpy(policy.experts_of(segment.ids)[:-1].astype(np.int64))
            with torch.no_grad(), replayed(model, experts[None]):
                hidden = model.model(ids[None, :-1])[0]
            head = model.lm_head.weight.detach()
            ours = token_log_probs(hidden, head, ids[1:], temperature=1.3)
            learned = torch.tensor(segment.learned[1:])
            theirs = torch.tensor(segment.sampled_logprobs[1:])
            gaps.append((ours - theirs)[learned].abs())
    policy.close()
    gap = torch.cat(gaps)
    record_property("largest", float(gap.max()))
    print(f"{activations}: mean {float(gap.mean()):.2e}, largest {float(gap.max()):.2e}")
    assert gap.max() < tolerance
    assert gap.mean() < tolerance / 10


def test_replayed_routing_is_used_and_forgotten(model):
    model.eval()
    ids = torch.arange(40)[None]
    own = model(ids).detach()
    forced = torch.zeros(1, 40, 3, 2, dtype=torch.long)
    forced[..., 1] = 1
    with torch.no_grad(), replayed(model, forced):
        changed = model(ids)
    with torch.no_grad(), replayed(model, torch.full_like(forced, -1)):
        unknown = model(ids)
    assert not torch.allclose(own, changed)
    assert torch.equal(own, unknown)
    assert torch.equal(own, model(ids).detach())


def test_rollouts_do_not_depend_on_how_many_run_at_once(model, tokenizer):
    policy = open_policy(model, tokenizer)
    tasks = {"chain": TaskSettings(task="chain", budget=120)}
    alone = Rollouts(policy, tasks, group_size=3, concurrency=1).run(["chain"] * 2, "a", 1.3)
    crowd = Rollouts(policy, tasks, group_size=3, concurrency=6).run(["chain"] * 2, "a", 1.3)
    assert [[s.segments for s in g] for g in alone] == [[s.segments for s in g] for g in crowd]
    policy.close()


def test_an_attempt_over_its_budget_is_cut_and_pays_the_penalty(model, tokenizer):
    policy = open_policy(model, tokenizer)
    tasks = {"sums": TaskSettings(task="sums", budget=20, penalty=0.25)}
    (group,) = Rollouts(policy, tasks, group_size=2).run(["sums"], "a", 1.0)
    assert [s.reward for s in group] == [-0.25, -0.25]
    assert all(s.generated == 20 for s in group)
    policy.close()


class Crashing(Sums):
    name = "crashing"

    def verify(self, problem, reply):
        return 1 // 0 == 0


def test_a_verifier_that_crashes_stops_the_run_and_says_where(model, tokenizer, monkeypatch):
    monkeypatch.setitem(MORE_TASKS, "crashing", Crashing())
    policy = open_policy(model, tokenizer)
    tasks = {"crashing": TaskSettings(task="crashing")}
    with pytest.raises(Exception, match="verifier of task 'crashing' crashed with ZeroDivision"):
        Rollouts(policy, tasks, group_size=2).run(["crashing"], "a", 1.0)
    policy.close()

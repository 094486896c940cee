"""Rollouts over HTTP carry the same ids and log-probs as those of the engine in this process."""

import dataclasses

import pytest

from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import BUNDLED
from baltoro.config import BaltoroError
from baltoro.rl import rollout
from baltoro.rl.policy import EndpointPolicy, EnginePolicy, UnguidedChatModel
from baltoro.rl.rollout import Rollouts, TaskSettings
from baltoro.server.app import create_app
from baltoro.train.load import load_model

# Far from its budget, near which the server closes the thinking to leave room for an answer.
TASKS = {"chain": TaskSettings(task="chain", budget=500)}


@pytest.fixture
def policy():
    tokenizer = Tokenizer.load(BUNDLED / "tiny")
    model = load_model("tiny", "tiny")
    policy = EnginePolicy(model, tokenizer, threads=1, max_context=1024, num_sequences=4)
    yield policy
    policy.close()


def rollouts(policy):
    return Rollouts(policy, TASKS, group_size=2, concurrency=2).run(["chain"], "a", 1.0)[0]


def test_an_endpoint_s_rollouts_are_the_engine_s(policy, start_server, tmp_path):
    served = UnguidedChatModel("tiny", policy.engine, Tokenizer.load(BUNDLED / "tiny"), top_p=1.0)
    url = start_server(create_app(served))
    endpoint = EndpointPolicy(f"{url}/v1", "tiny", "", BUNDLED / "tiny", tmp_path / "weights")
    for here, there in zip(rollouts(policy), rollouts(endpoint), strict=True):
        assert [s.ids for s in here.segments] == [s.ids for s in there.segments]
        assert [s.learned for s in here.segments] == [s.learned for s in there.segments]
        for a, b in zip(here.segments, there.segments, strict=True):
            assert a.sampled_logprobs == pytest.approx(b.sampled_logprobs, abs=1e-6)
        assert here.weights_version == there.weights_version
    endpoint.push(load_model("tiny", "tiny"))
    assert (tmp_path / "weights" / "config.json").exists()


def test_an_endpoint_without_token_ids_is_refused_with_what_is_needed(
    policy, start_server, tmp_path
):
    served = UnguidedChatModel("tiny", policy.engine, Tokenizer.load(BUNDLED / "tiny"), top_p=1.0)
    url = start_server(create_app(served))
    endpoint = EndpointPolicy(f"{url}/v1", "tiny", "", BUNDLED / "tiny", tmp_path)
    endpoint.chat_model().return_token_ids = False
    with pytest.raises(BaltoroError, match="came without token ids"):
        rollouts(endpoint)


def test_an_endpoint_that_reports_one_kind_of_log_prob_serves_looks_at_any_temperature(
    policy, monkeypatch
):
    def of_one_kind(trace, task):
        return dataclasses.replace(trace, sampled_logprobs=[])

    monkeypatch.setattr(rollout, "trace_of", of_one_kind)
    makes = Rollouts(policy, TASKS, group_size=1)
    assert makes.run(["chain"], "a", 0.7, "eval")[0][0].generated > 0
    with pytest.raises(BaltoroError, match="came with 0 sampled_logprobs"):
        makes.run(["chain"], "a", 0.7)

"""Heavy mode as a model's name: several trajectories, one reflection, all of it told."""

from __future__ import annotations

import httpx
import openai
import pytest

from baltoro.server.rules import Rules

THREE = ("<think>one</think>4", "<think>two</think>5", "<think>three</think>5")
JUDGED = "<think>two say 5</think>It is 5."
HEAVY = Rules(heavy=3)


def test_every_name_has_a_heavy_one_beside_it(scripted):
    server = scripted(served_model_names=["other"], rules=HEAVY)
    names = ["scripted", "other", "scripted-heavy", "other-heavy"]
    assert [model.id for model in server.openai.models.list()] == names
    assert server.openai.models.retrieve("other-heavy").root == "scripted"
    without = scripted(rules=Rules(heavy=0))
    assert [model.id for model in without.openai.models.list()] == ["scripted"]
    with pytest.raises(openai.NotFoundError, match="This server has: scripted"):
        without.ask(model="scripted-heavy")


def test_the_reply_is_the_reflection_and_tells_its_trajectories(scripted):
    server = scripted(*THREE, JUDGED, rules=HEAVY)
    reply = server.ask("2 + 3?", model="scripted-heavy")
    (choice,) = reply.choices
    assert reply.model == "scripted-heavy"
    assert (choice.message.content, choice.finish_reason) == ("It is 5.", "stop")
    told = [
        (each["index"], each["message"]["reasoning_content"], each["message"]["content"])
        for each in choice.trajectories
    ]
    assert told == [(0, "one", "4"), (1, "two", "5"), (2, "three", "5")]
    asked = server.model.requests[-1].messages[-1]["content"]
    assert asked.startswith("2 + 3?\n")
    assert asked.endswith("[Attempt 1, 2 times]\n5\n\n[Attempt 2]\n4")


def test_usage_adds_up_over_trajectories_reflection_and_answers(scripted):
    server = scripted(*THREE, JUDGED, *THREE, JUDGED, rules=HEAVY)
    for n in (1, 2):
        server.model.requests.clear()
        reply = server.ask(model="scripted-heavy", n=n)
        parts = [each["usage"] for choice in reply.choices for each in choice.trajectories]
        assert len(parts) == 3 * n
        reflections = reply.usage.completion_tokens - sum(p["completion_tokens"] for p in parts)
        assert 0 < reflections < reply.usage.completion_tokens
        assert reply.usage.prompt_tokens == 4 * n  # the script counts messages


def test_a_stream_tells_each_trajectory_and_then_the_reflection(scripted):
    server = scripted(*THREE, JUDGED, rules=HEAVY)
    usage = {"include_usage": True}
    chunks = list(server.ask(model="scripted-heavy", stream=True, stream_options=usage))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    told = [c.trajectory["message"]["content"] for c in choices if hasattr(c, "trajectory")]
    assert sorted(told) == ["4", "5", "5"]
    assert choices[0].delta.role == "assistant"
    assert "".join(c.delta.content or "" for c in choices) == "It is 5."
    assert choices[-1].finish_reason == "stop"
    assert chunks[-1].usage.prompt_tokens == 4


def test_thinking_that_is_not_wanted_is_not_in_the_trajectories_either(scripted):
    server = scripted(*THREE, JUDGED, rules=HEAVY)
    body = {"include_reasoning": False}
    reply = server.ask(model="scripted-heavy", extra_body=body)
    assert "reasoning_content" not in reply.to_json()


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
PARTIAL = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hel", "partial": True},
]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": [TOOL]}, "without tools, or ask scripted"),
        ({"messages": PARTIAL}, "whole answers"),
        ({"logprobs": True}, "made of several"),
        ({"return_token_ids": True}, "made of several"),
        ({"thinking": {"type": "enabled", "keep": "all"}}, "no thinking of finished turns"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_trajectories_cannot_do_is_refused_with_a_sentence(scripted, fields, reason, stream):
    response = scripted(rules=HEAVY).post({"model": "scripted-heavy", "stream": stream, **fields})
    assert response.status_code == 400
    assert reason in response.json()["error"]["message"]


def test_a_raw_prompt_has_no_trajectories(scripted):
    url = f"{scripted(rules=HEAVY).url}/v1/completions"
    body = {"model": "scripted-heavy", "prompt": "x"}
    response = httpx.post(url, json=body, verify=False, timeout=60)
    assert response.status_code == 400
    assert "answers conversations" in response.json()["error"]["message"]


def test_trajectories_count_as_answers_in_work(scripted):
    server = scripted(*THREE, JUDGED, rules=Rules(heavy=3, max_requests=2))
    response = server.post({"model": "scripted-heavy"})
    assert response.status_code == 400
    assert "asks for 3 answers" in response.json()["error"]["message"]


def test_anthropics_form_gets_the_reflection(scripted):
    server = scripted(*THREE, JUDGED, rules=HEAVY)
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "scripted-heavy", "max_tokens": 50, "messages": messages}
    response = httpx.post(f"{server.url}/v1/messages", json=body, verify=False, timeout=60)
    assert response.json()["content"] == [{"type": "text", "text": "It is 5."}]
    assert response.json()["usage"]["input_tokens"] == 4

"""What replies cost."""

from __future__ import annotations

import pytest

from baltoro.agent.loop import Agent, Limits
from baltoro.agent.prices import Price, find_price
from baltoro.chat.chat_model import ChatRequest, Completion, Usage
from baltoro.chat.messages import ToolCall
from baltoro.config import BaltoroError
from baltoro.tools.lookup import Lookup

TABLE = """
["kimi-k2-thinking"]
input = 0.60
cached = 0.15
output = 2.50
date = 2026-05-01
"""


def test_a_cost_is_split_by_what_it_was_for():
    price = Price(input=0.6, cached=0.15, output=2.5, source="", date="")
    cost = price.cost(Usage(prompt=1_000_000, cached=900_000, completion=10_000, reasoning=8_000))
    assert cost.input == pytest.approx(0.06)
    assert cost.cached == pytest.approx(0.135)
    assert cost.thinking == pytest.approx(0.02)
    assert cost.answer == pytest.approx(0.005)
    assert (cost + cost).total == pytest.approx(2 * 0.22)


def test_a_table_of_ones_own_comes_first_and_says_its_source(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(TABLE)
    price = find_price("kimi-k2-thinking", None, path)
    assert price == Price(input=0.6, cached=0.15, output=2.5, source=str(path), date="2026-05-01")
    path.write_text('["m"]\ninput = 1.0\ndate = 2026-01-01\n')
    with pytest.raises(BaltoroError, match=r"the entry of 'm' needs .*'output' is missing"):
        find_price("m", None, path)
    with pytest.raises(BaltoroError, match="there is no file"):
        find_price("m", None, tmp_path / "none.toml")


def test_known_models_have_a_price_and_others_have_none():
    pytest.importorskip("genai_prices")
    price = find_price("kimi-k2-thinking", "https://api.moonshot.ai/v1")
    assert price is not None
    assert 0 < price.cached < price.input < price.output
    assert price.source.startswith("genai-prices")
    assert find_price("tiny") is None


async def test_a_run_ends_at_its_limit_of_money():
    class Costly:
        name = "costly"

        async def stream(self, request: ChatRequest):
            key = len(request.messages)
            yield Completion(
                reasoning_content="",
                content=None,
                tool_calls=[ToolCall("", "get", f'{{"key": "{key}"}}')],
                finish_reason="tool_calls",
                usage=Usage(prompt=0, completion=1_000_000, reasoning=0, cached=0),
            )

    price = Price(input=1.0, cached=1.0, output=2.0, source="", date="")
    tool = Lookup({}, description="Get.")
    agent = Agent(Costly(), [tool], price=price, limits=Limits(max_money=5.0))
    run = await agent.run([{"role": "user", "content": "Spend."}])
    assert (run.stop_reason, run.steps) == ("money_limit", 3)
    assert run.cost is not None
    assert run.cost.total == 6.0

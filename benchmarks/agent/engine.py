"""What three hundred calls cost in the engine of this process: time for each step, cached prompts.

    python benchmarks/agent/engine.py [--steps 300] [--model tiny]

A chain of linked lookups with `tiny`. The model is made to call, and any key leads to a further
one: measured are the engine and the loop, not what the model can do. Prints a JSON line for each
strategy of the context, with means for each third of the run: seconds of a step by the clock and of
computing, tokens generated in a step, and milliseconds of computing for each of these, inside the
model (its attention reads all that came before, so this grows) and outside (everything else: this
stays where time is linear in steps). And which share of all prompt tokens was found in the cache.
With `none` a run of 300 steps is longer than the positions that `tiny` was trained for, so the
engine is opened for more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from baltoro.agent.context import window
from baltoro.agent.events import Event, Replied, Shortened
from baltoro.agent.loop import Agent
from baltoro.agent.progress import Limits
from baltoro.chat.chat_model import ChatModel, ChatRequest, Sampling, ToolChoice
from baltoro.chat.chat_model import Event as ModelEvent
from baltoro.checkpoint.bundled import find_checkpoint
from baltoro.engine.chat import EngineChatModel
from baltoro.engine.open_model import open_model
from baltoro.engine.options import EngineOptions
from baltoro.kernels.step import StepModel

TOKENS_PER_STEP = 96  # at most, of a call, its thinking and its result
TASK = "Look up k0. Each value is the next key to look up. Go on until you find a number."


class Insisting:
    """The same model, which has to call a tool in each reply."""

    def __init__(self, model: ChatModel):
        self.model = model
        self.name = model.name

    def stream(self, request: ChatRequest) -> AsyncIterator[ModelEvent]:
        return self.model.stream(replace(request, tool_choice=ToolChoice(mode="required")))


class Endless:
    """A chain in which every key leads to a further one."""

    name = "get"
    description = "Look up a key and return its value."
    parameters = {  # noqa: RUF012
        "type": "object",
        "properties": {"key": {"type": "string", "maxLength": 8}},
        "required": ["key"],
    }
    read_only = True

    def __init__(self) -> None:
        self.calls = 0

    async def call(self, arguments: dict[str, Any]) -> str:
        self.calls += 1
        return f"k{self.calls}"


def with_positions(source: Path, target: Path, positions: int) -> Path:
    """A copy of a checkpoint that takes longer prompts than it was trained for."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    config["max_position_embeddings"] = max(positions, config["max_position_embeddings"])
    (target / "config.json").write_text(json.dumps(config))
    return target


class ModelClock:
    """Adds up the seconds of computing that the steps of a model take, in the thread that asks."""

    def __init__(self, model: StepModel):
        self.seconds = 0.0
        compute = model.step

        def step(*arguments: Any) -> Any:
            begun = time.thread_time()
            try:
                return compute(*arguments)
            finally:
                self.seconds += time.thread_time() - begun

        model.step = step  # type: ignore[method-assign]


async def measure(model: EngineChatModel, strategy: str, steps: int, tokens: int) -> dict[str, Any]:
    model_clock = ModelClock(model.engine.model)
    times, cpu, inside, generated = [time.perf_counter()], [time.process_time()], [0.0], [0]
    prompts = cached = shortened = longest = 0

    def note(event: Event) -> None:
        nonlocal prompts, cached, shortened, longest
        if isinstance(event, Replied):
            times.append(time.perf_counter())
            cpu.append(time.process_time())
            inside.append(model_clock.seconds)
            generated.append(generated[-1] + event.completion.usage.completion)
            prompts += event.completion.usage.prompt
            cached += event.completion.usage.cached
            longest = max(longest, event.completion.usage.prompt)
        shortened += isinstance(event, Shortened)

    agent = Agent(
        Insisting(model),
        [Endless()],
        limits=Limits(max_steps=steps, break_circles=False),
        sampling=Sampling(temperature=0, max_tokens=64, thinking_budget=24),
        observers=[note],
        window=window(strategy, tokens),
    )
    run = await agent.run([{"role": "user", "content": TASK}])
    assert (run.stop_reason, run.steps, run.violations) == ("step_limit", steps, 0), run.stop_reason
    return {
        "question": "agent in the engine",
        "strategy": strategy,
        "steps": steps,
        "calls": run.tool_calls,
        "longest_prompt": longest,
        "seconds_per_step_by_third": by_third(times),
        "cpu_seconds_per_step_by_third": by_third(cpu),
        "tokens_per_step_by_third": by_third(generated),
        "ms_per_token_inside_the_model": ms_per_token(inside, generated),
        "ms_per_token_outside": ms_per_token(
            [whole - part for whole, part in zip(cpu, inside, strict=True)], generated
        ),
        "cached_share": round(cached / prompts, 4),
        "shortened": shortened,
        "bar": "cached_share >= 0.95 and time linear in steps, with none",
    }


def by_third(totals: Sequence[float]) -> list[float]:
    """Mean growth of a total in a step of the first, middle and last third of a run."""
    growth = [after - before for before, after in pairwise(totals)]
    third = max(1, len(growth) // 3)
    parts = growth[:third], growth[third:-third] or growth, growth[-third:]
    return [round(sum(part) / len(part), 4) for part in parts]


def ms_per_token(seconds: Sequence[float], tokens: Sequence[int]) -> list[float]:
    steps = zip(by_third(seconds), by_third(tokens), strict=True)
    return [round(1000 * of_step / tokens_of_step, 3) for of_step, tokens_of_step in steps]


async def measure_all(folder: Path, steps: int, strategies: list[str]) -> None:
    positions = 1024 + steps * TOKENS_PER_STEP
    for strategy in strategies:
        opened = open_model(folder, EngineOptions(threads=1, max_context=positions))
        assert isinstance(opened, EngineChatModel)
        with opened as model:
            tokens = positions if strategy == "none" else 2048
            print(json.dumps(await measure(model, strategy, steps, tokens)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--strategies", nargs="+", default=["none", "keep-last-8"])
    options = parser.parse_args()
    positions = 1024 + options.steps * TOKENS_PER_STEP
    with tempfile.TemporaryDirectory() as folder:
        source = find_checkpoint(options.model)
        copied = with_positions(Path(source), Path(folder) / "model", positions)
        asyncio.run(measure_all(copied, options.steps, options.strategies))


if __name__ == "__main__":
    main()

"""What the loop itself costs for each step: a scripted model that answers at once.

    python benchmarks/agent/overhead.py [--steps 300]

Prints one JSON line: milliseconds per step over the whole run and over its last tenth, and of
computing alone, with the trace written and every invariant checked, as in a real run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from baltoro.agent.events import Called, Replied
from baltoro.agent.loop import Agent, Limits
from baltoro.agent.trace import Trace
from baltoro.chat.chat_model import ChatRequest, Completion, Usage
from baltoro.chat.messages import ToolCall
from baltoro.tools.lookup import Lookup


class Instant:
    """Follows a chain of `steps` entries and answers."""

    name = "instant"

    def __init__(self, steps: int):
        self.steps = steps
        self.step = 0

    async def stream(self, request: ChatRequest):
        done = self.step == self.steps
        call = ToolCall("", "get", json.dumps({"key": f"k{self.step}"}))
        self.step += 1
        yield Completion(
            reasoning_content="The next key is in the last result. " * 10,
            content="Done." if done else None,
            tool_calls=[] if done else [call],
            finish_reason="stop" if done else "tool_calls",
            usage=Usage(prompt=100 * self.step, completion=60, reasoning=40, cached=90),
        )


async def measure(steps: int, folder: Path) -> list[float]:
    """The time at which each step began."""
    table = {f"k{i}": f"k{i + 1} " * 20 for i in range(steps)}
    times: list[float] = []

    def note(event) -> None:
        if isinstance(event, Replied):
            times.append(time.perf_counter())
        assert not isinstance(event, Called) or event.step == len(times)

    with Trace(folder / "run.jsonl") as trace:
        tools = [Lookup(table, description="Get an entry.")]
        limits = Limits(max_steps=steps + 1)
        agent = Agent(Instant(steps), tools, limits=limits, observers=[trace, note])
        run = await agent.run([{"role": "user", "content": "Follow k0."}])
    assert run.answer == "Done."
    assert run.violations == 0
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        times = asyncio.run(measure(steps, Path(folder)))
        computing = time.process_time() - begun
    tail = max(1, steps // 10)
    row = {
        "question": "agent overhead",
        "steps": steps,
        "ms_per_step": round(1000 * (times[-1] - times[0]) / steps, 3),
        "ms_per_step_last_tenth": round(1000 * (times[-1] - times[-1 - tail]) / tail, 3),
        "cpu_ms_per_step": round(1000 * computing / steps, 3),
        "bar_ms": 5,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()

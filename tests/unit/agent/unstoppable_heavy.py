"""Heavy mode with side effects, as a program that a test kills and starts again.

    python unstoppable_heavy.py TRACE FOLDER

Each trajectory books the entries of a ledger of its own. Each request is noted by its seed, which
no two requests share, before it is answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unstoppable import Accountant, Book, Look

from baltoro.agent.heavy import HeavyRun, resume_heavy, run_heavy
from baltoro.agent.loop import Agent, Observer
from baltoro.agent.progress import Limits
from baltoro.agent.recorded import RecordedHeavy, read_works
from baltoro.agent.trace import Trace
from baltoro.chat.chat_model import ChatRequest, Sampling

LANES, ENTRIES = 3, 40
TASK = [{"role": "user", "content": "Book all entries."}]


class Team(Accountant):
    """Books; asked to reflect, it agrees."""

    def __init__(self, folder: Path):
        super().__init__(ENTRIES)
        self.folder = folder

    async def stream(self, request: ChatRequest):
        reflecting = "[Attempt 1" in request.messages[0]["content"]
        with (self.folder / "asked").open("a") as file:
            file.write(f"{'reflection' if reflecting else request.sampling.seed}\n")
        await asyncio.sleep(0.0005)  # time to be killed in
        if reflecting:
            yield replace(self.reply(None), content="Agreed.")
        else:
            async for event in super().stream(request):
                yield event


async def main(trace_file: Path, folder: Path) -> HeavyRun:
    works = read_works(trace_file) if trace_file.exists() else []
    with Trace(trace_file) as trace:
        made = 0

        def make(observers: Sequence[Observer]) -> Agent:
            nonlocal made
            made += 1
            ledger = folder / f"ledger{made}"
            return Agent(
                Team(folder),
                [Book(ledger), Look(ledger)],
                limits=Limits(max_steps=4 * ENTRIES),
                sampling=Sampling(seed=0),
                observers=observers,
            )

        def observe(name: str | None) -> list[Observer]:
            return [trace.of(name)]

        if not works:
            return await run_heavy(make, TASK, LANES, observe=observe)
        assert isinstance(works[-1], RecordedHeavy)
        return await resume_heavy(make, works[-1].interrupted(), observe=observe)


if __name__ == "__main__":
    run = asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
    print(json.dumps({"answer": run.answer, "completion": run.usage.completion}))

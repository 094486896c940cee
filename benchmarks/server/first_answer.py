"""How long until the bundled model answers: from the start of the server, and from a question.

    python benchmarks/server/first_answer.py --runs 5

Starts the server anew for each run, ends it with kill -9 while it answers and starts it again.
Prints one JSON line with the medians, in seconds; those of the processor until the server listens
hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import httpx
from openai import OpenAI, OpenAIError
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from clients import server

QUESTION = "Which is bigger: 9.11 or 9.9?"


def measure(model: str) -> dict[str, float]:
    """One start, one streamed question, and a restart after kill -9."""
    started = time.perf_counter()
    with server(model, threads=None) as (url, pid):
        listening = time.perf_counter()
        processor = processor_seconds(pid)
        first, last = ask(url)
        pieces = stream(url)
        next(pieces)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OpenAIError, httpx.HTTPError):
            deque(pieces, maxlen=0)
    restarted = time.perf_counter()
    with server(model, threads=None):
        return {
            "start_to_listening_s": listening - started,
            "start_to_listening_processor_s": processor,
            "kill_to_listening_s": time.perf_counter() - restarted,
            "question_to_first_token_s": first,
            "question_to_last_token_s": last,
        }


def processor_seconds(pid: int) -> float:
    """That a process has taken so far, in user and in system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(url: str) -> tuple[float, float]:
    """Seconds until the first token of a reply, and until its last."""
    asked = time.perf_counter()
    first = None
    for delta in stream(url):
        if first is None and (delta.content or getattr(delta, "reasoning_content", None)):
            first = time.perf_counter()
    assert first is not None, "the reply was empty"
    return first - asked, time.perf_counter() - asked


def stream(url: str) -> Iterator[ChoiceDelta]:
    api = OpenAI(base_url=f"{url}/v1", api_key="any")
    for chunk in api.chat.completions.create(
        model=api.models.list().data[0].id,
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
    ):
        yield chunk.choices[0].delta


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    rows = [measure(options.model) for _ in range(options.runs)]
    medians = {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
    print(
        json.dumps(
            {"model": options.model, "runs": options.runs, "cores": os.cpu_count()} | medians
        )
    )


if __name__ == "__main__":
    main()

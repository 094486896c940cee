"""How long until the bundled model answers: from the start of the server, and from a question.

    python benchmarks/first_answer.py --runs 5

Starts the server anew for each run and prints one JSON line with the medians, in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

from clients import server
from openai import OpenAI

QUESTION = "Which is bigger: 9.11 or 9.9?"


def measure(model: str) -> dict[str, float]:
    """One start, one streamed question."""
    started = time.perf_counter()
    with server(model, threads=None) as (url, _):
        listening = time.perf_counter()
        api = OpenAI(base_url=f"{url}/v1", api_key="any")
        asked = time.perf_counter()
        stream = api.chat.completions.create(
            model=api.models.list().data[0].id,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
        )
        first = None
        for chunk in stream:
            delta = chunk.choices[0].delta
            if first is None and (delta.content or getattr(delta, "reasoning_content", None)):
                first = time.perf_counter()
        assert first is not None, "the reply was empty"
        return {
            "start_to_listening_s": listening - started,
            "question_to_first_token_s": first - asked,
            "question_to_last_token_s": time.perf_counter() - asked,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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

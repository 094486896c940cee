"""The bars that the engine is held to, each with the question whose records show it.

A bar looks at one ratio of a record: to the limit of the machine, or to peers that took turns with
ours in the same run. RESULTS.md begins with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LIMIT, RESULT, MEMORY = "the limit", "its result", "memory over what was taken of it"


@dataclass(frozen=True)
class Bar:
    what: str
    question: str
    case: str  # a regular expression that the record's case holds
    beside: str  # one of the above, or a regular expression of peers, of which the best counts
    at_least: float
    all_cores: float | None = None  # the bar there, where it is another
    one_thread: bool = True  # whether it holds on one thread, too

    def wanted(self, record: dict[str, Any]) -> float | None:
        """What this record should reach; None if the bar does not speak of it."""
        if record["question"] != self.question or not re.search(self.case, record["case"]):
            return None
        if record["threads"] == 1:
            return self.at_least if self.one_thread else None
        return self.at_least if self.all_cores is None else self.all_cores

    def ratio(self, record: dict[str, Any]) -> float | str:
        """What it has reached, or which peer is missing."""
        if self.beside == LIMIT:
            return record["ratio_to_roofline"]
        if self.beside == RESULT:
            return record["result"]
        if self.beside == MEMORY:
            return record["details"]["memory_bytes"] / record["details"]["resident_bytes"]
        peers = {n: p for n, p in record["peers"].items() if re.search(self.beside, n)}
        ratios = [peer["ratio"] for peer in peers.values() if "ratio" in peer]
        return min(ratios) if ratios else f"{' and '.join(peers) or 'the peer'} missing"


BARS = (
    Bar("MoE decode, 64 experts, of the limit", "moe", "of 64 .*int8", LIMIT, 0.85, 0.90),
    Bar("MoE decode, 384 experts, of the limit", "moe", "of 384 .*int8", LIMIT, 0.85, 0.90),
    Bar("MoE decode beside llama.cpp and ik", "moe", "of 64 .*int8", "llama", 1.5),
    Bar("MoE decode with f32 activations", "moe", "f32", LIMIT, 0.45, one_thread=False),
    Bar("bf16 mat-vecs, of the limit", "formats", "^bf16 .*batch 1,", LIMIT, 0.8),
    Bar("MoE prefill, 8 tokens an expert, beside ik", "prefill", ", 8 for", "^ik", 1.1),
    Bar("MoE prefill, 16 tokens an expert, beside ik", "prefill", ", 16 for", "^ik", 1.1),
    Bar("dense prefill, 512 tokens, beside the best", "prefill", ", 512 for", "llama", 1.0),
    Bar("decode, 8 bits, beside llama-bench", "decode", "in 8 bits", "^llama-bench", 1.5),
    Bar("decode, bf16, of the limit", "decode", "in 16 bits", LIMIT, 0.8),
    Bar("16 requests at once, tokens a second", "serve", "^208m", "server", 1.5),
    Bar("16 requests at once, p99 of first tokens", "serve", "^first", "server", 1.0),
    Bar("16 requests over HTTP, beside the engine alone", "http", "^208m", "alone", 0.97),
    Bar("the same in the processor's time", "http", "^processor", "alone", 0.97),
    Bar("first event within 5 ms of the first token", "http", "^first", RESULT, 200.0),
    Bar("twice as many threads as cores", "threads", "", "threads", 0.8),
    Bar("a prefix of 8K tokens again", "cache", "repeated, ", RESULT, 50.0),
    Bar("a prefix of 8K tokens after a restart", "cache", "after a restart", RESULT, 20.0),
    Bar("8 samples of one prompt, for one prefill", "cache", "samples of", RESULT, 7.5),
    Bar("INT4 against bf16, of the bytes, batch 1", "formats", "against.*batch 1,", LIMIT, 0.85),
    Bar("INT4 against bf16, of the bytes, batch 16", "formats", "against.*batch 16", LIMIT, 0.85),
    Bar("INT4 experts, of the limit, batch 1", "formats", "^INT4 exp.*batch 1,", LIMIT, 0.8),
    Bar("INT4 experts, of the limit, batch 16", "formats", "^INT4 exp.*batch 16", LIMIT, 0.8),
    Bar("bf16 experts, of the limit, batch 16", "formats", "^bf16 .*batch 16", LIMIT, 0.8),
    Bar("forward and backward beside transformers", "train", "", "^transformers", 1.5),
    Bar("16 rollouts at once beside llama.cpp's server", "rollouts", "", "^llama", 1.5),
    Bar("a slice larger than memory stays in it", "slice", "GB of memory", MEMORY, 1.0),
)


def held(records: list[dict[str, Any]]) -> Iterator[str]:
    """A table of what each bar asks for and has got."""
    yield "| bar | threads | at least | measured | |"
    yield "|---|---|---|---|---|"
    for bar in BARS:
        lines = [_line(bar, record) for record in records if bar.wanted(record) is not None]
        yield from lines or [f"| {bar.what} | | {bar.at_least} | not run: {bar.question} | |"]


def _line(bar: Bar, record: dict[str, Any]) -> str:
    wanted, ratio = bar.wanted(record), bar.ratio(record)
    assert wanted is not None
    found, verdict = (ratio, "") if isinstance(ratio, str) else (f"{ratio:.3g}", "missed")
    if not isinstance(ratio, str) and ratio >= wanted:
        verdict = "reached"
    return f"| {bar.what} | {record['threads']} | {wanted} | {found} | {verdict} |"

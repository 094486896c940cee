"""Decoding one sequence with llama.cpp or ik_llama.cpp, through their library llama.

Run by `decode.py` with the peers' interpreter: for each line on the standard input it decodes
random tokens one by one, as llama-bench does, and prints `=>` and the seconds of one token.
With --logits it prints the logits that follow some tokens, for a comparison with ours, and ends.

    python benchmarks/speed/peers/llama_decode.py llama_cpp MODEL.gguf --threads 2
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
from typing import Any

CONTEXT = 1024
MODULES = {"llama_cpp": "llama_cpp.llama_cpp", "ik_llama_cpp": "ik_llama_cpp._ctypes_api"}


class Model:
    """A model with one sequence."""

    def __init__(self, library: str, path: str, threads: int):
        self.lib: Any = importlib.import_module(MODULES[library])
        lib = self.lib
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{library} cannot read {path}")
        params = lib.llama_context_default_params()
        params.n_ctx = CONTEXT
        params.n_threads = params.n_threads_batch = threads
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"{library} has no memory for a context")
        self.position = 0

    def restart(self) -> None:
        """Forget the sequence."""
        lib = self.lib
        if hasattr(lib, "llama_memory_clear"):
            lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        else:
            lib.llama_kv_cache_clear(self.context)
        self.position = 0

    def decode(self, tokens: list[int]) -> None:
        """Append tokens, with the logits of the last."""
        lib = self.lib
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = self.position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == len(tokens) - 1
        status = lib.llama_decode(self.context, batch)
        lib.llama_batch_free(batch)
        if status != 0:
            raise SystemExit(f"llama_decode failed: status {status}")
        self.position += len(tokens)

    def logits(self, count: int) -> list[float]:
        return [float(x) for x in self.lib.llama_get_logits_ith(self.context, -1)[:count]]

    def seconds_per_token(self, prompt: int, tokens: int, vocabulary: int) -> float:
        self.restart()
        draw = random.Random(0)
        self.decode([draw.randrange(vocabulary) for _ in range(prompt)])
        start = time.perf_counter()
        for _ in range(tokens):
            self.decode([draw.randrange(vocabulary)])
        return (time.perf_counter() - start) / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=["llama_cpp", "ik_llama_cpp"])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=127)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--logits", type=int, nargs="*", help="after these tokens")
    given = parser.parse_args()
    model = Model(given.library, given.model, given.threads)
    if given.logits:
        model.decode(given.logits)
        print(*model.logits(given.vocabulary))
        return
    print("=> 0", flush=True)
    for _ in sys.stdin:
        seconds = model.seconds_per_token(given.prompt, given.tokens, given.vocabulary)
        print("\n=>", seconds, flush=True)


if __name__ == "__main__":
    main()

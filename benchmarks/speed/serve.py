"""`baltoro bench serve` with llama.cpp's server beside it: sixteen requests at once.

BALTORO_PEERS=FOLDER python benchmarks/speed/serve.py --threads 2
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from baltoro.bench import serve
from baltoro.bench.questions import Options
from baltoro.bench.record import Record
from decode import gguf_of
from peers.find import find
from results import run_script

SLOT_TOKENS = 1024  # of context that llama-server has for each request


def records(options: Options) -> Iterator[Record]:
    folder = options.checkpoint("208m")
    requests = 2 if options.small else serve.REQUESTS
    for threads in options.thread_counts():
        with llama_server(gguf_of(folder), threads, requests) as peer:
            yield from serve.run(
                folder,
                options.roofline(threads),
                threads=threads,
                rounds=options.rounds,
                requests=requests,
                dense_bits=8,  # as the peer's Q8_0
                peers={"llama-server": peer},
            )


@contextlib.contextmanager
def llama_server(
    model: Path | str, threads: int, requests: int
) -> Iterator[tuple[str, Mapping[str, Any]] | str]:
    """Its address and what its requests need besides, or why it is missing."""
    program = find("llama/bin/llama-server")
    missing = next((part for part in (program, model) if isinstance(part, str)), "")
    if missing:
        yield missing
        return
    port = serve.free_port()
    command = [program, "-m", model, "--port", str(port), "--host", "127.0.0.1"]
    command += ["-t", str(threads), "-tb", str(threads), "-np", str(requests)]
    command += ["-c", str(requests * SLOT_TOKENS), "--no-webui"]
    with serve.running([str(part) for part in command], port) as url:
        yield url, {"cache_prompt": False, "ignore_eos": True}


if __name__ == "__main__":
    run_script(records, __doc__)

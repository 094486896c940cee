"""`baltoro bench decode` with llama.cpp and ik_llama.cpp beside it, on the same weights.

    BALTORO_PEERS=FOLDER python benchmarks/speed/decode.py --threads 1 --threads 2

The peers hold the dense part in Q8_0, and decode random tokens without a sampler; where llama-bench
is built, it is asked too.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from baltoro.bench import decode
from baltoro.bench.questions import Options
from baltoro.bench.record import Record
from baltoro.checkpoint.reader import open_checkpoint
from baltoro.config import BaltoroError
from peers.find import HERE, Peers, find, peers_python
from peers.write_gguf import write
from results import run_script

LIBRARIES = {"llama.cpp": "llama_cpp", "ik_llama.cpp": "ik_llama_cpp"}


def records(options: Options) -> Iterator[Record]:
    folder = options.checkpoint("208m")
    model = gguf_of(folder)
    for threads in options.thread_counts():
        with Peers() as peers:
            add_peers(peers, model, threads, open_checkpoint(folder).config.vocab_size)
            for dense_bits in (8, 16):  # the peers hold the dense part in Q8_0
                yield decode.run(
                    folder,
                    options.roofline(threads),
                    threads=threads,
                    rounds=options.rounds,
                    dense_bits=dense_bits,
                    peers=peers.measures,
                )


def gguf_of(folder: Path) -> Path | str:
    """The same model for the peers, made once; or why there is none."""
    target = folder.with_suffix(".gguf")
    if target.exists():
        return target
    try:
        return write(open_checkpoint(folder), target)
    except ImportError as missing:
        return f"the peers' model cannot be written: {missing}"


def add_peers(peers: Peers, model: Path | str, threads: int, vocabulary: int) -> None:
    python, bench = peers_python(), find("llama/bin/llama-bench")
    for name, library in LIBRARIES.items():
        missing = next((part for part in (model, python) if isinstance(part, str)), "")
        if missing:
            peers.measures[name] = missing
            continue
        command = [python, HERE / "llama_decode.py", library, model, "--threads", str(threads)]
        command += ["--vocabulary", str(vocabulary), "--tokens", str(decode.TOKENS - 1)]
        peers.add(name, command, lambda seconds: 1 / seconds)
    if isinstance(bench, str) or isinstance(model, str):
        peers.measures["llama-bench"] = bench if isinstance(bench, str) else str(model)
    else:
        peers.measures["llama-bench"] = llama_bench(bench, model, threads)


def llama_bench(program: Path, model: Path, threads: int) -> Callable[[], float]:
    """Tokens per second as llama-bench measures them."""
    tokens = str(decode.TOKENS)
    command = [program, "-m", model, "-p", "0", "-n", tokens, "-t", str(threads), "-r", "1"]
    command += ["-o", "json"]

    def run() -> float:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BaltoroError(f"llama-bench failed: {done.stderr[-300:]}")
        return float(json.loads(done.stdout)[0]["avg_ts"])

    return run


if __name__ == "__main__":
    run_script(records, __doc__)

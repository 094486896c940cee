"""The questions by name, with what the command line gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from baltoro.bench import cache, decode, long, moe, prefill, serve
from baltoro.bench import slice as slice_question
from baltoro.bench.checkpoints import Progress, default_folder, random_checkpoint
from baltoro.bench.expect import PROMPT
from baltoro.bench.record import Record
from baltoro.bench.roofline import PROBE_BYTES, Roofline
from baltoro.bench.shapes import SLICE, SMALL, TINY_SLICE
from baltoro.config import BaltoroError
from baltoro.engine.memory import parse_size
from baltoro.engine.options import EngineOptions
from baltoro.kernels.cores import available_cores

LONG_CONTEXT = 262_144
SMALL_PROBE_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Options:
    """`small` takes a thousandth of the sizes: it shows that a question works, and no speed."""

    threads: Sequence[int] = ()  # each is measured; none: one, and all cores
    rounds: int = 5
    small: bool = False
    folder: Path | None = None  # where random checkpoints are kept
    memory: str | None = None  # of the process, for `slice`
    bandwidths: Sequence[float] = ()  # GB/s to project to, for `slice`
    experts: int | None = None  # in a layer, for `slice`
    dense_bits: int | None = None  # of the unquantized part; None: 16, for `decode` both
    progress: Progress = lambda done, total: None

    def thread_counts(self) -> tuple[int, ...]:
        return tuple(self.threads) or tuple(sorted({1, available_cores()}))

    def dense(self) -> int:
        return self.dense_bits or 16

    def roofline(self, threads: int) -> Roofline:
        return Roofline(threads, SMALL_PROBE_BYTES if self.small else PROBE_BYTES)

    def checkpoint(self, name: str) -> Path:
        config = {"208m": SMALL, "slice": TINY_SLICE if self.small else SLICE}[name]
        if self.small and name == "208m":
            config = replace(config, num_hidden_layers=2, n_routed_experts=8)
        if self.small:
            name += "-small"
        if self.experts is not None and name.startswith("slice"):
            config = replace(config, n_routed_experts=self.experts)
            name += f"-{self.experts}"
        folder = self.folder or default_folder()
        return random_checkpoint(config, folder / name, progress=self.progress)


def answer_moe(options: Options) -> Iterator[Record]:
    yield from moe.answer(options.thread_counts(), options.rounds, options.small)


def answer_decode(options: Options) -> Iterator[Record]:
    folder = options.checkpoint("208m")
    for threads in options.thread_counts():
        roofline = options.roofline(threads)
        for dense_bits in (options.dense_bits,) if options.dense_bits else (16, 8):
            yield decode.run(
                folder, roofline, threads=threads, rounds=options.rounds, dense_bits=dense_bits
            )


def answer_prefill(options: Options) -> Iterator[Record]:
    yield from prefill.answer(options.thread_counts(), options.rounds, options.small)


def answer_serve(options: Options) -> Iterator[Record]:
    folder = options.checkpoint("208m")
    requests = 2 if options.small else serve.REQUESTS
    for threads in options.thread_counts():
        yield from serve.run(
            folder,
            options.roofline(threads),
            threads=threads,
            rounds=options.rounds,
            requests=requests,
            dense_bits=options.dense(),
        )


def answer_cache(options: Options) -> Iterator[Record]:
    folder = options.checkpoint("208m")
    prefix = 256 if options.small else cache.PREFIX
    for threads in options.thread_counts():
        for measure in (cache.in_memory, cache.from_disk, cache.samples):
            yield measure(
                folder,
                EngineOptions(threads=threads, dense_bits=options.dense()),
                rounds=options.rounds,
                prefix=prefix,
            )


def answer_long(options: Options) -> Iterator[Record]:
    folder = options.checkpoint("208m")
    context = 4096 if options.small else LONG_CONTEXT
    for threads in options.thread_counts():
        roofline = options.roofline(threads)
        yield long.run(
            folder,
            roofline,
            threads=threads,
            context=context,
            rounds=options.rounds,
            dense_bits=options.dense(),
        )


def answer_slice(options: Options) -> Iterator[Record]:
    folder = options.checkpoint("slice")
    for threads in options.thread_counts():
        yield slice_question.run(
            folder,
            options.roofline(threads),
            threads=threads,
            memory=None if options.memory is None else parse_size(options.memory),
            bandwidths=[1e9 * bandwidth for bandwidth in options.bandwidths],
            prompt=512 if options.small else PROMPT,
            rounds=options.rounds,
            dense_bits=options.dense(),
        )


QUESTIONS: dict[str, Callable[[Options], Iterator[Record]]] = {
    "moe": answer_moe,
    "decode": answer_decode,
    "prefill": answer_prefill,
    "serve": answer_serve,
    "cache": answer_cache,
    "slice": answer_slice,
    "long": answer_long,
}


# Options that not every question takes: the field, how it is spelled, and who takes it.
_NOT_FOR_ALL = (
    ("memory", "--memory", {"slice"}),
    ("bandwidths", "--bandwidth", {"slice"}),
    ("experts", "--experts", {"slice"}),
    ("dense_bits", "--dense-bits", {"decode", "serve", "cache", "slice", "long"}),
)


def ask(question: str, options: Options) -> Iterator[Record]:
    """The figures of a question as they come.

    Raises BaltoroError if there is no such question, or if it does not take one of the options.
    """
    if question not in QUESTIONS:
        raise BaltoroError(
            f"there is no question '{question}'. The questions are: {', '.join(QUESTIONS)}."
        )
    for name, spelled, takers in _NOT_FOR_ALL:
        if getattr(options, name) and question not in takers:
            raise BaltoroError(
                f"'{question}' takes no {spelled}, but {', '.join(sorted(takers))} "
                f"{'do' if len(takers) > 1 else 'does'}. Leave it out."
            )
    yield from QUESTIONS[question](options)

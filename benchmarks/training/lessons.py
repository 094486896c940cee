"""What the scripts that compare ways of training let a model learn from random weights."""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import ModelConfig, from_mapping, load_toml, preset
from baltoro.train.data import Sample, draw_samples
from baltoro.train.pretrain import PretrainConfig, document
from baltoro.train.sft import Phase, SftConfig, demonstration

TEXT = 512  # bytes of a sample
RECIPES = Path("recipes/tiny")  # whose documents and demonstrations are learned
HELD_OUT_TOKENS = 40_000
HELD_OUT_SEED = -1  # those of runs are not negative

Make = Callable[[random.Random], Sample]
Learned = Annotated[Literal["text", "documents", "demonstrations"], typer.Option("--of")]


@dataclass(frozen=True)
class Lesson:
    """What is learned, by which model."""

    config: ModelConfig
    make: Make
    make_unseen: Make
    vocabulary_lr_scale: float = 1.0  # of embedding and head beside the matrices, as in the recipe

    def unseen(self) -> list[Sample]:
        return draw_samples(HELD_OUT_SEED, 0, HELD_OUT_TOKENS, self.make_unseen)


def of_documents() -> Lesson:
    """Those of pretraining, almost all of them to be copied."""
    recipe = load_toml(PretrainConfig, RECIPES / "pretrain.toml")
    tokenizer = Tokenizer.load(recipe.tokenizer)

    def make(rng: random.Random) -> Sample:
        return document(rng, tokenizer, recipe.documents)

    return Lesson(preset(recipe.model), make, make, recipe.schedule["vocabulary_lr_scale"])


def of_demonstrations() -> Lesson:
    """Those of SFT's last phase, without what is rehearsed beside them."""
    recipe = load_toml(SftConfig, RECIPES / "sft.toml")
    tokenizer = Tokenizer.load(recipe.tokenizer)
    phase = from_mapping(Phase, recipe.phases[-1] | {"rehearsal": {}}, "the recipe's last phase")

    def make(rng: random.Random) -> Sample:
        return demonstration(rng, tokenizer, phase)

    return Lesson(preset(recipe.model), make, make, recipe.schedule["vocabulary_lr_scale"])


def of_text() -> Lesson:
    """Bytes of the sources of Python's standard library; every tenth file is unseen."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [file.read_bytes() for file in files]
    unseen = b"".join(texts[::10])
    learned = b"".join(text for i, text in enumerate(texts) if i % 10)
    return Lesson(replace(preset("tiny"), vocab_size=256), spans_of(learned), spans_of(unseen))


def spans_of(text: bytes) -> Make:
    def make(rng: random.Random) -> Sample:
        start = rng.randrange(len(text) - TEXT)
        return list(text[start : start + TEXT]), [1] * TEXT

    return make


LESSONS: dict[str, Callable[[], Lesson]] = {
    "text": of_text,
    "documents": of_documents,
    "demonstrations": of_demonstrations,
}

"""Learn a byte-level BPE vocabulary and write it as `tiktoken.model` + `tokenizer_config.json`.

    python -m baltoro.train.bpe OUT --ranks 4096 --text FOLDER

Words carry no leading space and digits stand alone, so that a name or a number has the same
tokens wherever it appears: what a small model must copy, it can copy token by token.
"""

from __future__ import annotations

import base64
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from baltoro.chat.format import ChatFormat
from baltoro.chat.json_tokenizer import bytes_of_letters
from baltoro.chat.template import render_text
from baltoro.chat.tokenizer import SPECIAL_OFFSETS
from baltoro.tasks.mixture import TASKS, converse

PATTERN = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SYSTEM_PROMPT = "You are tiny, a small model with few skills."
NUM_CONVERSATIONS = 20_000
PYTHON_MODULES = ("json", "email", "http", "urllib", "unittest", "logging")  # of the stdlib


def corpus(text_folder: Path | None) -> Iterator[str]:
    """Conversations of every task, Python, and English where a folder of it is given."""
    rng = random.Random(0)
    weights = {name: 1.0 for name in TASKS}
    for _ in range(NUM_CONVERSATIONS):
        talk = converse(rng, weights, "train")
        yield render_text(
            talk.messages(), talk.tools, chat_format=ChatFormat(default_system_prompt=SYSTEM_PROMPT)
        )
    stdlib = Path(sysconfig.get_path("stdlib"))
    for module in PYTHON_MODULES:
        for path in sorted((stdlib / module).glob("*.py")):
            yield path.read_text(encoding="utf-8", errors="ignore")
    if text_folder is not None:
        for path in sorted(text_folder.rglob("*.txt")):
            yield path.read_text(encoding="utf-8", errors="ignore")


def learn_ranks(texts: Iterator[str], num_ranks: int) -> list[bytes]:
    """Tokens as bytes in the order of their rank: the 256 bytes, then merges as learned."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=num_ranks + 64,  # some merges spell the same bytes
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    bpe.train_from_iterator(texts, trainer)
    to_byte = bytes_of_letters()
    ranks = [bytes([b]) for b in range(256)]
    seen = set(ranks)
    for left, right in json.loads(bpe.to_str())["model"]["merges"]:
        token = bytes(to_byte[char] for char in left + right)
        if token not in seen and len(ranks) < num_ranks:
            seen.add(token)
            ranks.append(token)
    return ranks


def write_tokenizer(folder: Path, ranks: list[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks)]
    (folder / "tiktoken.model").write_text("".join(lines))
    added = {
        str(len(ranks) + offset): {"content": name, "special": "think" not in name}
        for name, offset in SPECIAL_OFFSETS.items()
    }
    config = {
        "added_tokens_decoder": added,
        "pat_str": PATTERN,
        "default_system_prompt": SYSTEM_PROMPT,
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "tokenizer_class": "TikTokenTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main(
    folder: Path,
    ranks: Annotated[int, typer.Option(help="ordinary tokens, the 256 bytes included")] = 4096,
    text: Annotated[Path | None, typer.Option(help="folder of .txt files in English")] = None,
) -> None:
    write_tokenizer(folder, learn_ranks(corpus(text), ranks))


if __name__ == "__main__":
    typer.run(main)

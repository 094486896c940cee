"""Text to token ids and back: byte-level BPE in `tiktoken.model` form, plus K2's special tokens.

User text can never become a special token: `encode` knows none. Special tokens enter a prompt only
by id, through the template.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tiktoken
from numpy.typing import NDArray

from baltoro.chat.format import K2_THINKING, ChatFormat, read_format
from baltoro.chat.reply_form import ReplyForm
from baltoro.config import BaltoroError

if TYPE_CHECKING:
    from baltoro.chat.jinja_prompts import JinjaPrompts

SPECIAL_SLOTS = 256  # ids after the last rank that belong to special tokens

# Name of each special token at its distance from the last rank. The slots between are reserved.
SPECIAL_OFFSETS: Mapping[str, int] = {
    "[BOS]": 0,
    "[EOS]": 1,
    "<|im_end|>": 2,
    "<|im_user|>": 3,
    "<|im_assistant|>": 4,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "[EOT]": 9,
    "<|im_system|>": 10,
    "<|tool_calls_section_begin|>": 11,
    "<|tool_calls_section_end|>": 12,
    "<|tool_call_begin|>": 13,
    "<|tool_call_argument_begin|>": 14,
    "<|tool_call_end|>": 15,
    "<|im_middle|>": 17,
    "<|media_begin|>": 18,
    "<|media_content|>": 19,
    "<|media_end|>": 20,
    "<|media_pad|>": 21,
    "<think>": 22,
    "</think>": 23,
    "[UNK]": 254,
    "[PAD]": 255,
}

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

K2_PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
"""How K2 cuts text before merging bytes; a `tokenizer_config.json` may carry its own `pat_str`."""

# The published tokenizer class cuts long input at these lengths before encoding; so do we, for the
# same ids, and because BPE and backtracking degrade on unbroken runs.
_MAX_PIECE_CHARS = 400_000
_MAX_RUN_CHARS = 25_000


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids of the special tokens that the code speaks of."""

    bos: int
    eos: int
    im_end: int
    im_user: int
    im_assistant: int
    im_system: int
    im_middle: int
    think: int
    end_think: int
    tool_calls_section_begin: int
    tool_calls_section_end: int
    tool_call_begin: int
    tool_call_argument_begin: int
    tool_call_end: int
    pad: int
    unk: int


_SPECIAL_NAMES = {
    "bos": "[BOS]",
    "eos": "[EOS]",
    "think": "<think>",
    "end_think": "</think>",
    "pad": "[PAD]",
    "unk": "[UNK]",
}


class Tokenizer:
    """Byte-pair encoding of one model.

    ranks: bytes of each ordinary token -> its id, 0 to len(ranks) - 1 in merge order.
    special_tokens: name -> id for some or all of the 256 slots after the last rank; K2's names
    stand at K2's offsets where they are not given.
    """

    prompts: JinjaPrompts | None = None  # of a family that is prompted by its own template

    def __init__(
        self,
        ranks: dict[bytes, int],
        special_tokens: Mapping[str, int] | None = None,
        *,
        pat_str: str = K2_PATTERN,
        chat_format: ChatFormat = K2_THINKING,
    ) -> None:
        self.ranks = ranks
        self.vocab_size = len(ranks) + SPECIAL_SLOTS
        self.pat_str = pat_str
        self.chat_format = chat_format
        self.special_ids = _fill_special_slots(len(ranks), special_tokens or {})
        self.special_names = {id: name for name, id in self.special_ids.items()}
        self.form = _k2_form(self.special, chat_format)
        self._bpe = tiktoken.Encoding(
            "baltoro", pat_str=pat_str, mergeable_ranks=ranks, special_tokens=self.special_ids
        )

    @cached_property
    def special(self) -> SpecialTokens:
        names = {field: f"<|{field}|>" for field in SpecialTokens.__dataclass_fields__}
        names |= _SPECIAL_NAMES
        return SpecialTokens(**{field: self.special_ids[name] for field, name in names.items()})

    @cached_property
    def ordinary(self) -> NDArray[np.bool_]:
        """Which ids stand for text: bool[vocab_size]."""
        return np.arange(self.vocab_size) < len(self.ranks)

    def fit(self, vocab_size: int) -> None:
        """Raises BaltoroError where a model's vocabulary is not this tokenizer's."""
        if vocab_size != self.vocab_size:
            raise BaltoroError(
                f"the tokenizer has {self.vocab_size} tokens, but vocab_size in config.json is "
                f"{vocab_size}. Do the files belong together?"
            )

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read `tiktoken.model`, `tokenizer_config.json` and, where there is one, the template;
        or, where there is no `tiktoken.model`, the `tokenizer.json` of a relative.

        Raises `BaltoroError` that names the file where one is missing or malformed.
        """
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file() and not (folder / "tiktoken.model").is_file():
            from baltoro.chat.json_tokenizer import load_json_tokenizer

            return load_json_tokenizer(folder)
        config_path = folder / "tokenizer_config.json"
        try:
            config = json.loads(_read(config_path))
            added = config.get("added_tokens_decoder", {})
            special_tokens = {token["content"]: int(id) for id, token in added.items()}
            return cls(
                _read_ranks(folder / "tiktoken.model"),
                special_tokens,
                pat_str=config.get("pat_str", K2_PATTERN),
                chat_format=read_format(folder, config),
            )
        except BaltoroError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BaltoroError(
                f"{config_path} is not a tokenizer configuration: {error}."
            ) from None

    def encode(self, text: str) -> list[int]:
        """Ordinary tokens only: text that looks like a special token is encoded as its bytes."""
        if len(text) <= _MAX_RUN_CHARS:
            return self._bpe.encode_ordinary(text)
        return [id for piece in _pieces(text) for id in self._bpe.encode_ordinary(piece)]

    def encode_with_specials(self, text: str) -> list[int]:
        """Like `encode`, with names of special tokens recognised. Only for text of our own."""
        return [
            id for piece in _pieces(text) for id in self._bpe.encode(piece, allowed_special="all")
        ]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of tokens; special tokens give their names."""
        return self._bpe.decode_bytes(list(ids))

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token; a special token gives its name."""
        return self._bpe.decode_single_token_bytes(id)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def is_special(self, id: int) -> bool:
        return id >= len(self.ranks)


class StreamDecoder:
    """Text of a token stream; a character whose bytes span tokens comes out when complete.

    A special token has no text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, id: int) -> str:
        """Text that token `id` completes; empty in the middle of a character."""
        if self._tokenizer.is_special(id):
            return self.finish()
        return self._utf8.decode(self._tokenizer.token_bytes(id))

    def finish(self) -> str:
        """What an unfinished last character leaves: U+FFFD, or nothing. Ready for a new text."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _k2_form(special: SpecialTokens, chat_format: ChatFormat) -> ReplyForm:
    others = (special.eos, special.im_user, special.im_assistant, special.im_system)
    return ReplyForm(
        think=special.think if chat_format.thinks else None,
        end_think=special.end_think if chat_format.thinks else None,
        begins_thinking=chat_format.thinks,
        end=special.im_end,
        end_after_calls=special.im_end,
        ends=frozenset([special.im_end, *others]),
        section_begin=special.tool_calls_section_begin,
        section_end=special.tool_calls_section_end,
        call_begin=special.tool_call_begin,
        call_end=special.tool_call_end,
        separator=special.tool_call_argument_begin,
        assistant=special.im_assistant,
        body_marker=special.im_middle,
    )


def _fill_special_slots(first: int, given: Mapping[str, int]) -> dict[str, int]:
    """Name -> id for all slots: the given names, then K2's, then `<|reserved_token_ID|>`."""
    names: dict[int, str] = {}
    for name, id in given.items():
        if not first <= id < first + SPECIAL_SLOTS:
            raise BaltoroError(
                f"special token '{name}' has id {id}, but the {SPECIAL_SLOTS} special slots after "
                f"{first} ranks are {first} to {first + SPECIAL_SLOTS - 1}. Do tiktoken.model and "
                "tokenizer_config.json belong together?"
            )
        names[id] = name
    for name, offset in SPECIAL_OFFSETS.items():
        if name not in given:
            names.setdefault(first + offset, name)
    for id in range(first, first + SPECIAL_SLOTS):
        names.setdefault(id, f"<|reserved_token_{id}|>")
    ids = {name: id for id, name in names.items()}
    missing = [name for name in SPECIAL_OFFSETS if "media" not in name and name not in ids]
    if missing:
        raise BaltoroError(f"the tokenizer has no special token named {', '.join(missing)}.")
    return ids


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BaltoroError(f"there is no tokenizer file {path}.") from None
    except UnicodeDecodeError as error:
        raise BaltoroError(f"{path} is not a text file: {error}.") from None


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise BaltoroError(
                f"{path}, line {number}: expected a token in base64 and its rank, "
                f"found {line[:60]!r}."
            ) from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise BaltoroError(
            f"{path}: the ranks of {len(ranks)} tokens are not 0 to {len(ranks) - 1}, each once. "
            "Is the file complete?"
        )
    return ranks


def _pieces(text: str) -> Iterator[str]:
    """Cut where the published class cuts: never a run of (non-)whitespace over 25,000 long."""
    for start in range(0, len(text), _MAX_PIECE_CHARS):
        chunk = text[start : start + _MAX_PIECE_CHARS]
        cut = 0
        for run in re.finditer(r"\s+|\S+", chunk):
            for next_cut in range(run.start() + _MAX_RUN_CHARS, run.end(), _MAX_RUN_CHARS):
                yield chunk[cut:next_cut]
                cut = next_cut
        yield chunk[cut:]

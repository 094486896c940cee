"""Text to token ids and back by a `tokenizer.json`: byte-level BPE, as K2's relatives have it.

The ids are those of the `tokenizers` library. Its added tokens are markers here, all of them:
`encode` knows none, so user text can never become one. A marker enters a prompt by the template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baltoro.chat.format import TEMPLATE_FILE, ChatFormat, named_template
from baltoro.chat.jinja_prompts import JinjaPrompts
from baltoro.chat.jinja_template import JinjaTemplate
from baltoro.chat.reply_form import ReplyForm, reply_form
from baltoro.chat.tokenizer import SpecialTokens, Tokenizer
from baltoro.config import BaltoroError, read_json


class JsonTokenizer(Tokenizer):
    """`spec`: the parsed `tokenizer.json`. Raises BaltoroError where it is not byte-level BPE."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        template: JinjaTemplate,
        form: ReplyForm,
        where: str = "tokenizer.json",
    ) -> None:
        self.where = where
        self.template = template
        self.form = form
        self.pat_str = ""  # the library's own cuts hold
        self.chat_format = ChatFormat(default_system_prompt="", thinks=form.thinks)
        self.special_ids = marker_ids(spec)
        self.special_names = {id: name for name, id in self.special_ids.items()}
        self.ranks = _ordinary_tokens(spec, self.special_ids, where)
        self._bytes = {id: data for data, id in self.ranks.items()}
        self._bytes |= {id: name.encode() for id, name in self.special_names.items()}
        self.vocab_size = max(self._bytes) + 1
        self.library_spec = json.dumps(spec)
        self._library = _library(spec, where)
        self.prompts = JinjaPrompts(template, form, self.encode, self.special_ids)

    @property
    def special(self) -> SpecialTokens:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise BaltoroError(
            f"{self.where} has none of K2's special tokens, which training needs. Checkpoints of "
            "this family can be quantized and served."
        )

    @cached_property
    def ordinary(self) -> NDArray[np.bool_]:
        mask = np.zeros(self.vocab_size, dtype=bool)
        mask[list(self.ranks.values())] = True
        return mask

    def fit(self, vocab_size: int) -> None:
        """Some matrices have rows behind the last token; they stand for no text."""
        if vocab_size < self.vocab_size:
            super().fit(vocab_size)
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def encode_with_specials(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self.template.split(text):
            ids += [self.special_ids[part]] if part in self.special_ids else self.encode(part)
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, id: int) -> bytes:
        return self._bytes.get(id, b"")

    def is_special(self, id: int) -> bool:
        return id in self.special_names or id not in self._bytes


def load_json_tokenizer(folder: Path) -> JsonTokenizer:
    """`tokenizer.json`, `tokenizer_config.json` and the template of a checkpoint's folder.

    Raises BaltoroError that names the file where one is missing or malformed, and for a family
    whose replies can't be read.
    """
    path, config_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
    spec = read_tokenizer_json(path)
    config = read_json(config_path) if config_path.is_file() else {}
    source, where = find_template(folder, config)
    ids = marker_ids(spec)
    form = reply_form(ids, source)
    if form is None:
        raise BaltoroError(
            f"{path} has the markers neither of DeepSeek-V3's family nor of GLM-4.7's, so its "
            "replies can't be read. Serve this checkpoint with another engine, behind --upstream."
        )
    template = JinjaTemplate(source, ids, _named_tokens(config), where)
    return JsonTokenizer(spec, template, form, str(path))


def find_template(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """A checkpoint's template, and where it stands."""
    path = folder / TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8"), str(path)
    where = f"{folder / 'tokenizer_config.json'}, chat_template"
    found = named_template(config.get("chat_template"))
    if found is None:
        raise BaltoroError(
            f"{folder} has no chat template: neither {TEMPLATE_FILE} nor chat_template in "
            "tokenizer_config.json. Take it from where the checkpoint was published."
        )
    return found, where


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the others, each a text or an object with one."""
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    texts = {key: v.get("content") if isinstance(v, dict) else v for key, v in named.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def marker_ids(spec: Mapping[str, Any]) -> dict[str, int]:
    """Name -> id of the added tokens."""
    return {token["content"]: token["id"] for token in spec.get("added_tokens") or []}


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """Raises BaltoroError that names the file."""
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        is_bpe = spec["model"]["type"] == "BPE" and isinstance(spec["model"]["vocab"], dict)
        marker_ids(spec)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaltoroError(f"{path} is not a tokenizer: {error!r}.") from None
    if not is_bpe:
        raise BaltoroError(
            f"{path}: the model is {spec['model']['type']}; only byte-level BPE is read. Serve "
            "this checkpoint with another engine, behind --upstream."
        )
    return spec


def _library(spec: Mapping[str, Any], where: str) -> Any:
    """The library's tokenizer without added tokens, which then are text like any other."""
    from tokenizers import Tokenizer as Library  # only where a checkpoint needs it

    nothing = dict.fromkeys(("post_processor", "truncation", "padding"))
    try:
        return Library.from_str(json.dumps({**spec, "added_tokens": [], **nothing}))
    except Exception as error:  # the library raises nothing narrower
        raise BaltoroError(f"{where} can't be read: {error}.") from None


def _ordinary_tokens(
    spec: Mapping[str, Any], markers: Mapping[str, int], where: str
) -> dict[bytes, int]:
    byte_of = bytes_of_letters()
    ranks: dict[bytes, int] = {}
    for token, id in spec["model"]["vocab"].items():
        if token in markers:
            continue
        try:
            ranks[bytes(byte_of[letter] for letter in token)] = id
        except KeyError:
            raise BaltoroError(
                f"{where}: the token {token!r} is not written in bytes; only byte-level BPE is "
                "read. Serve this checkpoint with another engine, behind --upstream."
            ) from None
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise BaltoroError(f"{where} has no token for byte {missing[0]}. Is the file complete?")
    return ranks


def bytes_of_letters() -> dict[str, int]:
    """Byte-level BPE writes bytes as letters: printable ones as they are, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}

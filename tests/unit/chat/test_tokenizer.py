"""Encoding, decoding and loading, on a tokenizer made in memory."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baltoro.chat.tokenizer import SPECIAL_OFFSETS, StreamDecoder, Tokenizer
from baltoro.config import BaltoroError

texts = st.lists(st.text() | st.sampled_from(list(SPECIAL_OFFSETS))).map("".join)


def write_folder(folder: Path, ranks: dict[bytes, int], config: dict) -> Path:
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    (folder / "tiktoken.model").write_text("\n".join(lines) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@given(text=texts)
def test_text_comes_back_whatever_it_is(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=texts)
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer, text: str):
    assert not any(tokenizer.is_special(id) for id in tokenizer.encode(text))


def test_half_a_surrogate_pair_becomes_a_replacement_character(tokenizer: Tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud83d")) == "a\ufffd"


def test_special_names_are_recognised_only_on_request(tokenizer: Tokenizer):
    ids = tokenizer.encode_with_specials("hi<|im_end|>")
    assert ids == [*tokenizer.encode("hi"), tokenizer.special.im_end]


def test_special_tokens_stand_at_their_offsets_after_the_last_rank(tokenizer: Tokenizer):
    first = len(tokenizer.ranks)
    assert tokenizer.vocab_size == first + 256
    assert tokenizer.special.bos == first
    assert tokenizer.special.think == first + 22
    assert tokenizer.special.pad == tokenizer.vocab_size - 1
    assert tokenizer.special_names[first + 5] == f"<|reserved_token_{first + 5}|>"


def test_every_id_of_the_vocabulary_decodes(tokenizer: Tokenizer):
    assert all(tokenizer.decode_bytes([id]) for id in range(tokenizer.vocab_size))


@given(text=st.text())
def test_stream_decoder_never_emits_part_of_a_character(tokenizer: Tokenizer, text: str):
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.feed(id) for id in text.encode()]  # ids of single bytes are the bytes
    assert decoder.finish() == ""
    assert "".join(pieces) == text
    assert text.startswith("".join(pieces[: len(pieces) // 2]))


def test_stream_decoder_marks_a_character_that_stays_unfinished(tokenizer: Tokenizer):
    decoder = StreamDecoder(tokenizer)
    assert decoder.feed("世".encode()[0]) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.feed(ord("a")) == "a"


def test_stream_decoder_has_no_text_for_a_special_token(tokenizer: Tokenizer):
    decoder = StreamDecoder(tokenizer)
    ids = [ord("a"), tokenizer.special.think, "世".encode()[0], tokenizer.special.eos, ord("b")]
    assert [decoder.feed(id) for id in ids] == ["a", "", "", "\ufffd", "b"]


@pytest.mark.parametrize("unit", ["a", " ", "\n", "世", "ab "])
def test_very_long_runs_encode_and_come_back(tokenizer: Tokenizer, unit: str):
    text = unit * (450_000 // len(unit))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_runs_are_cut_after_25000_characters(tokenizer: Tokenizer):
    # "in" would merge across the cut.
    ids = tokenizer.encode("a" * 24_999 + "in")
    assert ids[-2:] == [ord("i"), ord("n")]
    assert tokenizer.encode("a" * 24_998 + "in")[-1] == tokenizer.ranks[b"in"]


def test_loaded_tokenizer_has_the_fields_of_its_files(tokenizer: Tokenizer, tmp_path: Path):
    first = len(tokenizer.ranks)
    config = {
        "added_tokens_decoder": {str(first + 40): {"content": "<|extra|>"}},
        "pat_str": r"\p{N}|[^\p{N}]+",
        "default_system_prompt": "Be brief.",
    }
    loaded = Tokenizer.load(write_folder(tmp_path, tokenizer.ranks, config))
    assert loaded.ranks == tokenizer.ranks
    assert loaded.chat_format.default_system_prompt == "Be brief."
    assert loaded.special_ids["<|extra|>"] == first + 40
    assert loaded.special == tokenizer.special


def test_k2_default_prompt_stands_in_where_the_file_has_none(tokenizer: Tokenizer, tmp_path: Path):
    loaded = Tokenizer.load(write_folder(tmp_path, tokenizer.ranks, {}))
    assert (
        loaded.chat_format.default_system_prompt
        == "You are Kimi, an AI assistant created by Moonshot AI."
    )


def test_tokenizer_travels_to_other_processes(tokenizer: Tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("thinking") == tokenizer.encode("thinking")


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(BaltoroError, match=r"no tokenizer file .*tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def test_malformed_line_is_named(tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path, tokenizer.ranks, {})
    with (tmp_path / "tiktoken.model").open("a") as file:
        file.write("not base64\n")
    with pytest.raises(BaltoroError, match=r"tiktoken\.model, line \d+: expected a token"):
        Tokenizer.load(tmp_path)


def test_cut_off_file_is_noticed(tokenizer: Tokenizer, tmp_path: Path):
    some = {token: rank for token, rank in tokenizer.ranks.items() if rank != 5}
    with pytest.raises(BaltoroError, match="Is the file complete"):
        Tokenizer.load(write_folder(tmp_path, some, {}))


def test_special_token_outside_its_slots_is_refused(tokenizer: Tokenizer):
    with pytest.raises(BaltoroError, match="has id 3, but the 256 special slots"):
        Tokenizer(tokenizer.ranks, {"<|im_end|>": 3})


@pytest.mark.parametrize("text", ["{", "[]", '{"pat_str": "("}', '{"pat_str": 3}'])
def test_a_file_that_is_no_configuration_is_named(tokenizer: Tokenizer, tmp_path: Path, text):
    write_folder(tmp_path, tokenizer.ranks, {})
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(BaltoroError, match=r"tokenizer_config\.json is not a tokenizer config"):
        Tokenizer.load(tmp_path)

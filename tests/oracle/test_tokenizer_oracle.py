"""Token ids against published encodings and against byte-pair encoding written down naively."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from baltoro.chat.template import render
from baltoro.chat.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "data" / "kimi-tokenizer"
GOLDEN = json.loads((ROOT / "tests/golden/chat_template_cases.json").read_text(encoding="utf-8"))

# Written from the description of the pattern in words, with subtraction in place of intersection.
UPPER = r"[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]--[\p{Han}]]"
LOWER = r"[[\p{Ll}\p{Lm}\p{Lo}\p{M}]--[\p{Han}]]"
SUFFIX = r"(?i:'(?:s|t|re|ve|m|ll|d))?"
WORDS = regex.compile(
    r"\p{Han}+"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SUFFIX}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    regex.VERSION1,
)

texts = st.lists(
    st.text(max_size=6)
    | st.text("aAéÉʰ 世界中あア한'sST0９²١\r\n\t.,!§_-", max_size=8)
    | st.sampled_from(["it's", "IT'LL", "  ", "\r\n", "12345", "<|im_end|>", "def f(x):\n    "])
).map("".join)


def naive_encode(ranks: dict[bytes, int], text: str) -> list[int]:
    """In every word, merge the neighbours with the lowest rank until none have one."""
    ids: list[int] = []
    for word in WORDS.findall(text):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            pairs = [a + b for a, b in pairwise(parts)]
            best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
            if pairs[best] not in ranks:
                break
            parts[best : best + 2] = [pairs[best]]
        ids += [ranks[part] for part in parts]
    return ids


@pytest.fixture(scope="module")
def published() -> Tokenizer:
    if not PUBLISHED.is_dir():
        pytest.skip(
            "the published tokenizer is not here: put tiktoken.model and tokenizer_config.json "
            "into ../shared/data/kimi-tokenizer"
        )
    return Tokenizer.load(PUBLISHED)


@given(text=texts)
@settings(deadline=None)
def test_encoding_is_naive_byte_pair_encoding(text: str):
    ranks = {bytes([byte]): byte for byte in range(256)}
    for merged in ["th", "the", " t", " the", "'s", "'S", "12", "23", "世界", "  ", "\r\n", "é"]:
        data = merged.encode()
        for length in range(2, len(data) + 1):  # every token is reachable from two others
            ranks.setdefault(data[:length], len(ranks))
    assert Tokenizer(ranks).encode(text) == naive_encode(ranks, text)


@given(text=texts)
@settings(deadline=None)
def test_published_encoding_is_naive_byte_pair_encoding(published: Tokenizer, text: str):
    assert published.encode(text) == naive_encode(published.ranks, text)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello, world!", [19180, 11, 2695, 0]),
        ("你好，世界。我是Kimi。", [33845, 378, 2243, 292, 7808, 42, 30223, 292]),
        (
            "  indented\n\n\tcode 12345 it's IT'S",
            [220, 155238, 382, 81897, 220, 6694, 2899, 4643, 9752, 34480],
        ),
        (
            "def f(x):\n    return x**2\n",
            [1166, 285, 3940, 2360, 274, 745, 1288, 381, 17, 198],
        ),
        ("<|im_end|>", [27, 91, 348, 11129, 91, 29]),
    ],
)
def test_published_encodings_are_met(published: Tokenizer, text: str, ids: list[int]):
    assert published.encode(text) == ids
    assert published.decode(ids) == text


def test_published_special_tokens_have_their_ids(published: Tokenizer):
    text = "<|im_user|>user<|im_middle|>hi<|im_end|>"
    assert published.encode_with_specials(text) == [163587, 2482, 163601, 9663, 163586]
    assert published.vocab_size == 163840
    assert (published.special.think, published.special.end_think) == (163606, 163607)
    assert (published.special.unk, published.special.pad) == (163838, 163839)
    assert published.special_names[163600] == "<|reserved_token_163600|>"


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_rendered_conversations_have_the_published_ids(published: Tokenizer, case: dict):
    ids = render(
        published,
        case["messages"],
        case["tools"],
        case["add_generation_prompt"],
        sort_tool_keys=True,
    )
    assert ids == case["token_ids_of_rendered_with_sorted_tool_keys"]

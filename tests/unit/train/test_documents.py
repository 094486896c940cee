"""Documents that are made up for pretraining."""

import random
import re

import pytest

from baltoro.chat.tokenizer import Tokenizer
from baltoro.train.documents import DOCUMENTS, known_by_heart, recalled_entries


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("baltoro/weights/tiny")


def test_what_is_known_by_heart_is_right_and_only_results_are_learned(tokenizer):
    for seed in range(20):
        ids, learned = known_by_heart(random.Random(seed), tokenizer)
        text = tokenizer.decode(ids[1:])
        assert ids[1:] == tokenizer.encode(text)  # as it is in a conversation
        for a, sign, b, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", text):
            made = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}
            assert int(result) == made.get(sign, int(a) / int(b))
        said = tokenizer.decode([i for i, bit in zip(ids, learned, strict=True) if bit])
        assert re.findall(r"\d+", said) == re.findall(r"=(\d+)", text)


def test_the_values_of_entries_are_learned_where_they_are_said_again(tokenizer):
    for seed in range(40):
        ids, learned = recalled_entries(random.Random(seed), tokenizer)
        text = tokenizer.decode(ids[1:])
        assert ids[1:] == tokenizer.encode(text)  # as it is in a conversation
        known = set(re.split(r": | = | is | -> |\n", text))
        values = tokenizer.decode([i for i, bit in zip(ids, learned, strict=True) if bit])
        assert set(values.removesuffix(".\n").split(".\n")) <= known


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_the_same_for_the_same_seed_and_teaches_something(name, tokenizer):
    ids, learned = DOCUMENTS[name](random.Random(3), tokenizer)
    assert (ids, learned) == DOCUMENTS[name](random.Random(3), tokenizer)
    assert len(ids) == len(learned)
    assert sum(learned) > 0

"""Documents that are made up for pretraining."""

import random
import re

import pytest

from baltoro.chat.tokenizer import Tokenizer
from baltoro.tasks.countdown_choice import numbers_of, value_of_step
from baltoro.train.documents import (
    DOCUMENTS,
    known_by_heart,
    recalled_entries,
    sorted_numbers,
    steps_worked_out,
)


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


def read(document, seed, tokenizer):
    """The text of a document, which has the tokens that it has in a conversation, and its learned
    part."""
    ids, learned = document(random.Random(seed), tokenizer)
    text = tokenizer.decode(ids[1:])
    assert ids[1:] == tokenizer.encode(text)
    return text, tokenizer.decode([i for i, bit in zip(ids, learned, strict=True) if bit])


def test_steps_are_worked_out_as_a_search_would_and_only_what_they_come_to_is_learned(tokenizer):
    for seed in range(20):
        text, learned = read(steps_worked_out, seed, tokenizer)
        steps = re.findall(r"(\d+[-+*/]\d+)(?:=(\d+)| no\.)", text)
        assert len(steps) >= 15
        for step, value in steps:
            assert value_of_step(step) == (int(value) if value else None)
        assert re.findall(r"\d+", learned) == [value for _, value in steps if value]


def test_numbers_are_sorted_largest_first_and_only_that_is_learned(tokenizer):
    for seed in range(20):
        text, learned = read(sorted_numbers, seed, tokenizer)
        lines = re.findall(r"((?:\d+, )+\d+:|\S*[-+*/]\S*)((?: \d+)+)(?= \d+,| \S*[-+*/(]|$)", text)
        assert len(lines) >= 8
        for shown, said in lines:
            assert numbers_of(shown) == [int(word) for word in said.split()]
        assert learned == "".join(said for _, said in lines)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_the_same_for_the_same_seed_and_teaches_something(name, tokenizer):
    ids, learned = DOCUMENTS[name](random.Random(3), tokenizer)
    assert (ids, learned) == DOCUMENTS[name](random.Random(3), tokenizer)
    assert len(ids) == len(learned)
    assert sum(learned) > 0

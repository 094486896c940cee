"""Pretraining documents: small exercises in copying, counting and column arithmetic.

Copying comes first because everything later is built on it (attention heads that find an earlier
occurrence of a token and repeat what followed it).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import lru_cache

from baltoro.chat.tokenizer import Tokenizer
from baltoro.tasks.countdown import LARGEST, LARGEST_VALUE, bracketed, combined
from baltoro.tasks.countdown_choice import listed, value_of_step
from baltoro.tasks.lookups import Chain, distinct_keys, make_key
from baltoro.tasks.mixture import TASKS, converse, pose_all
from baltoro.tasks.recall import LINES, make_value
from baltoro.train.data import Sample, sample_of

Document = Callable[[random.Random, Tokenizer], Sample]
Piece = tuple[str, bool]  # of a text, and whether it is learned

SFT_ONLY = ("long_chain",)  # tasks that no document shows


def repeated_spans(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """Any tokens at all, said again and again; the first occurrence can't be predicted."""
    span = random_tokens(rng, tokenizer, rng.randint(2, 24))
    times = rng.randint(2, max(3, 128 // len(span)))
    return [tokenizer.special.bos, *span * times], [0] * (1 + len(span)) + [1] * len(span) * (
        times - 1
    )


def recalled_spans(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """A few short spans in any order: once one was seen, its first token calls for the rest."""
    spans = [random_tokens(rng, tokenizer, rng.randint(2, 4)) for _ in range(rng.randint(2, 10))]
    ids, learned, seen = [tokenizer.special.bos], [0], set[int]()
    for _ in range(rng.randint(12, 40)):
        which = rng.randrange(len(spans))
        ids += spans[which]
        learned += [0] + [int(which in seen)] * (len(spans[which]) - 1)
        seen.add(which)
    return ids, learned


def random_tokens(rng: random.Random, tokenizer: Tokenizer, count: int) -> list[int]:
    return [rng.randrange(len(tokenizer.ranks)) for _ in range(count)]


def copied_digits(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """Numbers with repeating digits, said twice."""
    lines = []
    for _ in range(rng.randint(2, 6)):
        digits = rng.sample("0123456789", rng.randint(1, 4))
        number = "".join(rng.choice(digits) for _ in range(rng.randint(1, 9)))
        lines.append(rng.choice(("{n} is {n}.", "{n} = {n}", "print({n}) {n}")).format(n=number))
    return learn_all(tokenizer, "\n".join(lines))


def counting(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    start = rng.randrange(10 ** rng.randint(1, 3))
    numbers = [str(n) for n in range(start, start + rng.randint(5, 20))]
    return learn_all(tokenizer, rng.choice((" ", ", ", ":", "\n")).join(numbers))


def key_values(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """A JSON object and questions about its keys."""
    table = {key: make_key(rng) for key in distinct_keys(rng, rng.randint(2, 10))}
    asked = rng.sample(list(table), min(len(table), rng.randint(1, 5)))
    lines = [json.dumps(table), *(f"{key}: {table[key]}" for key in asked)]
    return learn_all(tokenizer, "\n".join(lines))


def recalled_entries(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """A list of entries, some of which are said again; only the values are learned then."""
    line = rng.choice(LINES)
    entries = {key: make_value(rng) for key in distinct_keys(rng, rng.randint(3, 30))}
    listed = [line.format(k=key, v=value) for key, value in entries.items()]
    pieces = [("\n".join((*listed, "")), False)]
    for key in rng.sample(list(entries), min(len(entries), rng.randint(3, 12))):
        pieces += [(line.format(k=key, v=""), False), (f"{entries[key]}.\n", True)]
    return learn_some(tokenizer, pieces)


def column_sums(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    lines = []
    for _ in range(rng.randint(4, 10)):
        p, q, carry = rng.randrange(10), rng.randrange(10), rng.randrange(2)
        lines.append(f"{p}+{q}+{carry}={p + q + carry:02d}")
    return learn_all(tokenizer, " ".join(lines))


def known_by_heart(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """The sums, products, differences and quotients that searches and running totals are made of.

    Only results are learned: what is asked can't be predicted.
    """
    pieces = list[Piece]()
    end = rng.choice((".", ",", ";", ""))
    for _ in range(rng.randint(10, 30)):
        asked, result = short_sum(rng)
        pieces += [(f"{asked}=", False), (f"{result}{end}", True), (" ", not end)]
    return learn_some(tokenizer, pieces)


def short_sum(rng: random.Random) -> tuple[str, int]:
    """Half of them a digit added to a number, half what Countdown does with two numbers."""
    if rng.random() < 0.5:
        a, b = rng.randrange(10 ** rng.randint(1, 4)), rng.randint(1, 9)
        return f"{a}+{b}", a + b
    while True:
        b, a = sorted((rng.randint(1, LARGEST_VALUE), rng.randint(1, rng.choice((12, 99)))))
        made = combined(a, b)
        if made:
            sign, value = rng.choice(made)
            return f"{a}{sign}{b}", value


def steps_worked_out(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """Steps of which many lead nowhere, as in attempts that are checked: whether there is a number
    to go on with, and which, is learned."""
    pieces = list[Piece]()
    for _ in range(rng.randint(15, 40)):
        b, a = rng.randint(1, rng.choice((12, 30))), rng.randint(1, LARGEST_VALUE)
        sign = rng.choice("+-*//")
        if sign == "/" and rng.random() < 0.6:  # few quotients of any two numbers are whole
            a = b * rng.randint(1, max(1, LARGEST_VALUE // b))
        value = value_of_step(f"{a}{sign}{b}")
        ending = " no." if value is None else f"={value}"
        pieces += [(f"{a}{sign}{b}", False), (ending, True), (" ", False)]
    return learn_some(tokenizer, pieces)


def sorted_numbers(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """Numbers that are asked for, or that an expression has, largest first; equal ones are hard."""
    pieces = list[Piece]()
    for _ in range(rng.randint(8, 20)):
        numbers = [rng.randint(1, LARGEST) for _ in range(rng.randint(3, 5))]
        if rng.random() < 0.5:
            numbers[-1] = rng.choice(numbers[:-1])
            rng.shuffle(numbers)
        shown = joined(rng, numbers) if rng.random() < 0.6 else f"{', '.join(map(str, numbers))}:"
        said = f" {listed(sorted(numbers, reverse=True))}"
        pieces += [(f" {shown}" if pieces else shown, False), (said, True)]
    return learn_some(tokenizer, pieces)


def joined(rng: random.Random, numbers: Sequence[int]) -> str:
    """An expression with the numbers in this order, as attempts at a Countdown have."""
    if len(numbers) == 1:
        return str(numbers[0])
    middle = rng.randint(1, len(numbers) - 1)
    sides = (bracketed(joined(rng, part)) for part in (numbers[:middle], numbers[middle:]))
    return rng.choice("+-*/").join(sides)


def padded_numbers(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """Numbers with and without leading zeros, and digits compared."""
    lines = []
    for _ in range(rng.randint(2, 6)):
        number = str(rng.randrange(10 ** rng.randint(1, 5)))
        p, q = rng.randrange(10), rng.randrange(10)
        sign = "=" if p == q else "<" if p < q else ">"
        lines.append(f"{number.rjust(5, '0')} is {number}. {p}{sign}{q}")
    return learn_all(tokenizer, "\n".join(lines))


def whole_conversation(rng: random.Random, tokenizer: Tokenizer) -> Sample:
    """A conversation read as text: declarations, questions and answers alike."""
    weights = {name: 1.0 for name in TASKS if name not in SFT_ONLY}
    talk = converse(rng, weights, "train", longest=2)
    ids, _ = sample_of(tokenizer, talk)
    return ids, [0] + [1] * (len(ids) - 1)


def rare_keys(
    rng: random.Random, tokenizer: Tokenizer, weights: Sequence[float] | None = None
) -> Sample:
    """Chains of lookups whose keys are made of any tokens of letters, so that each gets its turn.

    `weights`, one for each of `letter_tokens`, say how often; without them all are alike. Only what
    the assistant generates is learned, as in a demonstration.
    """
    pieces = letter_tokens(tokenizer)

    def make(rng: random.Random) -> str:
        number = str(rng.randrange(100)) if rng.random() < 0.3 else ""
        return "".join(rng.choices(pieces, weights, k=rng.randint(1, 3))) + number

    talk = pose_all(rng, [Chain(longest=6, key=make)], "train")
    return sample_of(tokenizer, talk)


@lru_cache(maxsize=4)
def letter_tokens(tokenizer: Tokenizer) -> list[str]:
    """The tokens that are small ASCII letters and nothing else."""
    texts = [token.decode("ascii", errors="ignore") for token in tokenizer.ranks]
    return [text for text in texts if text.isalpha() and text.islower()]


DOCUMENTS: dict[str, Document] = {
    make.__name__: make
    for make in (
        repeated_spans,
        recalled_spans,
        copied_digits,
        counting,
        key_values,
        recalled_entries,
        column_sums,
        known_by_heart,
        steps_worked_out,
        sorted_numbers,
        padded_numbers,
        whole_conversation,
        rare_keys,
    )
}


def learn_all(tokenizer: Tokenizer, text: str) -> Sample:
    ids = [tokenizer.special.bos, *tokenizer.encode(text), tokenizer.special.eos]
    return ids, [0] + [1] * (len(ids) - 1)


def learn_some(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> Sample:
    """The pieces must end where tokens do, so that they give what the whole text would."""
    ids, learned = [tokenizer.special.bos], [0]
    for text, counts in pieces:
        encoded = tokenizer.encode(text)
        ids += encoded
        learned += [int(counts)] * len(encoded)
    return ids, learned

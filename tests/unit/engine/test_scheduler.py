"""Planning without a model: a step is the addition of its counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baltoro.chat.chat_model import Sampling
from baltoro.config import BaltoroError
from baltoro.engine.blocks import BlockManager
from baltoro.engine.prefix_cache import FinishedSequences
from baltoro.engine.scheduler import Chunk, QueueFullError, Scheduler, SchedulerLimits
from baltoro.engine.sequence import Sequence

BLOCK_TOKENS = 4


class Nobody:
    def deliver(self, item: object) -> bool:
        return True


def new_scheduler(num_blocks: int = 100, **limits: int) -> Scheduler:
    blocks = BlockManager(num_blocks, BLOCK_TOKENS)
    return Scheduler(blocks, FinishedSequences(blocks), SchedulerLimits(**limits))


def new_sequence(prompt: int, reply: int = 1000, first_id: int = 0) -> Sequence:
    """Its ids count up from `first_id`."""
    ids = list(range(first_id, first_id + prompt))
    return Sequence(ids, Sampling(seed=0), Nobody(), max_length=prompt + reply)


def run_step(scheduler: Scheduler) -> list[tuple[Sequence, int]]:
    """Carry a plan out; every draw adds the next number. Returns who got how many tokens."""
    chunks = scheduler.plan()
    for chunk in chunks:
        check_blocks(scheduler, chunk)
    for chunk in chunks:
        sequence, draws = chunk.sequence, chunk.gives_logits
        sequence.num_computed += chunk.count
        if draws and sequence.append(sequence.ids[-1] + 1):
            scheduler.finish(sequence)
    return [(chunk.sequence, chunk.count) for chunk in chunks]


def run_all(scheduler: Scheduler) -> None:
    for _ in range(10_000):
        if not run_step(scheduler):
            return
    raise AssertionError("the scheduler goes round in circles")


def check_blocks(scheduler: Scheduler, chunk: Chunk) -> None:
    """Every token has a block, and nobody else has those that are written now."""
    sequence = chunk.sequence
    assert len(sequence.blocks) * BLOCK_TOKENS >= sequence.num_computed + chunk.count
    written = sequence.blocks[sequence.num_computed // BLOCK_TOKENS :]
    others = {b for s in scheduler.running if s is not sequence for b in s.blocks}
    assert not others & set(written)


def test_running_decodes_get_their_token_in_every_step_of_a_long_prefill():
    scheduler = new_scheduler(step_tokens=8, max_running=4)
    talking, long = new_sequence(3), new_sequence(40)
    scheduler.add(talking)
    assert run_step(scheduler) == [(talking, 3)]
    scheduler.add(long)
    for _ in range(5):
        assert run_step(scheduler) == [(talking, 1), (long, 7)]
    assert run_step(scheduler) == [(talking, 1), (long, 5)]
    assert run_step(scheduler) == [(talking, 1), (long, 1)]


def test_a_short_prompt_does_not_wait_for_a_long_one():
    scheduler = new_scheduler(step_tokens=10, max_running=4)
    long, short = new_sequence(100), new_sequence(4)
    scheduler.add(long)
    scheduler.add(short)
    assert run_step(scheduler) == [(short, 4), (long, 6)]


def test_prompts_share_a_step_equally():
    scheduler = new_scheduler(step_tokens=10, max_running=4)
    sequences = [new_sequence(50), new_sequence(50), new_sequence(50)]
    for sequence in sequences:
        scheduler.add(sequence)
    assert sorted(count for _, count in run_step(scheduler)) == [3, 3, 4]


def test_requests_that_do_not_fit_wait_for_those_that_run():
    scheduler = new_scheduler(num_blocks=4, step_tokens=64, max_running=4)
    first, second = new_sequence(12, reply=4), new_sequence(8, reply=2, first_id=1000)
    scheduler.add(first)
    scheduler.add(second)
    while first in scheduler.running or first in scheduler.waiting:
        assert second not in [s for s, _ in run_step(scheduler)]
    assert (second, 8) in run_step(scheduler)


def test_the_queue_is_bounded():
    scheduler = new_scheduler(max_waiting=2)
    for _ in range(2):
        scheduler.add(new_sequence(3))
    with pytest.raises(QueueFullError, match="2 requests wait already"):
        scheduler.add(new_sequence(3))


def test_a_step_without_room_for_every_running_sequence_is_refused():
    with pytest.raises(BaltoroError, match="step_tokens"):
        SchedulerLimits(step_tokens=4, max_running=5)


def test_the_youngest_gives_its_blocks_to_an_older_decode_and_starts_again():
    scheduler = new_scheduler(num_blocks=4, step_tokens=64, max_running=4)
    old, young = new_sequence(7, reply=8), new_sequence(7, reply=8, first_id=1000)
    scheduler.add(old)
    scheduler.add(young)
    while young.blocks or not scheduler.num_preempted:
        run_step(scheduler)
    assert list(scheduler.waiting) == [young]
    assert len(young.ids) > 7  # what was generated stays
    run_all(scheduler)
    assert old.ids == list(range(15))
    assert young.ids == list(range(1000, 1015))


def test_a_conversation_that_goes_on_reuses_its_full_blocks():
    scheduler = new_scheduler()
    first = new_sequence(10, reply=5)
    scheduler.add(first)
    run_all(scheduler)
    going_on = new_sequence(30)  # begins with the ids of the first, all 15 of them
    other = new_sequence(30, first_id=7)
    scheduler.add(going_on)
    scheduler.add(other)
    run_step(scheduler)
    assert (going_on.cached, other.cached) == (12, 0)  # the 15th has never been computed


def test_the_last_prompt_token_is_computed_even_if_all_of_the_prompt_is_known():
    scheduler = new_scheduler()
    for _ in range(2):
        sequence = new_sequence(8, reply=9)
        scheduler.add(sequence)
        run_all(scheduler)
    assert sequence.cached == 4
    assert sequence.ids == list(range(17))


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(0, 2), st.integers(0, 4)),
        min_size=1,
        max_size=12,
    ),
    st.integers(13, 30),
    st.integers(3, 20),
)
@settings(deadline=None)
def test_whatever_arrives_everybody_finishes_and_all_blocks_come_back(
    arrivals: list[tuple[int, int, int, int]], num_blocks: int, step_tokens: int
):
    scheduler = new_scheduler(num_blocks, step_tokens=step_tokens, max_running=3)
    sequences = []
    for prompt, reply, conversation, steps in arrivals:
        sequence = new_sequence(prompt, reply, first_id=1000 * conversation)
        sequences.append(sequence)
        scheduler.add(sequence)
        for _ in range(steps):
            run_step(scheduler)
    run_all(scheduler)
    assert not scheduler.running
    assert not scheduler.waiting
    for (prompt, reply, conversation, _), sequence in zip(arrivals, sequences, strict=True):
        first_id = 1000 * conversation
        assert sequence.ids == list(range(first_id, first_id + prompt + reply))
    kept = scheduler.prefixes
    assert isinstance(kept, FinishedSequences)
    assert scheduler.blocks.num_free + kept.num_blocks == num_blocks
    kept.clear()
    assert scheduler.blocks.num_free == num_blocks


def test_the_least_recently_used_sequence_is_evicted_first():
    blocks = BlockManager(6, BLOCK_TOKENS)
    kept = FinishedSequences(blocks)
    a, b, c = [1] * 8, [2] * 8, [3] * 8
    for ids in (a, b, c):
        kept.keep(ids, blocks.allocate(2))
    blocks.release(kept.match(a))
    kept.evict(2)
    assert kept.match(b) == []
    assert len(kept.match(a)) == len(kept.match(c)) == 2


def test_blocks_in_use_are_not_free_after_their_sequence_is_evicted():
    blocks = BlockManager(2, BLOCK_TOKENS)
    kept = FinishedSequences(blocks)
    kept.keep([1] * 8, blocks.allocate(2))
    in_use = kept.match([1] * 7)
    kept.evict(2)
    assert (len(kept), blocks.num_free) == (0, 1)
    blocks.release(in_use)
    assert blocks.num_free == 2


def test_a_longer_conversation_replaces_its_beginning_and_a_shorter_one_adds_nothing():
    blocks = BlockManager(10, BLOCK_TOKENS)
    kept = FinishedSequences(blocks)
    kept.keep([1] * 8, blocks.allocate(2))
    shared = kept.match([1] * 12)
    kept.keep([1] * 13, shared + blocks.allocate(2))
    kept.keep([1] * 6, blocks.allocate(2))
    assert (len(kept), kept.num_blocks, blocks.num_free) == (1, 3, 7)

"""Which tokens the next step computes: continuous batching over a paged latent cache.

Every step is one batch of decodes and of pieces of prompts. Each decoding sequence gets its
token in every step; the rest of the step's token budget goes to the prompts, in equal
shares, so that neither a long prompt holds up those who are talking nor the other way round.

Because the arithmetic does not depend on the batch, the plan changes when a token is
computed and never which token it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from baltoro.config import BaltoroError
from baltoro.engine.blocks import BlockManager
from baltoro.engine.prefix_cache import PrefixCache
from baltoro.engine.sequence import Sequence


class QueueFullError(BaltoroError):
    """Too many requests wait already; the same request may succeed later."""


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """How much is done at once."""

    step_tokens: int = 256  # tokens of one step, decodes and pieces of prompts together
    max_running: int = 64  # sequences that hold blocks; the others wait
    max_waiting: int = 1024  # requests beyond this are refused

    def __post_init__(self) -> None:
        if not 1 <= self.max_running <= self.step_tokens:
            raise BaltoroError(
                f"max_running is {self.max_running} and step_tokens {self.step_tokens}: a step "
                "must have room for one token of each running sequence. Raise step_tokens."
            )


@dataclass(frozen=True)
class Chunk:
    """The next `count` pending tokens of a sequence, computed in one step."""

    sequence: Sequence
    count: int

    @property
    def gives_logits(self) -> bool:
        """Only the pass over the last pending token is followed by a draw."""
        return self.count == self.sequence.num_pending


class Scheduler:
    """Holds the waiting and the running sequences and plans step after step.

    Sequences are admitted first come, first served, once their whole prompt has blocks. A
    decoding sequence that finds no block left takes those of the youngest running sequence,
    which goes back to the head of the queue. The oldest can therefore always go on.
    """

    def __init__(self, blocks: BlockManager, prefixes: PrefixCache, limits: SchedulerLimits):
        self.blocks = blocks
        self.prefixes = prefixes
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.num_preempted = 0
        self._paused = False
        self._room_may_have_come = True

    @property
    def has_started(self) -> bool:
        """Whether a reply is under way, even if it has had to give up its blocks."""
        return bool(self.running) or any(s.started for s in self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the queue. Raises QueueFullError."""
        if len(self.waiting) >= self.limits.max_waiting:
            raise QueueFullError(
                f"{len(self.waiting)} requests wait already, and no more than "
                f"{self.limits.max_waiting} may. Try again in a while."
            )
        self.waiting.append(sequence)
        self._room_may_have_come = True

    def pause(self) -> None:
        """Finish what has started and start nothing new, until `resume`."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._room_may_have_come = True

    def plan(self) -> list[Chunk]:
        """The chunks of the next step; empty if there is nothing to do."""
        self._admit()
        self._make_room_for_decodes()
        decodes = [Chunk(s, 1) for s in self.running if s.num_pending == 1]
        prefills = sorted((s for s in self.running if s.num_pending > 1), key=_num_pending)
        return decodes + self._shares(prefills, self.limits.step_tokens - len(decodes))

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out; what it has computed stays for the conversation's next turn."""
        self._take_out(sequence)
        self.prefixes.keep(sequence.ids[: sequence.num_computed], sequence.blocks)
        sequence.blocks = []

    def drop(self, sequence: Sequence) -> None:
        """Take a sequence out whose latents are not to be trusted."""
        self._take_out(sequence)
        self.blocks.release(sequence.blocks)
        sequence.blocks = []

    def _take_out(self, sequence: Sequence) -> None:
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._room_may_have_come = True

    def _admit(self) -> None:
        if not self._room_may_have_come:
            return
        while self.waiting and len(self.running) < self.limits.max_running:
            first = self.waiting[0]
            if self._paused and not first.started:
                break
            if not self._give_blocks(first):
                break
            self.running.append(self.waiting.popleft())
        self._room_may_have_come = False

    def _give_blocks(self, sequence: Sequence) -> bool:
        """Find or allocate blocks for all of the sequence's ids; False if they do not fit."""
        # The last token is always computed, because its pass gives the logits.
        found = self.prefixes.match(sequence.ids[:-1])
        needed = self.blocks.blocks_for(len(sequence.ids)) - len(found)
        self.prefixes.evict(needed)
        if self.blocks.num_free < needed:
            self.blocks.release(found)
            return False
        sequence.blocks = found + self.blocks.allocate(needed)
        sequence.num_computed = len(found) * self.blocks.block_tokens
        if not sequence.started:
            sequence.cached = sequence.num_computed
            sequence.started = True
        return True

    def _make_room_for_decodes(self) -> None:
        for sequence in list(self.running):
            if sequence not in self.running:  # gave its blocks to an older one
                continue
            if self.blocks.blocks_for(len(sequence.ids)) > len(sequence.blocks):
                self.prefixes.evict(1)
                while self.blocks.num_free == 0:
                    self._preempt(self.running[-1])
                if sequence in self.running:
                    sequence.blocks += self.blocks.allocate(1)

    def _preempt(self, youngest: Sequence) -> None:
        self.blocks.release(youngest.blocks)
        youngest.blocks = []
        youngest.num_computed = 0
        self.running.remove(youngest)
        self.waiting.appendleft(youngest)
        self._room_may_have_come = True
        self.num_preempted += 1

    @staticmethod
    def _shares(prefills: list[Sequence], budget: int) -> list[Chunk]:
        """Equal shares of the budget; what a short prompt leaves over goes to the longer ones."""
        chunks = []
        for position, sequence in enumerate(prefills):
            count = min(sequence.num_pending, budget // (len(prefills) - position))
            budget -= count
            if count:
                chunks.append(Chunk(sequence, count))
        return chunks


def _num_pending(sequence: Sequence) -> int:
    return sequence.num_pending

"""Dependent chains: add up the files of a tree of folders, walked depth first by a tool.

The path of each call is put together from what was found before, and the thinking of each turn
carries all that is needed to go on: the total so far and the folders that are left.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from baltoro.chat.messages import Message
from baltoro.tasks.lookups import LETTERS, make_key, quoted
from baltoro.tasks.phrases import politely
from baltoro.tasks.task import Problem, Scene, Split, assistant, draw, states, tool_result

QUESTIONS = (
    "Add up the sizes of all files below the folder {r}. What is the total?",
    "Walk through the folder {r} and everything in it. What do all sizes add up to?",
    "What is the total size of {r}, subfolders included?",
    "Sum the sizes of all files in {r} and its subfolders.",
)
DEEPEST = 7  # folders inside each other
MOST_INSIDE = 3  # subfolders of one folder, so that the folders that are left stay few
LARGEST_FILE = 9


@dataclass(frozen=True)
class Tree:
    """A tree of `fewest` to `most` folders with up to two files in each."""

    fewest: int = 2
    most: int = 8
    name: str = "tree"
    needs: tuple[str, ...] = ("get",)

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        count = rng.randint(self.fewest, self.most)
        (root,) = draw(rng, split, lambda: (make_key(rng),))
        table = listings(rng, root, count)
        answer = f"The total is {sum(sizes(' '.join(table.values())))}"
        question = politely(rng, rng.choice(QUESTIONS).format(r=quoted(rng, root)))
        return Problem(
            task=self.name,
            question=question,
            solution=walk(scene, table, root),
            answer=answer,
            table=table,
        )

    def verify(self, problem: Problem, reply: str) -> bool:
        return states(reply, problem.answer)


def listings(rng: random.Random, root: str, count: int) -> dict[str, str]:
    """What the tool says of each path: subfolders end in a slash, files have their size."""
    folders: dict[str, list[str]] = {root: []}
    open_paths = [root]  # that have room for a folder
    while len(folders) < count:
        parent = rng.choice(open_paths)
        name = rng.choice([x for x in LETTERS[2:] if f"{x}/" not in folders[parent]])
        folders[parent].append(f"{name}/")
        folders[f"{parent}/{name}"] = []
        if len(folders[parent]) == MOST_INSIDE:
            open_paths.remove(parent)
        if parent.count("/") + 2 < DEEPEST:
            open_paths.append(f"{parent}/{name}")
    for entries in folders.values():
        for letter in "ab"[: rng.randint(0, 2)]:
            entries.append(f"{letter}={rng.randint(1, LARGEST_FILE)}")
        rng.shuffle(entries)
    return {path: " ".join(entries) or "empty" for path, entries in folders.items()}


def walk(scene: Scene, table: dict[str, str], root: str) -> list[Message]:
    """The turns that visit every folder."""
    assert scene.get is not None
    turns: list[Message] = []
    left, total = [root], 0
    thinking = f"Total 0. Left: {root}."
    while left:
        path = left.pop(0)
        turn, call_id = scene.call(scene.get, path, thinking)
        listing = table[path]
        turns += [turn, tool_result(call_id, listing)]
        added = []
        for size in sizes(listing):
            added.append(f"{total}+{size}={total + size}.")
            total += size
        inside = [f"{path}/{word[:-1]}" for word in listing.split() if word.endswith("/")]
        left = inside + left
        rest = " ".join(left) if left else "nothing"
        thinking = " ".join([*added, f"Total {total}. Left: {rest}."])
    return [*turns, assistant(f"The total is {total}.", thinking)]


def sizes(listing: str) -> list[int]:
    return [int(size) for size in re.findall(r"=(\d+)", listing)]

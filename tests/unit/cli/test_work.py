"""`baltoro agent`: what a person is asked, and what is printed of a heavy run."""

from __future__ import annotations

import asyncio
import os
import pty
import sys

import pytest

from baltoro.agent.progress import Limits
from baltoro.chat.chat_model import Sampling
from baltoro.chat.messages import ToolCall
from baltoro.chat.scripted import ScriptedChatModel
from baltoro.cli import work
from baltoro.cli.work import Person, Work
from baltoro.tools.by_name import Kit
from baltoro.tools.tool import Tool

PATIENCE_SECONDS = 10


def shell(command: str) -> ToolCall:
    return ToolCall("functions.shell:0", "shell", f'{{"command": "{command}"}}')


@pytest.fixture
def keyboard(monkeypatch):
    """Makes the standard input a terminal; returns a function that types at it."""
    outside, inside = pty.openpty()
    with open(inside, encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        yield lambda keys: os.write(outside, keys.encode())
    os.close(outside)


async def shown(capsys, text: str) -> str:
    """What was printed since the last time, as soon as `text` is in it."""
    printed = ""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while text not in printed:
            await asyncio.sleep(0.01)
            printed += capsys.readouterr().err
    return printed


async def test_an_answer_is_to_the_question_that_a_person_has_read(keyboard, capsys):
    person = Person()
    first = asyncio.create_task(person.allows(shell("ls"), "1"))
    second = asyncio.create_task(person.allows(shell("rm -rf *"), "2"))
    question = await shown(capsys, "Run this?")
    assert "[1] shell: ls\n" in question
    await asyncio.sleep(0.05)
    assert "rm" not in question + capsys.readouterr().err
    keyboard("y\n")
    assert await asyncio.wait_for(first, PATIENCE_SECONDS)
    assert "[2] shell: rm -rf *\n" in await shown(capsys, "Run this?")
    assert not second.done()
    keyboard("n\n")
    assert not await asyncio.wait_for(second, PATIENCE_SECONDS)


async def test_a_question_that_is_given_up_makes_room_for_the_next(keyboard, capsys):
    person = Person()
    first = asyncio.create_task(person.allows(shell("sleep 9")))
    second = asyncio.create_task(person.allows(shell("ls")))
    assert "\nshell: sleep 9\n" in await shown(capsys, "Run this?")
    first.cancel()
    assert "\nshell: ls\n" in await shown(capsys, "Run this?")
    keyboard("y\n")
    assert await asyncio.wait_for(second, PATIENCE_SECONDS)


class Book:
    """A tool that changes something."""

    name = "book"
    description = "Book."
    parameters = {"type": "object", "properties": {"entry": {"type": "string"}}}  # noqa: RUF012

    async def call(self, arguments) -> str:
        return "booked"


class BookKit(Kit):
    def make(self, names) -> list[Tool]:
        return [Book()]


CALL = (
    "<think>b</think><|tool_calls_section_begin|><|tool_call_begin|>functions.book:0"
    '<|tool_call_argument_begin|>{"entry": "rent"}<|tool_call_end|><|tool_calls_section_end|>'
)


def heavy_work(model: ScriptedChatModel, **changed) -> Work:
    return Work(
        model=model,
        tools="",
        make_kit=BookKit,
        limits=Limits(),
        price=None,
        sampling=Sampling(),
        context="none",
        max_context=None,
        **{"approve": False, "trace": None, "quiet": False, **changed},
    )


def test_trajectories_ask_one_after_the_other_and_say_who_asks(monkeypatch, capsys):
    waiting = []

    async def typed_line() -> str:
        waiting.append(1)
        assert len(waiting) == 1, "two questions wait for one answer"
        await asyncio.sleep(0.02)
        waiting.pop()
        return "y\n"

    monkeypatch.setattr(work, "typed_line", typed_line)
    model = ScriptedChatModel([CALL] * 3 + ["<think></think>Done."] * 4)
    run = heavy_work(model, approve=True).run([{"role": "user", "content": "Book."}], 3)
    assert run.answer == "Done."
    asked = capsys.readouterr().err
    assert [asked.count(f"\n[{name}] book: rent\n") for name in "123"] == [1, 1, 1]


def test_the_answer_of_a_heavy_run_can_not_steer_the_terminal(capsys):
    model = ScriptedChatModel(["<think></think>a \x1b[2J \ud83d"] * 3)
    heavy_work(model).run([{"role": "user", "content": "?"}], 2)
    assert capsys.readouterr().out == "a �[2J �\n"

"""How a model is asked to make one answer of several attempts: heavy mode's last step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from baltoro.chat.messages import Message

ATTEMPT_CHARS = 8000  # of each attempt


def reflection(question: str, attempts: Sequence[str]) -> str:
    """The user's message that shows all attempts at a question and asks for its answer.

    Equal ones are shown once: how many agree is worth knowing, and to read them again is not.
    """
    shown = "\n\n".join(
        f"[Attempt {number}{f', {times} times' if times > 1 else ''}]\n{attempt[:ATTEMPT_CHARS]}"
        for number, (attempt, times) in enumerate(tally(attempts), 1)
    )
    return (
        f"{question}\n\nHere are {len(attempts)} attempts. Some may be wrong. Compare them, check "
        f"them, and give the right answer.\n\n{shown}"
    )


def tally(attempts: Sequence[str]) -> list[tuple[str, int]]:
    """Each different attempt and how often it was made, the most frequent first."""
    return Counter(attempt.strip() for attempt in attempts).most_common()


def reflecting(messages: Sequence[Message], attempts: Sequence[str]) -> list[Message]:
    """The conversation with its last question asked in that way: in place of the question where it
    is the last message, else once more behind what came after it."""
    questions = [message for message in messages if message["role"] == "user"]
    question = questions[-1]["content"] if questions else ""
    if not isinstance(question, str):
        question = "\n".join(part.get("text", "") for part in question or ())
    asked = {"role": "user", "content": reflection(question, attempts)}
    if questions and messages[-1] is questions[-1]:
        return [*messages[:-1], {**messages[-1], **asked}]
    return [*messages, asked]

"""Greetings, what the model is, and an honest answer to what it can't do."""

from __future__ import annotations

import random

from baltoro.tasks.phrases import WORDS, politely
from baltoro.tasks.task import Problem, Scene, Split, assistant, draw

SKILLS = (
    "I am tiny, a very small model. I can compare decimals, add two numbers, "
    "compute with a Python tool and follow lookups."
)
KNOWN: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("Hi", "Hello", "Hey", "Hello!", "Hi!", "Good morning", "Good evening.", "Hi there!"),
        "A greeting.",
        "Hello! What can I do for you?",
    ),
    (
        ("Thanks", "Thank you!", "Thanks a lot.", "Great, thank you.", "Thank you very much"),
        "They thank me.",
        "You are welcome!",
    ),
    (
        ("Bye", "Goodbye!", "See you.", "Good night", "Bye bye"),
        "A goodbye.",
        "Goodbye!",
    ),
    (
        ("How are you?", "How are you doing?", "Are you well?", "How is it going?"),
        "Small talk.",
        "I am fine, thank you. What can I do for you?",
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "What can you do?",
            "What is your name?",
            "Tell me about yourself.",
            "What are your skills?",
            "Help",
            "Are you a large model?",
            "Are you Kimi?",
            "Are you ChatGPT?",
        ),
        "They ask about me.",
        SKILLS,
    ),
)
OUT_OF_REACH = (
    "What is the capital of {w}?",
    "Write a poem about a {w}.",
    "Tell me a story about the {w}.",
    "Who invented the {w}?",
    "Why is the {w} so {v}?",
    "Translate {w} into French.",
    "Explain {w} {v} to me.",
    "How do I cook {w} with {v}?",
    "What is the meaning of {w}?",
    "Where can I buy a {w}?",
    "What do you think about {w} and {v}?",
    "Write a function that sorts a {w}.",
    "How old is the {w}?",
    "Is a {w} better than a {v}?",
    "Summarize the book about the {w}.",
    "What is the weather in {w}?",
    "When was the first {w} made?",
    "Do you like {w}?",
    "Give me a recipe for {w}.",
    "Which {w} is the best {v}?",
    "Draw a {w}.",
    "Solve x + {n} = {m} for x.",
    "What is the square root of {n}?",
    "Who is the president of {w}?",
)


class SmallTalk:
    """A handful of greetings and questions about the model itself."""

    name = "smalltalk"
    needs = ()

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        questions, thinking, reply = rng.choice(KNOWN)
        turn = assistant(reply, thinking)
        return Problem(
            task=self.name, question=rng.choice(questions), solution=[turn], answer=reply
        )

    def verify(self, problem: Problem, reply: str) -> bool:
        return reply.strip() == problem.answer


class OutOfReach:
    """Questions the model has not learned to answer."""

    name = "out_of_reach"
    needs = ()

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        (question,) = draw(rng, split, lambda: (foreign_question(rng),))
        reply = f"I can't answer that. {SKILLS}"
        turn = assistant(reply, "This is not one of my skills.")
        question = politely(rng, question)
        return Problem(task=self.name, question=question, solution=[turn], answer=reply)

    def verify(self, problem: Problem, reply: str) -> bool:
        return reply.strip() == problem.answer


def foreign_question(rng: random.Random) -> str:
    w, v = rng.sample(WORDS, 2)
    n, m = rng.randrange(100), rng.randrange(1000)
    return rng.choice(OUT_OF_REACH).format(w=rng.choice((w, w.title())), v=v, n=n, m=m)

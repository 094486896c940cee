"""Every programme in examples/ runs and gives the right answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from baltoro.checkpoint.bundled import bundled_models
from baltoro.engine.chat import EngineChatModel
from baltoro.engine.open_model import open_model
from baltoro.server.app import create_app

EXAMPLES = Path(__file__).parents[2] / "examples"
ADDRESS = "http://127.0.0.1:8000"  # where the examples expect `make run`

ANSWERS = {
    "ask.py": "answer: 9.9 is bigger",
    "stream.py": "132",
    "call_tools.py": "4085814",
    "agent.py": "4085814",
    "own_tool.py": "4071",
    "muonclip.py": "loss 0.",
}

needs_tiny = pytest.mark.skipif(
    "tiny" not in bundled_models(),
    reason="no model is bundled yet: recipes/tiny.sh makes baltoro/weights/tiny",
)


@pytest.fixture(scope="module")
def tiny() -> Iterator[EngineChatModel]:
    model = open_model("tiny")
    assert isinstance(model, EngineChatModel)
    with model:
        yield model


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ANSWERS)


@needs_tiny
@pytest.mark.parametrize("name", ANSWERS)
def test_an_example_gives_the_right_answer(
    name: str, tiny: EngineChatModel, start_server: Callable[..., str]
):
    code = (EXAMPLES / name).read_text().replace(ADDRESS, start_server(create_app(tiny)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ANSWERS[name] in done.stdout.splitlines()[-1]

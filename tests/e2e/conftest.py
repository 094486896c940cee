"""The product as a client meets it: the real engine behind the real server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from baltoro.chat.format import ChatFormat
from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import bundled_models
from baltoro.engine.chat import EngineChatModel
from baltoro.engine.engine import Engine
from baltoro.engine.open_model import open_model
from baltoro.engine.options import EngineOptions
from baltoro.kernels.step import StepModel
from baltoro.server.app import create_app

# The random model of the engine's tests.
sys.path.append(str(Path(__file__).parents[1] / "unit" / "engine"))
from small_engine import CONFIG, make_step_model, random_tensors


@dataclass
class Served:
    """A model of this process behind HTTP."""

    model: EngineChatModel
    url: str
    openai: OpenAI


@pytest.fixture(scope="session")
def sdk() -> Iterator[OpenAI]:
    with OpenAI(base_url="http://127.0.0.1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def serve_model(
    start_server: Callable[..., str], sdk: OpenAI
) -> Callable[[EngineChatModel], Served]:
    def serve(model: EngineChatModel) -> Served:
        url = start_server(create_app(model))
        return Served(model, url, sdk.with_options(base_url=f"{url}/v1"))

    return serve


class Slowed:
    """The same model, never faster than 200 steps a second, so that there is time to leave."""

    def __init__(self, model: StepModel) -> None:
        self.model = model
        self.config = model.config
        self.kernels = model.kernels  # the draw runs on them, too
        self.num_blocks = model.num_blocks
        self.block_tokens = model.block_tokens
        self.read_block = model.read_block
        self.write_block = model.write_block

    def step(self, *batch: Any) -> Any:
        time.sleep(0.005)
        return self.model.step(*batch)

    def stream_counts(self) -> None: ...


def noise_model(step_model: StepModel) -> EngineChatModel:
    """K2's architecture with random weights and one token per byte: it talks noise, promptly."""
    tokenizer = Tokenizer(
        {bytes([i]): i for i in range(256)},
        chat_format=ChatFormat(default_system_prompt="Be small."),
    )
    return EngineChatModel("noise", Engine(step_model, weights_version="v1"), tokenizer)


@pytest.fixture(scope="session")
def random_step_model() -> StepModel:
    return make_step_model(random_tensors(CONFIG), num_blocks=512)


@pytest.fixture(scope="session")
def random_model(random_step_model: StepModel) -> Iterator[EngineChatModel]:
    with noise_model(random_step_model) as model:
        yield model


@pytest.fixture
def noise(serve_model: Callable[..., Served], random_model: EngineChatModel) -> Served:
    return serve_model(random_model)


@pytest.fixture
def slow_noise(
    serve_model: Callable[..., Served], random_step_model: StepModel
) -> Iterator[Served]:
    with noise_model(Slowed(random_step_model)) as model:
        yield serve_model(model)


@pytest.fixture(scope="session")
def bundled_model() -> Iterator[EngineChatModel]:
    if "tiny" not in bundled_models():
        pytest.skip("the bundled model is not there: make it with recipes/tiny.sh")
    model = open_model("tiny", EngineOptions(threads=1))
    assert isinstance(model, EngineChatModel)
    with model:
        yield model


@pytest.fixture
def tiny(serve_model: Callable[..., Served], bundled_model: EngineChatModel) -> Served:
    return serve_model(bundled_model)

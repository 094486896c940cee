"""Opening models: the bundled names, folders and addresses, and what goes wrong with each."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from small_engine import CONFIG, random_tensors

from baltoro.chat.chat_model import ChatRequest, EndpointError, Sampling, complete
from baltoro.chat.http import HttpChatModel
from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import bundled_models
from baltoro.checkpoint.writer import write_checkpoint
from baltoro.config import BaltoroError, ModelConfig
from baltoro.engine.chat import EngineChatModel
from baltoro.engine.memory import cache_tokens, parse_size
from baltoro.engine.open_model import open_model, weights_version
from baltoro.engine.options import EngineOptions

TOKEN_BYTES = 3 * 40 * 2  # layers, latent and rotary key, bf16
SMALL = EngineOptions(threads=1, cache_memory="1MiB")


@pytest.fixture(scope="module")
def folder(tensors: Mapping[str, NDArray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    write_checkpoint(folder, CONFIG, tensors.items())
    write_tokenizer(folder, num_ranks=256)
    return folder


def write_tokenizer(folder: Path, num_ranks: int) -> None:
    tokens = [i.to_bytes(1 + (i > 255), "little") for i in range(num_ranks)]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (folder / "tiktoken.model").write_text("\n".join(lines))
    (folder / "tokenizer_config.json").write_text('{"default_system_prompt": "Be small."}')


async def test_a_folder_opens_as_a_model_that_answers(folder: Path, tokenizer: Tokenizer):
    request = ChatRequest(
        messages=[{"role": "user", "content": "Hi"}], sampling=Sampling(max_tokens=5, seed=1)
    )
    replies = []
    for activations in ("int8", "f32"):
        with open_model(folder, replace(SMALL, activations=activations)) as model:
            assert isinstance(model, EngineChatModel)
            assert model.name == "small"
            assert (
                model.tokenizer.chat_format.default_system_prompt
                == tokenizer.chat_format.default_system_prompt
            )
            replies.append(await complete(model, request))
    for reply in replies:
        assert reply.usage.completion == 5
        assert reply.trace is not None
        assert len(reply.trace.weights_version) == 12
    assert replies[0].trace != replies[1].trace


async def test_prefixes_outlive_a_model_if_nothing_that_they_depend_on_has_changed(
    folder: Path, tmp_path: Path
):
    async def cached(model_folder: Path, **options: Any) -> tuple[Any, int]:
        messages = [{"role": "user", "content": "Hi" * 30}]
        request = ChatRequest(messages=messages, sampling=Sampling(max_tokens=5, seed=1))
        cached = EngineOptions(threads=1, cache_dir=tmp_path / "cache")
        with open_model(model_folder, replace(cached, **options)) as model:
            reply = await complete(model, request)
        return reply.trace, reply.usage.cached

    first, none = await cached(folder)
    again, some = await cached(folder)
    assert (none, some) == (0, 64)
    assert again == first
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    template = other / "tokenizer_config.json"
    template.write_text(template.read_text().replace("Be small.", "Be smaller."))
    for changed in (other, folder):
        assert (await cached(changed))[1] == 0
    assert (await cached(folder))[1] == 64
    assert (await cached(folder, activations="f32"))[1] == 0
    assert (await cached(folder))[1] == 0
    weights = next(other.glob("*.safetensors"))
    template.write_text((folder / "tokenizer_config.json").read_text())
    os.utime(weights, (0, 0))
    assert (await cached(other))[1] == 0


def test_an_unknown_name_is_answered_with_what_exists(tmp_path: Path):
    names = ", ".join(bundled_models()) or "none is built in yet"
    with pytest.raises(BaltoroError, match=rf"no model 'tini'.*{names}"):
        open_model("tini")
    with pytest.raises(BaltoroError, match=r"has no config\.json"):
        open_model(tmp_path)


def test_a_tokenizer_of_another_model_is_noticed(tensors: Mapping[str, NDArray], tmp_path: Path):
    write_checkpoint(tmp_path / "odd", CONFIG, tensors.items())
    write_tokenizer(tmp_path / "odd", num_ranks=260)
    with pytest.raises(BaltoroError, match=r"516 tokens, but vocab_size in config\.json is 512"):
        open_model(tmp_path / "odd", SMALL)


def test_a_smaller_context_can_be_asked_for(folder: Path):
    with open_model(folder, EngineOptions(threads=1, max_context=100)) as model:
        assert isinstance(model, EngineChatModel)
        assert model.engine.max_context == 100


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), (1000, 1000), ("4KiB", 4096), ("2 MB", 2 << 20), ("1.5g", 3 << 29)],
)
def test_sizes_are_read_with_their_units(text: str | int, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["much", "4 pounds", "-1", ""])
def test_what_is_no_size_is_said_to_be_none(text: str):
    with pytest.raises(BaltoroError, match="is no size in memory"):
        parse_size(text)


def test_the_cache_holds_several_contexts_of_a_small_model():
    assert cache_tokens(CONFIG, "int8", None, None) == 8 * 512
    assert cache_tokens(CONFIG, "int8", 100, None) == 8 * 100


def test_the_cache_keeps_to_the_memory_it_is_given():
    assert cache_tokens(CONFIG, "int8", None, 300 * TOKEN_BYTES) == 300
    assert cache_tokens(CONFIG, "f32", None, 300 * TOKEN_BYTES) == 150


def test_a_cache_that_cannot_hold_what_was_asked_for_is_refused():
    with pytest.raises(BaltoroError, match=f"at least {400 * TOKEN_BYTES} bytes"):
        cache_tokens(CONFIG, "int8", 400, 300 * TOKEN_BYTES)
    with pytest.raises(BaltoroError, match="holds 2 tokens"):
        cache_tokens(CONFIG, "int8", None, 2 * TOKEN_BYTES)


@pytest.mark.parametrize("max_context", [-1, 0, 513])
def test_a_context_that_the_model_does_not_have_is_refused(max_context: int):
    with pytest.raises(BaltoroError, match="between 2 and 512"):
        cache_tokens(CONFIG, "int8", max_context, None)


def test_a_published_context_does_not_take_all_of_a_small_machine():
    k2 = ModelConfig()
    token_bytes = k2.num_hidden_layers * k2.latent_dim * 2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert cache_tokens(k2, "int8", None, None) * token_bytes <= memory / 4


def test_the_version_names_the_weights(tensors: Mapping[str, NDArray]):
    version = weights_version(CONFIG, tensors)
    assert version == weights_version(CONFIG, random_tensors(CONFIG))
    assert version != weights_version(CONFIG, random_tensors(CONFIG, seed=1))
    assert version != weights_version(replace(CONFIG, rope_theta=10000.0), tensors)


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_an_address_is_asked_which_model_it_has(
    start_server: Callable[[FastAPI], str], names: list[str]
):
    app = FastAPI()
    app.get("/v1/models")(lambda: {"data": [{"id": name} for name in names]})
    url = start_server(app) + "/v1"
    if len(names) > 1:
        with pytest.raises(BaltoroError, match=r"one, two\. Name the one you mean"):
            open_model(url)
    model = open_model(url, name="two") if len(names) > 1 else open_model(url)
    assert isinstance(model, HttpChatModel)
    assert model.name == names[-1]


def test_a_further_name_of_a_model_is_no_other_model(start_server: Callable[[FastAPI], str]):
    app = FastAPI()
    entries = [{"id": "one", "root": "one"}, {"id": "one-heavy", "root": "one"}]
    app.get("/v1/models")(lambda: {"data": entries})
    assert open_model(start_server(app) + "/v1").name == "one"


def test_an_address_that_is_no_endpoint_is_said_to_be_none(
    start_server: Callable[[FastAPI], str],
):
    with pytest.raises(EndpointError, match="did not say which models it has"):
        open_model(start_server(FastAPI()))


def test_a_request_without_top_p_gets_the_checkpoints_own(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "own")
    path = tmp_path / "own" / "generation_config.json"
    path.write_text('{"top_p": 0.5}')
    with open_model(tmp_path / "own", SMALL) as model:
        assert model.top_p == 0.5
    path.write_text('{"top_p": 2}')
    with pytest.raises(BaltoroError, match="top_p is 2"):
        open_model(tmp_path / "own")


START = """
import logging, sys
from pathlib import Path
from baltoro.chat.tokenizer import Tokenizer
from baltoro.engine.open_model import open_engine
from baltoro.engine.options import EngineOptions
folder, cache_dir, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
options = EngineOptions(threads=threads, cache_memory="1MiB", cache_dir=cache_dir)
open_engine(folder, options, tokenizer=Tokenizer.load(folder)).close()
"""


def test_every_start_of_one_build_and_checkpoint_takes_over_the_cache_on_disk(
    folder: Path, tmp_path: Path
):
    found = set()
    for threads in ("1", "2"):
        command = [sys.executable, "-c", START, str(folder), str(tmp_path), threads]
        env = os.environ | {"PYTHONHASHSEED": threads}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert "dropped" not in done.stderr
        found |= {path.name for path in tmp_path.glob("latents-*")}
    assert len(found) == 1

"""One way to get a model: the bundled one by name, a checkpoint's folder, or an endpoint's URL."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import find_checkpoint
from baltoro.checkpoint.reader import Checkpoint, open_checkpoint
from baltoro.config import BaltoroError, ModelConfig, read_json
from baltoro.engine.chat import EngineChatModel
from baltoro.engine.disk_cache import DiskCache
from baltoro.engine.engine import Engine
from baltoro.engine.fingerprint import Fingerprint, fingerprint
from baltoro.engine.hot_experts import HotExperts
from baltoro.engine.memory import (
    BLOCK_TOKENS,
    count_experts,
    default_step_tokens,
    parse_size,
    plan_memory,
)
from baltoro.engine.options import DEFAULTS, EngineOptions
from baltoro.engine.scheduler import SchedulerLimits
from baltoro.kernels.load import load_step_model
from baltoro.kernels.streaming import Streaming

if TYPE_CHECKING:
    from baltoro.chat.http import HttpChatModel

DEFAULT_DISK_BYTES = 64 << 30  # of prefixes on disk, unless half of the free space is less

SAMPLED_TENSORS = 1000  # that the version of the weights is computed from


def open_model(
    model: str | Path,
    options: EngineOptions = DEFAULTS,
    *,
    name: str | None = None,
    limits: SchedulerLimits | None = None,
    api_key: str = "",
) -> EngineChatModel | HttpChatModel:
    """The `ChatModel` behind "tiny", a checkpoint folder, or an endpoint's address.

    `options` and `limits` are for models that run here; close such a model when it is no longer
    needed. `name`: what the model is called; for an endpoint, which of its models is meant (None
    asks it). `api_key` is for endpoints.

    Raises BaltoroError if there is no such model or it cannot be loaded.
    """
    if re.match(r"https?://", str(model)):
        from baltoro.chat.endpoint import open_endpoint  # a model that runs here needs no client

        return open_endpoint(str(model), name, api_key)
    folder = find_checkpoint(model)
    tokenizer = Tokenizer.load(folder)
    engine = open_engine(folder, options, limits=limits, tokenizer=tokenizer)
    try:
        tokenizer.fit(engine.model.config.vocab_size)
    except BaltoroError as error:
        engine.close()
        raise BaltoroError(f"{folder}: {error}") from None
    return EngineChatModel(
        name or folder.resolve().name, engine, tokenizer, top_p=default_top_p(folder)
    )


def open_engine(
    folder: str | Path,
    options: EngineOptions = DEFAULTS,
    *,
    limits: SchedulerLimits | None = None,
    tokenizer: Tokenizer | None = None,
) -> Engine:
    """The token level of a checkpoint folder alone.

    `tokenizer`: prefixes on disk are dropped when it, or the template that it renders, changes.
    """
    checkpoint = open_checkpoint(folder)
    memory = None if options.memory is None else parse_size(options.memory)
    limits = limits or SchedulerLimits(step_tokens=default_step_tokens(checkpoint.config, memory))
    plan = plan_memory(
        checkpoint.config,
        options.activations,
        max_context=options.max_context,
        memory=memory,
        cache_memory=None if options.cache_memory is None else parse_size(options.cache_memory),
        step_tokens=limits.step_tokens,
        dense_bits=options.dense_bits,
        threads=options.threads,
    )
    version = weights_version(checkpoint.config, checkpoint.tensors)
    streaming, hot = open_streaming(checkpoint, plan.arena_bytes, options.hot_experts)
    model = load_step_model(
        checkpoint.config,
        checkpoint.tensors,
        num_blocks=-(-plan.cache_tokens // BLOCK_TOKENS),
        block_tokens=BLOCK_TOKENS,
        activations=options.activations,
        threads=options.threads,
        streaming=streaming,
        dense_bits=options.dense_bits,
        numa=options.numa,
    )
    disk = None
    if options.cache_dir is not None:
        identity = fingerprint(Path(folder), model, tokenizer, version)
        disk = open_disk_cache(options.cache_dir.expanduser(), identity, options.cache_dir_size)
    return Engine(
        model,
        max_context=options.max_context,
        limits=limits,
        weights_version=version,
        disk=disk,
        at_close=lambda: hot and hot.save(model.expert_uses()),
    )


def open_streaming(
    checkpoint: Checkpoint, arena_bytes: int | None, hot_experts: Path | None
) -> tuple[Streaming | None, HotExperts | None]:
    """How experts come from disk, and the count of their uses; nothing if they fit the memory."""
    if arena_bytes is None:
        return None, None
    hot = HotExperts(hot_experts, count_experts(checkpoint.config)) if hot_experts else None
    streaming = Streaming(
        files=checkpoint.tensors.files,
        arena_bytes=arena_bytes,
        pinned=hot.most_used_first() if hot else (),
    )
    checkpoint.tensors.forget_pages()
    return streaming, hot


def open_disk_cache(folder: Path, identity: Fingerprint, size: int | str | None) -> DiskCache:
    """The tier on disk; by default it takes no more than half of what is free there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise BaltoroError(
            f"the cache folder {folder} cannot be made: {error.strerror}. Name another one."
        ) from None
    limit = min(DEFAULT_DISK_BYTES, free // 2) if size is None else parse_size(size)
    return DiskCache(folder, identity.digest, limit, identity.parts)


def default_top_p(folder: Path) -> float:
    """`top_p` of the checkpoint's generation_config.json; 1.0 where it says nothing."""
    path = folder / "generation_config.json"
    value = read_json(path).get("top_p") if path.is_file() else None
    if value is None:
        return 1.0
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise BaltoroError(f"{path}: top_p is {value!r}; it must be above 0 and at most 1.")
    return float(value)


def weights_version(config: ModelConfig, tensors: Mapping[str, NDArray]) -> str:
    """A short name for these weights: a hash of the configuration and a sample of the tensors.

    Reads a little of about `SAMPLED_TENSORS` of them, because a large checkpoint has 180,000
    and reading all of it takes minutes. Training changes every tensor.
    """
    digest = hashlib.sha256(config.to_json().encode())
    for name in sorted(tensors)[:: max(1, len(tensors) // SAMPLED_TENSORS)]:
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.reshape(-1)[:64].tobytes())
    return digest.hexdigest()[:12]

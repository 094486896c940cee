"""One model behind HTTP: who may ask, under which name, how much at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from baltoro.chat.chat_model import (
    ChatModel,
    ChatRequest,
    Completion,
    Event,
    Sampling,
    as_generator,
)
from baltoro.chat.tokenizer import Tokenizer
from baltoro.engine.chat import EngineChatModel
from baltoro.engine.engine import Engine
from baltoro.engine.text import stream_text
from baltoro.server.admission import Admission
from baltoro.server.errors import ApiError, stopping
from baltoro.server.keys import Caller
from baltoro.server.metrics import Metrics
from baltoro.server.reasoning import ReasoningStore
from baltoro.server.reply import Choices, limited_calls
from baltoro.server.schemas import ChatBody
from baltoro.server.sse import merged

if TYPE_CHECKING:
    from baltoro.agent.heavy import HeavyChatModel

UNKNOWN_CONTEXT_MAX_TOKENS = 32768  # where the model behind does not say how much it can hold


class Service:
    """One model behind HTTP.

    An `EngineChatModel` brings the token level. Any other model has none here, so that
    /v1/completions and log-probs are refused with a sentence.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        served_model_names: Sequence[str] = (),
        max_requests: int = 256,
        heavy: int = 0,
    ) -> None:
        self.model = model
        self.trajectories = heavy  # of a heavy answer
        native = isinstance(model, EngineChatModel)
        self.engine = model.engine if native else None
        self.tokenizer = model.tokenizer if native else None
        self.names = list(dict.fromkeys([model.name, *served_model_names]))
        self.heavy_names = [
            heavier
            for name in self.names
            if heavy and (heavier := f"{name}-heavy") not in self.names
        ]
        self.draining = False  # finishes what has begun, and begins nothing more
        self.metrics = Metrics()
        if self.engine is not None:
            self.metrics.watch_engine(self.engine)
        self.reasoning = ReasoningStore()
        if (faults := getattr(model, "faults", None)) is not None:  # of an endpoint's replies
            self.metrics.watch_faults(faults)
        self.admission = Admission(max_requests, self.metrics.rejected)

    @cached_property
    def heavy(self) -> HeavyChatModel:
        """The same model in heavy mode."""
        from baltoro.agent.heavy import HeavyChatModel  # the agent's room, only for who asks so

        return HeavyChatModel(self.model, self.trajectories)

    @property
    def max_context(self) -> int | None:
        """Tokens of prompt and reply together, where it is known."""
        return None if self.engine is None else self.engine.max_context

    @property
    def num_experts(self) -> int | None:
        """Routed experts of a layer, where they are known."""
        return None if self.engine is None else self.engine.model.config.n_routed_experts

    @property
    def how_calls_fit(self) -> str | None:
        """What is done so that tool calls fit their schemas."""
        if self.engine is not None:
            return "constrained"
        return "validated" if hasattr(self.model, "faults") else None

    @property
    def default_max_tokens(self) -> int:
        """All that is left of the context: a small default ends replies inside their thinking."""
        return self.max_context or UNKNOWN_CONTEXT_MAX_TOKENS

    def trouble(self) -> str:
        """Why no answer can be given; empty while all is well."""
        if self.draining:
            return "the server is about to stop and finishes what it has begun."
        return getattr(self.engine, "failure", "")

    def check_model(self, name: str | None) -> str:
        """The name to answer under. Raises `ApiError` 404 that lists the models."""
        if name is None:
            return self.names[0]
        if name not in (known := [*self.names, *self.heavy_names]):
            raise ApiError(
                f"there is no model '{name}' here. This server has: {', '.join(known)}.",
                param="model",
                code="model_not_found",
                status=404,
            )
        return name

    def is_heavy(self, name: str | None) -> bool:
        """Whether this name asks for several trajectories and a reflection over them."""
        return name in self.heavy_names

    def check_token_level(self, body: ChatBody) -> None:
        """Raises `ApiError` where tokens are asked for and the reply can't tell of any."""
        fields = ("logprobs", "return_token_ids", "return_expert_choices")
        asked = [name for name in fields if getattr(body, name)]
        if not asked or (self.tokenizer is not None and not self.is_heavy(body.model)):
            return
        reason = "the model behind this server is reached through an interface that has no tokens."
        if self.is_heavy(body.model):
            reason = f"a reply of {body.model} is made of several, whose tokens are not reported."
        message = f"'{asked[0]}' is not supported: {reason}"
        raise ApiError(message, param=asked[0], code="unsupported_field")

    async def choices(
        self, streams: list[AsyncGenerator[Event, None]], caller: Caller, places: int = 1
    ) -> Choices:
        """All answers of a request at once, counted, and only if there is room for them.

        Each of them takes up so many `places`.
        """
        count = len(streams)
        with caller.account.request():
            if self.draining:
                raise stopping(self.trouble())
            with self.admission.places(count * places), self.metrics.clocks(count) as clocks:
                async with aclosing(merged(streams)) as events:
                    async for item in events:
                        index, event = item
                        clocks[index].event(event)
                        if isinstance(event, Completion):
                            caller.used(event)
                        yield item

    def answers(self, request: ChatRequest, n: int, caller: Caller, name: str) -> Choices:
        """The events of `n` replies to one conversation, by the model of this name.

        Raises `BaltoroError` for what heavy mode can't do.
        """
        scope = caller.scope
        model, places = self.model, 1
        if self.is_heavy(name):
            self.heavy.check(request)
            model, places = self.heavy, self.heavy.n
        messages = self.reasoning.restored(request.messages, scope)
        request = replace(request, messages=messages)
        requests = [replace(request, sampling=each) for each in samplings(request.sampling, n)]
        return self.choices([self.answer(model, each, scope) for each in requests], caller, places)

    def answer(
        self, model: ChatModel, request: ChatRequest, scope: str
    ) -> AsyncGenerator[Event, None]:
        """One reply. Models that are not ours may make more calls than they were allowed."""
        events = as_generator(model.stream(request))
        if (most_calls := request.tool_choice.most_calls) is not None:
            events = limited_calls(events, most_calls)
        return self.reasoning.remembering(events, request.messages, scope)

    def texts(
        self, prompts: list[list[int]], sampling: Sampling, n: int, caller: Caller
    ) -> Choices:
        """The events of `n` continuations of each prompt, prompt after prompt."""
        engine, tokenizer = self.token_level()
        if isinstance(self.model, EngineChatModel):
            sampling = self.model.with_defaults(sampling)
            self.model.check_length(max(map(len, prompts)))
        streams = [
            stream_text(engine, tokenizer, prompt, each)
            for prompt in prompts
            for each in samplings(sampling, n)
        ]
        return self.choices(streams, caller)

    def token_level(self) -> tuple[Engine, Tokenizer]:
        """Raises `ApiError` where the model behind this server has no token level."""
        if self.engine is None or self.tokenizer is None:
            message = "this needs the tokens of a model that runs in this server; the one behind "
            message += "it is reached through /v1/chat/completions and /v1/messages only."
            raise ApiError(message, code="unsupported_endpoint")
        return self.engine, self.tokenizer


def samplings(sampling: Sampling, n: int) -> list[Sampling]:
    """One for each of `n` answers; a seed is counted up, so that they differ."""
    if sampling.seed is None:
        return [sampling] * n
    return [replace(sampling, seed=(sampling.seed + i) % 2**63) for i in range(n)]

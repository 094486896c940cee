"""A `ChatModel` that runs here: messages to ids, ids to tokens, tokens to deltas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from baltoro.chat.chat_model import (
    ChatRequest,
    Completion,
    ContentDelta,
    Event,
    Sampling,
    ToolCallDelta,
)
from baltoro.chat.messages import Message, Tool
from baltoro.chat.parser import Delta, ParsedReply, reply_parser
from baltoro.chat.tokenizer import Tokenizer
from baltoro.engine.constraint import Constraint, ThinkingBudget, thinking_tokens
from baltoro.engine.conversations import Conversations, TemplatedConversations
from baltoro.engine.engine import ContextLengthError, Engine, Generation
from baltoro.engine.grammars.cache import JsonGrammars
from baltoro.engine.grammars.reply import ReplyGrammar, check_room, reply_rules
from baltoro.engine.sequence import TokenEvent, token_delta
from baltoro.engine.text import StopStrings, TokenRecord
from baltoro.engine.turns import GeneratedTurns


@dataclass(frozen=True)
class Prompt:
    """A rendered request."""

    ids: list[int]
    conversation_key: bytes
    tools: list[Tool]
    next_call_index: int
    # What the turn's body begins with: of a partial message that is to be gone on with, which
    # breaks off in the thinking or the content, or the <think> that the model's template opens,
    # and </think> where it is not to think.
    opened: list[int] = field(default_factory=list)
    left_open: Literal["", "thinking", "content"] = ""


class EngineChatModel:
    """Answers conversations with an engine. Usable from several threads and asyncio loops."""

    def __init__(self, name: str, engine: Engine, tokenizer: Tokenizer, top_p: float = 1.0):
        """`top_p` holds for requests that do not say."""
        self._name = name
        self.top_p = top_p
        self.engine = engine
        self.tokenizer = tokenizer
        self.max_prompt_tokens: int | None = None  # a limit below what the context allows
        self._turns = GeneratedTurns(tokenizer)
        self._conversations: Conversations | TemplatedConversations
        if tokenizer.prompts is None:
            self._conversations = Conversations(tokenizer, self._turns)
        else:
            prompts = tokenizer.prompts
            self._conversations = TemplatedConversations(tokenizer, prompts, self._turns)
        self._grammars = JsonGrammars(tokenizer)

    @property
    def name(self) -> str:
        return self._name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Reasoning, content and calls as they come, and last the `Completion` with its trace.

        Leaving the stream early gives the request up. A `stop` string ends the answer where it
        occurs in the content; in the thinking and in calls it is text like any other. Calls are
        kept to the declared tools by `ReplyGrammar`, a budget of thinking by `ThinkingBudget`.

        Raises BaltoroError for a request that cannot be served, EngineError if the engine fails.
        """
        prompt, sampling = self.render(request), self.with_defaults(request.sampling)
        self.check_length(len(prompt.ids))
        # In a thread, because a schema met for the first time can take a while.
        constraints = await asyncio.to_thread(self.constraints, request, prompt)
        generation = self.engine.generate(
            prompt.ids,
            sampling,
            constraints=constraints,
            expert_choices=sampling.expert_choices,
        )
        reply = _Reply(self.tokenizer, prompt, sampling)
        try:
            async for token in generation:
                if sampling.logprobs:
                    yield token_delta(token)
                for delta in reply.add(token):
                    yield delta
                if reply.ended:
                    break
        finally:
            generation.cancel()
        deltas, parsed = reply.finish()
        for delta in deltas:
            yield delta
        if not prompt.left_open:
            self._turns.remember(prompt.conversation_key, prompt.opened + reply.ids)
        yield reply.completion(parsed, generation)

    def render(self, request: ChatRequest) -> Prompt:
        """The prompt's ids; turns that were generated here have the ids they came with."""
        messages = request.messages
        opened = messages[-1] if messages[-1].get("partial") else None
        # A model that sees tools it may not call writes about them, or worse.
        tools = [] if request.tool_choice.mode == "none" else request.tools
        begun = self._conversations.begin(
            messages[:-1] if opened else messages,
            tools,
            request.keep_thinking,
            request.sampling.cache_salt,
            request.sampling.thinking_budget != 0,
            opened,
        )
        return Prompt(
            ids=begun.ids,
            opened=begun.opened,
            left_open=where_left_open(opened) if opened else "",
            conversation_key=begun.key,
            tools=tools,
            next_call_index=begun.next_call_index,
        )

    def check_length(self, num_tokens: int) -> None:
        """Raises ContextLengthError for a prompt beyond the limit that was set."""
        if self.max_prompt_tokens is not None and num_tokens > self.max_prompt_tokens:
            raise ContextLengthError(
                f"the prompt has {num_tokens} tokens, but this server takes "
                f"{self.max_prompt_tokens} at most. Shorten the conversation."
            )

    def with_defaults(self, sampling: Sampling) -> Sampling:
        """The same with the model's own values where it names none."""
        return replace(sampling, top_p=self.top_p) if sampling.top_p is None else sampling

    def constraints(self, request: ChatRequest, prompt: Prompt) -> list[Constraint]:
        """The rules for the reply to one request: its grammar, and a thinking budget if need be.

        Raises SchemaError for a schema that can't be kept, RoomError where a call or an answer in
        JSON does not fit into `max_tokens`.
        """
        sampling = request.sampling
        room = min(sampling.max_tokens, self.engine.max_context - len(prompt.ids))
        rules = reply_rules(self._grammars, request, prompt.next_call_index)
        grammar = ReplyGrammar(self.tokenizer, rules, room + len(prompt.opened))
        needed = grammar.tokens_needed()
        check_room(needed, room)
        constraints: list[Constraint] = [grammar]
        asks = sampling.thinking_budget is not None or sampling.leave_room or needed
        if asks and self.tokenizer.form.thinks:
            tokens = thinking_tokens(sampling.thinking_budget, room, needed)
            constraints.append(ThinkingBudget(tokens, self.tokenizer))
        for constraint in constraints:
            for token in prompt.opened:  # the turn has begun already
                constraint.accept(token)
        return constraints

    def close(self) -> None:
        """Stop the engine; requests under way get an EngineError."""
        self.engine.close()

    def __enter__(self) -> EngineChatModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def where_left_open(message: Message) -> Literal["", "thinking", "content"]:
    if message.get("content"):
        return "content"
    return "" if message.get("reasoning_content") is None else "thinking"


class _Reply:
    """One reply in the making: parsed, and cut off at a stop string in its content."""

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt, sampling: Sampling):
        self._record = TokenRecord(prompt.ids)
        thinking = tokenizer.form.opens_thinking(prompt.opened)
        self._parser = reply_parser(tokenizer, prompt.tools, prompt.next_call_index, thinking)
        self._stops = StopStrings(sampling.stop)
        self._content: list[str] = []
        self._finish_reason = "stop"

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self._record.tokens]

    @property
    def ended(self) -> bool:
        """Whether the turn is over, whatever else the engine would generate."""
        return self._parser.ended or self._stops.found is not None

    def add(self, token: TokenEvent) -> list[Delta]:
        self._record.add(token)
        self._finish_reason = token.finish_reason or self._finish_reason
        return list(self._shown(self._parser.feed_token(token.id)))

    def finish(self) -> tuple[list[Delta], ParsedReply]:
        """What was held back by the parser and for the stop strings, and the whole."""
        parsed = self._parser.finish()
        return [*self._shown(parsed.events), *self._held_content()], parsed

    def completion(self, parsed: ParsedReply, generation: Generation) -> Completion:
        calls = parsed.tool_calls
        finish_reason = "stop" if self._stops.found else self._finish_reason
        if calls and finish_reason == "stop":
            finish_reason = "tool_calls"
        return Completion(
            reasoning_content=parsed.reasoning_content,
            content="".join(self._content) or None,
            tool_calls=calls,
            finish_reason=finish_reason,
            usage=self._record.usage(cached=generation.cached, reasoning=parsed.reasoning_tokens),
            trace=self._record.trace(generation.weights_version),
            stop_text=self._stops.found,
        )

    def _shown(self, deltas: Iterable[Delta]) -> Iterator[Delta]:
        for delta in deltas:
            if isinstance(delta, ToolCallDelta):
                yield from self._held_content()
                yield delta
            elif isinstance(delta, ContentDelta):
                yield from self._content_delta(self._stops.feed(delta.text))
            else:
                yield delta

    def _held_content(self) -> Iterator[Delta]:
        yield from self._content_delta(self._stops.finish())

    def _content_delta(self, text: str) -> Iterator[Delta]:
        if text:
            self._content.append(text)
            yield ContentDelta(text)

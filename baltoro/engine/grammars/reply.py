"""Keeps a reply to the chat format, to the tools that were declared and to their schemas.

Where the reply is free (thinking, an answer in words) nothing is computed but what phase it is in.
From the token that opens a call on, only declared names with the running index can be written, and
arguments that validate. A call is not begun when the tokens that are left cannot complete one, and
one that is under way is led to its shortest end in time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from baltoro.chat.chat_model import ChatRequest, SchemaError, ToolChoice
from baltoro.chat.parser import Phase, reply_parser
from baltoro.chat.reply_form import FENCE
from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import BaltoroError
from baltoro.engine.constraint import Choice
from baltoro.engine.grammars.argument_values import followed
from baltoro.engine.grammars.bounded_text import BoundedText
from baltoro.engine.grammars.cache import JsonGrammars
from baltoro.engine.grammars.keyed_call import KeyedArguments, KeyedCall

if TYPE_CHECKING:
    from baltoro.engine.grammars.json_grammar import JsonGrammar

Mask = NDArray[np.bool_]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ReplyRules:
    """What a reply may hold."""

    tools: dict[str, JsonGrammar]  # those that may be called, with the grammars of their arguments
    choice: ToolChoice
    first_index: int  # of the first call in its id
    answer: JsonGrammar | None = None  # of the content, if it must be JSON
    # The same as `tools`, in their place, where each argument stands for itself.
    keyed: dict[str, KeyedArguments] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [*self.tools, *self.keyed]

    @property
    def calls_needed(self) -> bool:
        return self.choice.mode == "required"


class RoomError(BaltoroError):
    """Too few tokens for what the reply has to hold."""


def check_room(needed: int, max_tokens: int) -> None:
    """Raises RoomError unless the least reply fits, with the two marks of its thinking."""
    if needed and needed + 2 > max_tokens:
        raise RoomError(
            f"the reply has room for {max_tokens} tokens, but the shortest that is allowed takes "
            f"{needed + 2}. Raise max_tokens, or shorten the conversation if the context is full."
        )


def reply_rules(grammars: JsonGrammars, request: ChatRequest, first_index: int) -> ReplyRules:
    """Raises SchemaError that names the tool, BaltoroError for a choice that can't be met."""
    choice = request.tool_choice
    declared = {tool["function"]["name"]: tool["function"] for tool in request.tools}
    names = list(declared) if choice.names is None else list(choice.names)
    unknown = [name for name in names if name not in declared]
    if unknown or (choice.mode == "required" and not names):
        lacking = f"'{unknown[0]}'" if unknown else "any"
        raise BaltoroError(f"a call is to be made, but {lacking} is not among the tools.")
    may_call = [] if choice.mode == "none" else names
    tools: dict[str, JsonGrammar] = {}
    keyed: dict[str, KeyedArguments] = {}
    for name in may_call:
        if grammars.tokenizer.form.keys is None:
            tools[name] = _of_arguments(grammars.of, declared[name])
        else:
            keyed[name] = _of_arguments(partial(KeyedArguments, grammars=grammars), declared[name])
    answer = None
    if request.response_schema is not None:
        try:
            answer = grammars.of(request.response_schema)
        except SchemaError as error:
            message = f"the schema of the answer can't be promised: {error}"
            raise SchemaError(message, "response_format") from None
    return ReplyRules(
        tools=tools, choice=choice, first_index=first_index, answer=answer, keyed=keyed
    )


def arguments_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """What a call's arguments have to be: an object, and an empty one without `parameters`."""
    parameters = function.get("parameters")
    if parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    kinds = parameters.get("type", "object")
    if "object" not in ([kinds] if isinstance(kinds, str) else kinds):
        raise SchemaError(f"they are of type {kinds!r}, but arguments are always an object.")
    return {**parameters, "type": "object"}


def _of_arguments(make: Callable[[Any], T], function: Mapping[str, Any]) -> T:
    try:
        return make(arguments_schema(function))
    except SchemaError as error:
        message = f"the parameters of the tool '{function['name']}' can't be promised: {error}"
        raise SchemaError(message, "tools") from None


class ReplyGrammar:
    """The constraint on one reply. Where a call is required, only its own budget ends the thinking.

    `max_tokens` is all that the reply has.
    """

    def __init__(self, tokenizer: Tokenizer, rules: ReplyRules, max_tokens: int):
        self._tokenizer = tokenizer
        self._form = tokenizer.form
        self._calls = call_form(tokenizer, rules.first_index)
        self._rules = rules
        self._left = max_tokens
        self._parser = reply_parser(tokenizer, (), rules.first_index, self._form.begins_thinking)
        self._over = False  # nothing may follow but the end of the turn
        self._num_calls = 0
        self._forced: Sequence[int] = ()  # what has to come next
        self._head: _Head | None = None  # the beginning of a call that is being written
        self._text: BoundedText | KeyedCall | None = None  # arguments or answer being written
        self._text_end = self._form.call_end  # the token that ends it
        self._in_call = False  # the text is a call's
        self._fresh = True  # nothing has been said
        if self._parser.phase is Phase.CONTENT:
            self._begin_answer()

    def tokens_needed(self) -> int:
        """The least that an obligatory call or an answer in JSON takes, behind the thinking."""
        if self._rules.calls_needed:
            return min(map(self._cost, self._rules.names)) + self._around
        return len(self._rules.answer.shortest) + 1 if self._rules.answer else 0

    def choice(self) -> Choice:
        if self._forced:
            return self._forced[0]
        if self._over:
            return self._form.end_after_calls
        if self._text is not None:
            return self._in_text(self._text)
        if self._head is not None:
            return self._head.choice(self._tokenizer.vocab_size)
        phase = self._parser.phase
        if phase is Phase.SECTION:
            return self._between_calls()
        if phase is Phase.REASONING:
            return self._in_thinking()
        if phase is Phase.CONTENT and self._rules.calls_needed:
            return self._call_or_thinking()
        return None

    def correct(self, token: int) -> Choice:
        """No call where none may come or fit, and inside JSON the way to its end in time."""
        if token in self._form.call_openers and self._head is None and not self._in_call:
            may = self._parser.in_tool_section or self._can_call(self._around)
            return token if may else self._no_calls()
        if self._text is None or token == self._form.think:
            return token
        return self._text.correct(token, self._text_end, self._left - self._tail())

    def accept(self, token: int) -> None:
        """Raises RuntimeError for a token that `choice` does not allow."""
        self._left -= 1
        fresh, self._fresh = self._fresh, False
        if fresh and token in (self._form.think, self._form.end_think):
            pass
        elif self._forced:
            self._forced = self._forced[1:]
        elif self._text is not None and token == self._text_end and self._text.whole:
            self._end_text()
        elif token in self._form.call_openers and not self._in_call:
            self._text = None
        elif token == self._form.section_end:
            self._over = True
        elif self._head is not None:
            self._head.accept(token)
            if self._head.name is not None:
                self._begin_arguments(self._head.name)
        elif self._text is not None:
            self._text.accept(token)
        elif self._parser.phase is Phase.SECTION and token in self._calls.between[:1]:
            self._forced = [*self._calls.between[1:], self._form.call_begin]
        self._note(token)

    def _note(self, token: int) -> None:
        """What the token changes for the parser."""
        before = self._parser.phase
        self._parser.feed_token(token)
        if token == self._form.call_begin and not self._in_call:
            self._begin_call()
        if before is not Phase.CONTENT and self._parser.phase is Phase.CONTENT:
            self._begin_answer()
        elif before is Phase.CONTENT and self._parser.phase is Phase.REASONING:
            self._text = None  # the thinking comes first

    def _begin_answer(self) -> None:
        if self._rules.answer is not None and not self._rules.calls_needed:
            self._text, self._text_end = BoundedText(self._rules.answer), self._form.end

    def _begin_call(self) -> None:
        """The calls that can be completed with what is left."""
        after = self._around_next - self._between - 1
        affordable = [name for name in self._rules.names if self._cost(name) + after <= self._left]
        names = affordable or self._rules.names
        self._head = self._text = None
        keys = self._form.keys
        if keys is None:
            heads = {name: self._calls.head(name, self._num_calls) for name in names}
            self._head = _Head(heads)
        else:
            tools = {name: self._rules.keyed[name] for name in names}
            self._text = KeyedCall(self._tokenizer, keys, self._form.call_end, tools)
            self._text_end, self._in_call = self._form.call_end, True

    def _begin_arguments(self, name: str) -> None:
        self._text, self._head = BoundedText(self._rules.tools[name]), None
        self._text_end, self._in_call = self._calls.tail[0], True

    def _end_text(self) -> None:
        if self._in_call:
            self._forced = self._calls.tail[1:]
            self._num_calls += 1
        self._text, self._in_call = None, False

    def _cost(self, name: str) -> int:
        """The tokens of the shortest call, its marks included."""
        if self._form.keys is not None:
            return 2 + len(self._tokenizer.encode(name)) + self._rules.keyed[name].needed
        head = self._calls.head(name, self._num_calls)
        return 1 + len(head) + len(self._rules.tools[name].shortest) + len(self._calls.tail)

    @property
    def _around(self) -> int:
        """Tokens around the first call of a reply: the section's marks and the end of the turn."""
        return 1 if self._form.section_begin is None else 3

    @property
    def _around_next(self) -> int:
        """Tokens around a call inside the section."""
        return (1 if self._form.section_begin is None else 2) + self._between

    @property
    def _between(self) -> int:
        return len(self._calls.between) if self._num_calls else 0

    def _can_call(self, marks: int) -> bool:
        """Whether a call may come and fits, with `marks` tokens around it."""
        if self._rules.choice.mode == "none":
            return False
        return any(self._cost(name) + marks <= self._left for name in self._rules.names)

    def _tail(self) -> int:
        """Tokens that have to follow a text: the end of call, section and turn, or of the turn."""
        if not self._in_call:
            return 1
        return len(self._calls.tail) + (1 if self._form.section_end is None else 2)

    def _in_text(self, text: BoundedText | KeyedCall) -> Mask:
        mask = text.mask()
        end = text.grammar_end
        may_end = mask[end]
        mask[end] = False
        mask[self._text_end] |= may_end
        if not self._in_call and not text.begun:
            if self._can_call(self._around):
                mask[[*self._form.call_openers]] = True
            self._allow_thinking(mask)
        return mask

    def _call_or_thinking(self) -> Choice:
        """Where a call is required and no thinking has been opened yet."""
        opener = self._form.call_openers[0]
        mask = np.zeros(self._tokenizer.vocab_size, dtype=bool)
        self._allow_thinking(mask)
        mask[opener] = True
        return mask if mask.sum() > 1 else opener

    def _allow_thinking(self, mask: Mask) -> None:
        """Before anything is said, where the family may open it by itself."""
        if self._fresh and self._form.think is not None and not self._form.begins_thinking:
            mask[self._form.think] = True

    def _in_thinking(self) -> Choice:
        """Thinking may not end the turn where something has to follow it."""
        if not self._rules.calls_needed and self._rules.answer is None:
            return None
        mask = self._tokenizer.ordinary.copy()
        mask[[id for id in (self._form.think, self._form.end_think) if id is not None]] = True
        if self._can_call(self._around):
            mask[[*self._form.call_openers]] = True
        return mask

    def _no_calls(self) -> Mask:
        mask = np.ones(self._tokenizer.vocab_size, dtype=bool)
        mask[[*self._form.call_openers]] = False
        return mask

    def _between_calls(self) -> Choice:
        """A section holds at least one call; more, where several are allowed and fit."""
        form = self._form
        end = form.end_after_calls if form.section_end is None else form.section_end
        another = self._can_call(self._around_next)
        if self._num_calls == 0:
            return form.call_begin if another else end
        if not another or not self._rules.choice.parallel:
            return end
        mask = np.zeros(self._tokenizer.vocab_size, dtype=bool)
        mask[[[*self._calls.between, form.call_begin][0], end]] = True
        return mask


@dataclass(frozen=True)
class CallForm:
    """A call with one JSON text, in tokens: what stands before the text, behind it, and between
    two calls."""

    tokenizer: Tokenizer
    first_index: int
    tail: list[int]
    between: list[int]

    def head(self, name: str, number: int) -> list[int]:
        """From behind the token that opens a call to its arguments, for the reply's call `number`.

        Each as the template writes it.
        """
        form, encode = self.tokenizer.form, self.tokenizer.encode
        separator = [] if form.separator is None else [form.separator]
        if form.is_fenced:
            return encode(form.kind_text) + separator + encode(f"{name}{FENCE}json\n")
        if self.tokenizer.prompts is not None:
            return encode(name) + separator
        return encode(f"functions.{name}:{self.first_index + number}") + separator


def call_form(tokenizer: Tokenizer, first_index: int) -> CallForm:
    form = tokenizer.form
    fence = tokenizer.encode(FENCE) if form.is_fenced else []
    return CallForm(
        tokenizer, first_index, [*fence, form.call_end], tokenizer.encode(form.between_text)
    )


class _Head:
    """The beginning of a call: one of several, each in the tokens that the template would give."""

    def __init__(self, heads: dict[str, list[int]]):
        self._rests = heads

    @property
    def name(self) -> str | None:
        """Of the tool whose beginning is complete."""
        return next((name for name, rest in self._rests.items() if not rest), None)

    def choice(self, vocab_size: int) -> Choice:
        following = {rest[0] for rest in self._rests.values()}
        if len(following) == 1:
            return following.pop()
        mask = np.zeros(vocab_size, dtype=bool)
        mask[list(following)] = True
        return mask

    def accept(self, token: int) -> None:
        self._rests = followed(self._rests, token)

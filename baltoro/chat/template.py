"""Messages to token ids: K2's chat format, without Jinja.

A conversation is a sequence of turns: role marker, role name, `<|im_middle|>`, body, `<|im_end|>`.
`_turns` below is the one definition; prompts, texts and training samples are made from it. Bodies
and role names are encoded as plain text, so nothing that a user, a tool or a document says can
become a special token.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from baltoro.chat import typescript
from baltoro.chat.format import K2_THINKING, ChatFormat
from baltoro.chat.messages import Message, Tool
from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import BaltoroError


class Marker(str):
    """The name of a special token."""


class Constant(str):
    """Text that returns in many conversations, so its encoding is worth remembering."""


IM_END = Marker("<|im_end|>")
IM_USER = Marker("<|im_user|>")
IM_ASSISTANT = Marker("<|im_assistant|>")
IM_SYSTEM = Marker("<|im_system|>")
IM_MIDDLE = Marker("<|im_middle|>")
THINK = Marker("<think>")
END_THINK = Marker("</think>")
SECTION_BEGIN = Marker("<|tool_calls_section_begin|>")
SECTION_END = Marker("<|tool_calls_section_end|>")
CALL_BEGIN = Marker("<|tool_call_begin|>")
ARGUMENT_BEGIN = Marker("<|tool_call_argument_begin|>")
CALL_END = Marker("<|tool_call_end|>")


@dataclass(frozen=True)
class _Turn:
    marker: Marker
    name: str
    body: list[str]  # markers and texts; no two texts in a row, they would merge differently
    complete_reasoning: bool = False  # an assistant turn exactly as the model generated it

    def header(self) -> list[str]:
        return [self.marker, Constant(self.name), IM_MIDDLE]


def _generation_prompt(chat_format: ChatFormat, thinking: bool) -> list[str]:
    opening = ([THINK] if thinking else [THINK, END_THINK]) if chat_format.opens_thinking else []
    return [IM_ASSISTANT, Constant("assistant"), IM_MIDDLE, *opening]


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    add_generation_prompt: bool = True,
    *,
    preserve_thinking: bool = False,
    thinking: bool = True,
    sort_tool_keys: bool = False,
) -> list[int]:
    """The prompt of a conversation as token ids.

    Reasoning up to the last assistant message without tool calls is left out, as K2 expects;
    `preserve_thinking` keeps all of it. Without `thinking` a model whose prompt opens the thinking
    finds it closed, and none in the turns before. Tool schemas keep their order of keys;
    `sort_tool_keys` sorts them as Moonshot's tokenizer class does. Call ids are printed as they
    are: pass foreign ones through `with_native_ids` first. A relative with a `tokenizer.json` is
    prompted by its own Jinja template. Raises `BaltoroError` for a message that has no rendering.
    """
    if tokenizer.prompts is not None:
        return tokenizer.prompts.render(
            messages,
            tools,
            add_generation_prompt,
            preserve_thinking=preserve_thinking,
            thinking=thinking,
        )
    kept_from = _first_kept(messages, tokenizer.chat_format, preserve_thinking, thinking)
    turns = _turns(messages, tools, kept_from, tokenizer.chat_format, sort_tool_keys)
    ids = _ids_of(tokenizer, turns)
    return ids + render_opening(tokenizer, thinking) if add_generation_prompt else ids


def render_more(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    *,
    kept_from: int,
    first: int,
) -> list[int]:
    """What `render` gives for `messages` that follow `first` others, without a generation prompt.

    Tools and the default system prompt stand before the first message. Reasoning of messages before
    number `kept_from` of the conversation is left out.
    """
    turns = _turns(messages, tools, kept_from, tokenizer.chat_format, first=first)
    return _ids_of(tokenizer, turns)


def render_opening(tokenizer: Tokenizer, thinking: bool = True) -> list[int]:
    """The generation prompt: the beginning of the turn that the model is asked for."""
    ids: list[int] = []
    _append_ids(ids, tokenizer, _generation_prompt(tokenizer.chat_format, thinking))
    return ids


def render_open(tokenizer: Tokenizer, message: Message) -> list[int]:
    """The beginning of an assistant's turn, left open for the model to go on with.

    Reasoning without content is left open too; content closes it. With neither, only the name of
    the speaker differs from an ordinary generation prompt.
    """
    content = content_text(message, "the partial message")
    reasoning = message.get("reasoning_content")
    parts: list[str] = [IM_ASSISTANT, Constant(message.get("name") or "assistant"), IM_MIDDLE]
    if not tokenizer.chat_format.thinks:
        parts += [content]
    elif content:
        parts += [THINK, reasoning or "", END_THINK, content]
    elif reasoning is not None or tokenizer.chat_format.opens_thinking:
        parts += [THINK, reasoning or ""]
    ids: list[int] = []
    _append_ids(ids, tokenizer, parts)
    return ids


def render_text(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    add_generation_prompt: bool = True,
    *,
    chat_format: ChatFormat = K2_THINKING,
    preserve_thinking: bool = False,
    thinking: bool = True,
    sort_tool_keys: bool = False,
) -> str:
    """What `render` encodes, as text. For people and tests: a text cannot tell a special token
    from a user who spells one."""
    kept_from = _first_kept(messages, chat_format, preserve_thinking, thinking)
    turns = _turns(messages, tools, kept_from, chat_format, sort_tool_keys)
    parts = [part for turn in turns for part in (*turn.header(), *turn.body, IM_END)]
    prompt = _generation_prompt(chat_format, thinking) if add_generation_prompt else []
    return "".join(parts + prompt)


def render_training(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    *,
    preserve_thinking: bool = False,
    learned_from: int = 0,
) -> tuple[list[int], list[int]]:
    """One training sample: token ids, and a mask that is 1 on what the assistant generates.

    That is `<think>` to `<|im_end|>` of each assistant turn of the last tool loop, its final answer
    included, every turn seeing what it would see when served. Turns of earlier, finished loops
    stand there as they are served, with empty `<think></think>` and mask 0; to learn them, pass the
    conversation cut after their answer as a sample of its own. With `preserve_thinking` all
    reasoning is there and every assistant turn is learned. Messages before the index `learned_from`
    have mask 0 in any case.
    """
    kept_from = 0
    if not preserve_thinking:
        roles = [message["role"] for message in messages]
        last = len(roles) - 1 - roles[::-1].index("assistant") if "assistant" in roles else 0
        kept_from = end_of_history(messages[:last])
    ids: list[int] = []
    mask: list[int] = []
    turns = list(_turns(messages, tools, kept_from, tokenizer.chat_format))
    # Turns that stand before the first message are not among `messages`.
    for index, turn in enumerate(turns, start=len(messages) - len(turns)):
        learned = turn.complete_reasoning and index >= learned_from
        _append_ids(ids, tokenizer, turn.header())
        mask.extend([0] * (len(ids) - len(mask)))
        _append_ids(ids, tokenizer, turn.body)
        ids.append(tokenizer.special.im_end)
        mask.extend([int(learned)] * (len(ids) - len(mask)))
    return ids, mask


def _first_kept(
    messages: Sequence[Message], chat_format: ChatFormat, preserve_thinking: bool, thinking: bool
) -> int:
    """Index of the first message whose reasoning is shown."""
    if preserve_thinking:
        return 0
    if chat_format.opens_thinking and not thinking:
        return len(messages)
    return end_of_history(messages)


def end_of_history(messages: Sequence[Message]) -> int:
    """Index after the last assistant message without tool calls: reasoning counts from there."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] == "assistant" and not messages[index].get("tool_calls"):
            return index + 1
    return 0


def _turns(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    kept_from: int,
    chat_format: ChatFormat,
    sort_tool_keys: bool = False,
    first: int = 0,
) -> Iterator[_Turn]:
    """The definition of the format. Reasoning of messages before `kept_from` is left out.

    `first` is the number of `messages[0]` in its conversation.
    """
    if tools and first == 0:
        declared = Constant(_declaration(tools, chat_format, sort_tool_keys))
        yield _Turn(IM_SYSTEM, "tool_declare", [declared])
    system_prompt = chat_format.default_system_prompt
    brings_none = not messages or messages[0]["role"] != "system"
    if first == 0 and brings_none and system_prompt:
        yield _Turn(IM_SYSTEM, "system", [Constant(system_prompt)])
    for index, message in enumerate(messages, first):
        role = message["role"]
        name = message.get("name") or role
        where = f"message {index} ({role})"
        content = content_text(message, where)
        if role == "assistant":
            keep = index >= kept_from
            reasoning = message.get("reasoning_content") or "" if keep else ""
            thinking = [THINK, reasoning, END_THINK] if chat_format.thinks else []
            body = [*thinking, content, *_calls(message, where)]
            yield _Turn(IM_ASSISTANT, name, body, complete_reasoning=keep or not chat_format.thinks)
        elif role == "user":
            yield _Turn(IM_USER, name, [content])
        elif role == "tool":
            call_id = message.get("tool_call_id")
            if not call_id:
                raise BaltoroError(f"{where} has no tool_call_id: say which call it answers.")
            yield _Turn(IM_SYSTEM, name, [f"## Return of {call_id}\n{content}"])
        else:
            yield _Turn(IM_SYSTEM, name, [Constant(content)])


def _calls(message: Message, where: str) -> list[str]:
    calls = message.get("tool_calls")
    if not calls:
        return []
    parts: list[str] = [SECTION_BEGIN]
    for call in calls:
        if not call.get("id"):
            raise BaltoroError(f"{where} has a tool call without an id: give each its own id.")
        arguments = call["function"].get("arguments")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        parts += [CALL_BEGIN, call["id"], ARGUMENT_BEGIN, arguments, CALL_END]
    return [*parts, SECTION_END]


def content_text(message: Message, where: str) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        kind = type(content).__name__
        raise BaltoroError(f"{where}: content is a {kind}; it must be text or a list of parts.")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise BaltoroError(f"{where}: a content part is of type '{kind}'; only text is read.")
        texts.append(text)
    return "".join(texts)


def _declaration(tools: Sequence[Tool], chat_format: ChatFormat, sort_keys: bool) -> str:
    if chat_format.declares_tools == "never":
        raise BaltoroError(
            "this model was not trained with tools, and its template has no place for them. Ask "
            "without tools, or another model."
        )
    if chat_format.declares_tools == "typescript":
        sort_keys = True  # as the published class does, whichever form comes out
        try:
            if declared := typescript.declare(tools):
                return declared
        except typescript.NoTypeError:
            pass  # JSON it is, as in the published class
    return _tools_json(tools, sort_keys)


def _tools_json(tools: Iterable[Tool], sort_keys: bool) -> str:
    """Compact JSON. Nulls that clients add beside a schema go; the schema stays as given."""
    declared: list[dict[str, Any]] = []
    for tool in tools:
        tool = {key: value for key, value in tool.items() if value is not None}
        if isinstance(function := tool.get("function"), dict):
            tool["function"] = {key: value for key, value in function.items() if value is not None}
        declared.append(tool)
    return json.dumps(declared, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)


def _ids_of(tokenizer: Tokenizer, turns: Iterable[_Turn]) -> list[int]:
    ids: list[int] = []
    for turn in turns:
        _append_ids(ids, tokenizer, turn.header())
        _append_ids(ids, tokenizer, turn.body)
        ids.append(tokenizer.special.im_end)
    return ids


def _append_ids(ids: list[int], tokenizer: Tokenizer, parts: Iterable[str]) -> None:
    for part in parts:
        if isinstance(part, Marker):
            ids.append(tokenizer.special_ids[part])
        elif isinstance(part, Constant):
            ids.extend(_encode_constant(tokenizer, part))
        elif part:
            ids.extend(tokenizer.encode(part))


# A system prompt or a list of tools can be long, and a server meets ever new ones.
@lru_cache(maxsize=64)
def _encode_constant(tokenizer: Tokenizer, text: str) -> array[int]:
    return array("i", tokenizer.encode(text))


_NATIVE_ID = re.compile(r"functions\..+:[0-9]{1,9}", re.DOTALL)


class NativeIds:
    """Gives the calls of one conversation, message after message, ids `functions.NAME:INDEX`.

    Native ids are kept, `NAME:INDEX` gets its prefix, any other id becomes the call's name and the
    highest index seen so far plus 1. Only what came before decides, so a growing conversation keeps
    its prefix. Results follow their calls.
    """

    def __init__(self) -> None:
        self.next_index = 0  # the highest so far plus 1
        self._renamed: dict[str, str] = {}

    def rename(self, message: Message) -> Message:
        """The conversation's next message with native ids; the one given is not changed."""
        if calls := message.get("tool_calls"):
            return {**message, "tool_calls": [self._call(call) for call in calls]}
        if message["role"] == "tool" and message.get("tool_call_id") in self._renamed:
            return {**message, "tool_call_id": self._renamed[message["tool_call_id"]]}
        return message

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        given = call.get("id") or ""
        id = _native_id(given, call["function"]["name"], self.next_index)
        self.next_index = max(self.next_index, _index(id) + 1)
        if id != given:
            self._renamed[given] = id
        return {**call, "id": id}


def with_native_ids(messages: Sequence[Message]) -> list[Message]:
    """The conversation with the ids that `NativeIds` gives."""
    ids = NativeIds()
    return [ids.rename(message) for message in messages]


def next_call_index(messages: Sequence[Message]) -> int:
    """The index of the next call in this conversation: the highest so far plus 1."""
    ids = NativeIds()
    for message in messages:
        ids.rename(message)
    return ids.next_index


def _native_id(id: str, name: str, next_index: int) -> str:
    if _NATIVE_ID.fullmatch(id):
        return id
    prefixed = f"functions.{id}"
    if id.startswith(f"{name}:") and _NATIVE_ID.fullmatch(prefixed):
        return prefixed
    return f"functions.{name}:{next_index}"


def _index(native_id: str) -> int:
    return int(native_id.rpartition(":")[2])

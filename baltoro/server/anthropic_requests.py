"""Requests of Anthropic's Messages API as chat requests.

Whatever the chat endpoint promises of calls, thinking and sampling holds here too, because both go
one way. `anthropic_replies.py` has the way back.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from baltoro.server.anthropic_replies import SIGNATURE_PREFIX, signature
from baltoro.server.messages import refuse
from baltoro.server.schemas import Bool, ChatBody, Float, Int, Text

# Accepted, because leaving them out changes nothing in the answer.
HARMLESS = {"metadata", "service_tier", "container", "inference_geo", "cache_control"}


class AnthropicThinking(BaseModel):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[Int, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class AnthropicToolChoice(BaseModel):
    type: Literal["auto", "any", "tool", "none"]
    name: Text | None = None
    disable_parallel_tool_use: Bool | None = None


class CountTokensBody(BaseModel):
    """POST /v1/messages/count_tokens"""

    model_config = ConfigDict(extra="allow")

    model: Text | None = None
    messages: list[dict[str, Any]]
    system: Text | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: AnthropicThinking | None = None

    def chat_fields(self) -> dict[str, Any]:
        """The conversation as a chat request has it. Raises `ApiError` naming what is wrong."""
        messages = [*system_message(self.system)]
        for i, message in enumerate(self.messages):
            messages += read_message(message, f"messages[{i}]")
        if messages and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
            messages[-1]["partial"] = True  # an assistant's turn at the end is to be gone on with
        fields: dict[str, Any] = {"model": self.model, "messages": messages}
        if self.tools:
            fields["tools"] = [read_tool(tool, f"tools[{i}]") for i, tool in enumerate(self.tools)]
        if self.tool_choice is not None:
            fields |= tool_choice_fields(self.tool_choice)
        if self.thinking is not None:
            fields["thinking"] = thinking_fields(self.thinking)
        return fields


class MessagesBody(CountTokensBody):
    """POST /v1/messages"""

    max_tokens: Annotated[Int, Field(ge=1)]
    stream: Bool | None = None
    temperature: Annotated[Float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Int, Field(ge=0)] | None = None
    stop_sequences: Annotated[list[Text], Field(max_length=16)] | None = None

    @property
    def shows_thinking(self) -> bool:
        """Without being asked for, the thinking is done and not shown."""
        return self.thinking is not None and self.thinking.type != "disabled"

    def to_chat(self) -> ChatBody:
        """The same request to the chat endpoint."""
        fields = self.chat_fields()
        for name in ("max_tokens", "stream", "temperature", "top_p", "top_k"):
            fields[name] = getattr(self, name)
        fields["stop"] = self.stop_sequences
        for name, value in (self.model_extra or {}).items():
            if name not in HARMLESS and name not in ChatBody.model_fields:
                fields[name] = value
        return ChatBody.model_validate(fields)


def thinking_fields(thinking: AnthropicThinking) -> dict[str, Any]:
    if thinking.type == "disabled":
        return {"type": "disabled"}
    return {"type": "enabled", "budget_tokens": thinking.budget_tokens}


def tool_choice_fields(choice: AnthropicToolChoice) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if choice.type == "tool":
        if not choice.name:
            refuse("'tool_choice.name' is missing: say which tool.", "tool_choice.name")
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        fields["tool_choice"] = "required" if choice.type == "any" else choice.type
    if choice.disable_parallel_tool_use:
        fields["parallel_tool_calls"] = False
    return fields


def read_tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    kind = tool.get("type") or "custom"
    if kind != "custom":
        refuse(
            f"'{where}.type' is {kind!r}: tools that run in the server do not exist here. "
            "Declare a tool of your own with 'name', 'description' and 'input_schema'.",
            f"{where}.type",
            "unsupported_tool",
        )
    function = {"name": tool.get("name"), "description": tool.get("description")}
    function["parameters"] = tool.get("input_schema")
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    known = {key: value for key, value in function.items() if value is not None}
    return {"type": "function", "function": known}


def system_message(system: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    if not system:
        return []
    if isinstance(system, str):
        return [{"role": "system", "content": system}]
    return [{"role": "system", "content": joined_texts(system, "system")}]


def read_message(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """One message, or several where a user's turn brings the results of tools."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        refuse(f"'{where}.role' is {role!r}; it must be user or assistant.", f"{where}.role")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        at = f"{where}.content"
        refuse(f"'{at}' must be a string or a list of blocks.", at)
    blocks: list[tuple[dict[str, Any], str]] = []
    for i, block in enumerate(content):
        at = f"{where}.content[{i}]"
        if not isinstance(block, dict):
            refuse(f"'{at}' must be an object with 'type'.", at)
        blocks.append((block, at))
    return read_assistant(blocks) if role == "assistant" else read_user(role, blocks)


def read_user(role: str, blocks: list[tuple[dict[str, Any], str]]) -> list[dict[str, Any]]:
    """The results in their order, then what the user says."""
    results, texts = [], []
    for block, where in blocks:
        if block.get("type") == "tool_result":
            results.append(read_result(block, where))
        else:
            texts.append(text_of(block, where))
    return [*results, {"role": role, "content": "\n".join(texts)}] if texts else results


def read_result(block: dict[str, Any], where: str) -> dict[str, Any]:
    content = block.get("content")
    if isinstance(content, list):
        content = joined_texts(content, f"{where}.content")
    elif content is None:
        content = ""
    elif not isinstance(content, str):
        refuse(f"'{where}.content' must be a string or a list of blocks.", f"{where}.content")
    if block.get("is_error") is True:
        content = f"Error: {content}"
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}


def read_assistant(blocks: list[tuple[dict[str, Any], str]]) -> list[dict[str, Any]]:
    thoughts, texts, calls = [], [], []
    for block, where in blocks:
        kind = block.get("type")
        if kind == "thinking":
            thoughts.append(read_thinking(block, where))
        elif kind == "redacted_thinking":
            continue  # another service's secret: it holds nothing that could be read here
        elif kind == "tool_use":
            calls.append(read_tool_use(block, where))
        else:
            texts.append(text_of(block, where))
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [message]


def read_tool_use(block: dict[str, Any], where: str) -> dict[str, Any]:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        refuse(f"'{where}.input' must be an object.", f"{where}.input")
    function = {"name": block.get("name"), "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": block.get("id"), "type": "function", "function": function}


def read_thinking(block: dict[str, Any], where: str) -> str:
    """The text of a block. Signatures of other services are let pass, for they can't be read."""
    thinking, signed = block.get("thinking"), block.get("signature")
    if not isinstance(thinking, str):
        refuse(f"'{where}.thinking' must be a string.", f"{where}.thinking")
    ours = isinstance(signed, str) and signed.startswith(SIGNATURE_PREFIX)
    if ours and signed != signature(thinking):
        refuse(
            f"'{where}.thinking' is not what its signature says. Send thinking blocks back as they "
            "came, or leave the signature out.",
            f"{where}.signature",
            "invalid_signature",
        )
    return thinking


def joined_texts(blocks: list[Any], where: str) -> str:
    return "\n".join(text_of(block, f"{where}[{i}]") for i, block in enumerate(blocks))


def text_of(block: Any, where: str) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind != "text":
        refuse(
            f"'{where}' has type {kind!r}; this model reads text only. "
            'Send {"type": "text", "text": "..."}.',
            f"{where}.type",
            "unsupported_content",
        )
    text = block.get("text")
    if not isinstance(text, str):
        refuse(f"'{where}.text' must be a string.", f"{where}.text")
    return text

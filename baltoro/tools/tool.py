"""What a tool is, and the box that a model's calls go through.

The user of a tool is the model, so whatever it did wrong comes back as a result that says what
was found and what to do, and the conversation goes on. So it does when a tool itself is at fault.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jsonschema
import jsonschema.exceptions

from baltoro.chat import messages
from baltoro.config import BaltoroError

log = logging.getLogger(__name__)

Arguments = dict[str, Any]

MAX_RESULT_CHARS = 100_000  # of one call, whatever the tool says


class Tool(Protocol):
    """Something that a model can call."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON schema of the arguments, an object."""
        ...

    async def call(self, arguments: Arguments) -> str:
        """The result as text. `arguments` fit the schema. Raises `ToolError` for the model; what
        else it raises is logged, and the model is told that the tool failed."""
        ...


# A tool may also say of itself:
#   read_only = True    its calls change nothing, so they need no permission and can be repeated
#   may_repeat = True   asking it the same again and again is no circle (it waits for something)


class ToolError(Exception):
    """A failure that the model can do something about; its text becomes the result of the call."""


@dataclass(frozen=True)
class ToolResult:
    text: str
    failed: bool  # the text says what was wrong


class ToolBox:
    """The tools of one conversation. Safe to use for several calls at the same time."""

    def __init__(self, tools: Sequence[Tool]):
        """Raises `BaltoroError` for a repeated name or for parameters that are no JSON schema."""
        self.tools = {tool.name: tool for tool in tools}
        if len(self.tools) < len(tools):
            names = ", ".join(tool.name for tool in tools)
            raise BaltoroError(f"two tools have the same name in: {names}. Rename one of them.")
        self.validators = {tool.name: _validator(tool) for tool in tools}
        # The tools in the form in which a model is told of them.
        self.schemas: list[messages.Tool] = [_schema(tool) for tool in tools]

    async def run(self, call: messages.ToolCall) -> str:
        """The result of `call`, or a sentence that tells the model what was wrong with it."""
        return (await self.attempt(call)).text

    async def attempt(self, call: messages.ToolCall) -> ToolResult:
        """The same, and whether it failed. Raises nothing but the cancellation of its task."""
        tool = self.tools.get(call.name)
        if tool is None:
            return ToolResult(_sendable(self._no_such_tool(call.name)), True)
        try:
            return ToolResult(_sendable(await tool.call(self._read_arguments(call))), False)
        except ToolError as error:
            return ToolResult(_sendable(str(error)), True)
        except Exception as error:  # a fault of the tool's own costs one call, not the whole run
            log.warning("the tool '%s' failed on %.1000s", call.name, call.arguments, exc_info=True)
            return ToolResult(_sendable(_failure(call.name, error)), True)

    def is_read_only(self, name: str) -> bool:
        """Whether calls of a tool change nothing; one that does not exist changes nothing."""
        return name not in self.tools or getattr(self.tools[name], "read_only", False)

    @property
    def repeatable(self) -> list[str]:
        """The tools that may be asked the same again and again."""
        return [name for name, tool in self.tools.items() if getattr(tool, "may_repeat", False)]

    def _read_arguments(self, call: messages.ToolCall) -> Arguments:
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, RecursionError) as error:  # JSON, a number or a nesting too long
            raise ToolError(
                f"The arguments of '{call.name}' are not valid JSON: {error}. "
                f"Call it again with {self._expected(call.name)}."
            ) from None
        fault = jsonschema.exceptions.best_match(self.validators[call.name].iter_errors(arguments))
        if fault is not None:
            place = f" at {fault.json_path[2:]}" if fault.absolute_path else ""
            raise ToolError(
                f"The arguments of '{call.name}' do not fit its parameters{place}: "
                f"{fault.message}. Call it again with {self._expected(call.name)}."
            )
        return _with_whole_numbers(arguments, self.tools[call.name].parameters)

    def _expected(self, name: str) -> str:
        return f"an object of this schema: {json.dumps(self.tools[name].parameters)}"

    def _no_such_tool(self, name: str) -> str:
        if not self.tools:
            return f"There is no tool '{name}', and there are no other tools. Answer without them."
        near = difflib.get_close_matches(name, self.tools, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"There is no tool '{name}'.{hint} The tools are: {', '.join(self.tools)}."


def _with_whole_numbers(value: Any, schema: Any) -> Any:
    """`value` with 1 for 1.0 wherever its schema says integer, which fits both.

    To JSON they are one number; in Python a float is no index and counts nothing.
    """
    if not isinstance(schema, dict):
        return value  # True and False are schemas too
    for keyword in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(keyword, ()):
            value = _with_whole_numbers(value, part)
    if isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties")
        return {key: _with_whole_numbers(v, named.get(key, others)) for key, v in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(each, schema.get("items")) for each in value]
    is_whole = isinstance(value, float) and value.is_integer()
    # "type" is one name or a list of names.
    return int(value) if is_whole and "integer" in schema.get("type", ()) else value


def _failure(name: str, error: Exception) -> str:
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"The tool '{name}' failed: {said}. Try other arguments, or go on without it."


def _sendable(text: str) -> str:
    """The text, or the beginning and end of a long one with what is left out, in characters that
    any endpoint takes: half of a surrogate pair is a question mark."""
    if len(text) > MAX_RESULT_CHARS:
        half = MAX_RESULT_CHARS // 2
        left_out = f"\n[{len(text) - 2 * half} characters are left out here.]\n"
        text = text[:half] + left_out + text[-half:]
    return text.encode("utf-8", errors="replace").decode()


def _schema(tool: Tool) -> messages.Tool:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {"type": "function", "function": function}


def _validator(tool: Tool) -> jsonschema.Draft202012Validator:
    schema = {"type": "object", **tool.parameters}
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.exceptions.SchemaError as error:
        raise BaltoroError(
            f"the parameters of tool '{tool.name}' are not a JSON schema: {error.message}."
        ) from None
    return jsonschema.Draft202012Validator(schema)

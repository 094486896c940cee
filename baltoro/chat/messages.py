"""What is said between a person, a model and its tools.

A message is a plain dict in OpenAI's form, because that is what travels: `role`, `content`,
and for the assistant `reasoning_content` and `tool_calls`, for a tool `tool_call_id`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Tool = dict[str, Any]  # {"type": "function", "function": {"name", "description", "parameters"}}


@dataclass(frozen=True)
class ToolCall:
    """One call that a model asks for."""

    id: str  # native form: functions.NAME:INDEX, the index counting all calls of a conversation
    name: str
    arguments: str  # JSON as the model wrote it; may be cut short when tokens ran out

    def to_message_part(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}

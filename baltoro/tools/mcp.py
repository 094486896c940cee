"""The tools of MCP servers, through the protocol's official SDK.

async with mcp_tools(["npx some-server", "https://example.com/mcp"]) as tools:
    agent = Agent(model, tools)
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import AsyncIterator, Sequence
from typing import Any

from baltoro.config import BaltoroError
from baltoro.tools.tool import Arguments, Tool, ToolError


class McpTool:
    """One tool of a server. What it returns beside text is named, not shown."""

    def __init__(self, client: Any, declared: Any):
        self.client = client
        self.name: str = declared.name
        self.description: str = declared.description or ""
        self.parameters: dict[str, Any] = declared.input_schema
        annotations = declared.annotations
        self.read_only = bool(annotations and annotations.read_only_hint)

    async def call(self, arguments: Arguments) -> str:
        from mcp import MCPError  # pyright: ignore[reportMissingImports]

        try:
            result = await self.client.call_tool(self.name, arguments)
        except MCPError as error:
            raise ToolError(f"The server of '{self.name}' refused the call: {error}.") from None
        parts = [getattr(part, "text", None) or f"[{part.type}]" for part in result.content]
        text = "\n".join(parts) or "[The tool returned nothing.]"
        if result.is_error:
            raise ToolError(text)
        return text


@contextlib.asynccontextmanager
async def mcp_tools(servers: Sequence[str]) -> AsyncIterator[list[Tool]]:
    """The tools of servers, each an address or a command to start. Raises `BaltoroError`."""
    try:
        from mcp import Client, StdioServerParameters  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BaltoroError(
            "MCP servers need the package mcp. Install it with: pip install 'baltoro[tools]'"
        ) from None
    async with contextlib.AsyncExitStack() as stack:
        tools: list[Tool] = []
        for server in servers:
            try:
                target: Any = server
                if not re.match(r"https?://", server):
                    command, *arguments = shlex.split(server)
                    target = StdioServerParameters(command=command, args=arguments)
                client = await stack.enter_async_context(Client(target))
                listed = await client.list_tools()
            except Exception as error:
                said = str(error) or type(error).__name__
                raise BaltoroError(f"the MCP server '{server}' did not start: {said}.") from error
            tools += [McpTool(client, declared) for declared in listed.tools]
        yield tools

"""Tools of an MCP server that runs as a process of its own."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from baltoro.chat.messages import ToolCall
from baltoro.config import BaltoroError
from baltoro.tools.mcp import mcp_tools
from baltoro.tools.tool import ToolBox

pytest.importorskip("mcp")

SERVER = """
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("tests")

@server.tool()
def add(a: int, b: int) -> str:
    "Add two numbers."
    return str(a + b)

@server.tool()
def fail() -> str:
    raise ToolError("out of paper")

server.run("stdio")
"""


async def test_tools_of_a_server_work_like_any_other():
    async with mcp_tools([f"{shlex.quote(sys.executable)} -c {shlex.quote(SERVER)}"]) as tools:
        box = ToolBox(tools)
        assert [tool.name for tool in tools] == ["add", "fail"]
        call = ToolCall("functions.add:0", "add", json.dumps({"a": 20, "b": 22}))
        assert (await box.attempt(call)).text == "42"
        wrong = await box.attempt(ToolCall("functions.add:1", "add", '{"a": "x"}'))
        assert wrong.failed
        assert "do not fit its parameters" in wrong.text
        broken = await box.attempt(ToolCall("functions.fail:2", "fail", "{}"))
        assert broken.failed
        assert "out of paper" in broken.text


@pytest.mark.parametrize("server", ["/no/such/server", "", "'unclosed"])
async def test_a_server_that_does_not_start_is_named(server):
    with pytest.raises(BaltoroError, match=f"MCP server '{server}' did not start"):
        async with mcp_tools([server]):
            pass

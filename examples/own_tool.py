"""A tool of your own: a name, a description, a JSON schema, and a function."""

import asyncio

from baltoro.agent.loop import Agent
from baltoro.agent.view import TerminalView
from baltoro.chat.chat_model import Sampling
from baltoro.engine.open_model import open_model
from baltoro.tools.tool import ToolError

ENTRIES = {"moss": "fern", "fern": "kite", "kite": "4071"}


class Get:
    name = "get"
    description = "Look up a key and return its value."

    @property
    def parameters(self):
        key = {"type": "string"}
        return {"type": "object", "properties": {"key": key}, "required": ["key"]}

    async def call(self, arguments):
        key = arguments["key"]
        if key not in ENTRIES:
            raise ToolError(f"There is no entry '{key}'.")  # the model reads this and goes on
        return ENTRIES[key]


question = "Look up moss. Each value is the next key to look up. Stop at a number and tell me it."
with open_model("tiny") as model:
    agent = Agent(model, [Get()], sampling=Sampling(temperature=0), observers=[TerminalView()])
    asyncio.run(agent.run([{"role": "user", "content": question}]))

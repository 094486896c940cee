"""An agent in this process: the bundled model with Python in a sandbox."""

import asyncio

from baltoro.agent.loop import Agent
from baltoro.chat.chat_model import Sampling
from baltoro.engine.open_model import open_model
from baltoro.tools.python import PythonTool

with open_model("tiny") as model:
    agent = Agent(model, [PythonTool()], sampling=Sampling(temperature=0))
    run = asyncio.run(agent.run([{"role": "user", "content": "What is 4182 * 977?"}]))
print(run.steps, "steps,", run.tool_calls, "call")
print("answer:", run.answer)

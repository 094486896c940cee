"""Run the tools of a served model yourself. First, in another terminal: make run"""

import asyncio
import json

from openai import OpenAI

from baltoro.tools.python import PythonTool

python = PythonTool()  # runs code in a sandbox
tool = {
    "name": python.name,
    "description": python.description,
    "parameters": python.parameters,
}
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
messages = [{"role": "user", "content": "What is 4182 * 977?"}]
while True:
    reply = client.chat.completions.create(
        model="tiny",
        messages=messages,
        tools=[{"type": "function", "function": tool}],
        temperature=0,
    )
    message = reply.choices[0].message
    # The whole message goes back: the model thinks on from its reasoning_content.
    messages.append(message.model_dump(exclude_none=True))
    if not message.tool_calls:
        break
    for call in message.tool_calls:
        print("call:", call.id, call.function.arguments)
        result = asyncio.run(python.call(json.loads(call.function.arguments)))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
print("answer:", message.content)

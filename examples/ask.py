"""Ask a served model through the openai SDK. First, in another terminal: make run"""

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
reply = client.chat.completions.create(
    model="tiny",
    messages=[{"role": "user", "content": "Which is bigger: 9.11 or 9.9?"}],
    temperature=0,
)
print("thinking:", reply.choices[0].message.reasoning_content)
print("answer:", reply.choices[0].message.content)

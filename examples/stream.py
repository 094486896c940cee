"""Watch a model think, token by token. First, in another terminal: make run"""

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
stream = client.chat.completions.create(
    model="tiny",
    messages=[{"role": "user", "content": "What is 47 + 85?"}],
    temperature=0,
    stream=True,
)
for chunk in stream:
    delta = chunk.choices[0].delta
    thinking = getattr(delta, "reasoning_content", None)
    print(thinking or delta.content or "", end="", flush=True)
print()

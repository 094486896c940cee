"""`serve` as a process of its own, in front of another server."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from baltoro.chat.scripted import ScriptedChatModel
from baltoro.server.app import create_app

START = """
import sys
from baltoro.server.serve import ServeConfig, serve
serve(ServeConfig(upstream=sys.argv[1], port=0, served_model_names=("other",)))
"""


@contextmanager
def serving(upstream: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and what it prints before it listens."""
    command = [sys.executable, "-c", START, upstream]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            lines = iter(process.stdout.readline, "")
            words = ""
            while "print(" not in words:
                words += next(lines)
            yield process, words
        finally:
            process.kill()


def test_serve_says_what_to_try_answers_under_each_name_and_ends_quietly(start_server, sdk):
    script = ["<think>a</think>one", "<think>b</think>two"]
    upstream = start_server(create_app(ScriptedChatModel(script)))
    with serving(f"{upstream}/v1") as (process, welcome):
        url = re.search(r"http://127\.0\.0\.1:\d+", welcome)[0]
        client = sdk.with_options(base_url=f"{url}/v1")
        for name, answer in [("scripted", "one"), ("other", "two")]:
            messages = [{"role": "user", "content": "Hi"}]
            reply = client.chat.completions.create(model=name, messages=messages)
            assert reply.choices[0].message.content == answer
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_the_snippets_of_the_welcome_work_as_they_are(start_server):
    script = ["<think>0.9 > 0.11</think>9.9 is bigger."] * 2
    upstream = start_server(create_app(ScriptedChatModel(script)))
    with serving(f"{upstream}/v1") as (_, welcome):
        python = "from openai" + welcome.split("from openai")[1]
        code = "\n".join(line.removeprefix(" " * 21) for line in python.splitlines())
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert said.stdout == "0.9 > 0.11 -> 9.9 is bigger.\n", said.stderr
        curl = re.search(r"curl http.*?(?=\nWith)", welcome, re.DOTALL)[0]
        said = subprocess.run(["sh", "-c", curl], capture_output=True, text=True)
        assert '"content":"9.9 is bigger."' in said.stdout, said.stderr

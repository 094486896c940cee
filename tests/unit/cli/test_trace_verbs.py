"""`baltoro trace`: text of models is shown as it is, and all runs of a trace are compared."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from baltoro.agent.doctor import Promise
from baltoro.agent.heavy import run_heavy
from baltoro.agent.loop import Agent
from baltoro.agent.trace import Trace
from baltoro.chat.scripted import ScriptedChatModel
from baltoro.cli import agents, main, show
from baltoro.tools.lookup import Lookup

QUESTION = [{"role": "user", "content": "q"}]


@pytest.fixture
def baltoro(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `baltoro` in this process; returns exit code and output."""
    monkeypatch.setattr(show.console, "width", 200)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["baltoro", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().out

    return run


def calling(key: str) -> str:
    return (
        "<think></think><|tool_calls_section_begin|><|tool_call_begin|>functions.get:0"
        f"<|tool_call_argument_begin|>{json.dumps({'key': key})}<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    )


def traced(path, *replies: str, name: str = "scripted"):
    with Trace(path) as trace:
        tool = Lookup({}, description="Get.")
        agent = Agent(ScriptedChatModel(replies, name), [tool], observers=[trace])
        asyncio.run(agent.run(QUESTION))
    return path


def traced_heavy(path, *answers: str):
    """Trajectories with these answers but the last, which is the reflection's."""
    model = ScriptedChatModel([f"<think></think>{answer}" for answer in answers])
    with Trace(path) as trace:
        asyncio.run(
            run_heavy(
                lambda observers: Agent(model, observers=observers),
                QUESTION,
                len(answers) - 1,
                observe=lambda name: [trace.of(name)],
            )
        )
    return path


@pytest.mark.parametrize("text", ["sed -i 's/[/]//' a.txt", "print(data[key], rows[i])", "a :x: b"])
def test_what_looks_like_markup_is_shown_as_it_is(baltoro, tmp_path, text):
    trace = traced(tmp_path / "t", calling(text), f"<think></think>{text}", name="m[key] :x:")
    code, out = baltoro("trace", "show", trace)
    assert code == 0
    assert json.dumps({"key": text}) in out
    assert f"answered: {text}" in out
    assert "m[key] :x:" in out


def test_a_violation_and_a_file_name_are_shown_as_they_are(baltoro, tmp_path):
    trace = traced(tmp_path / "t[key]", "<think></think>a")
    violated = {"event": "violated", "time": 0.0, "step": 1, "rule": "r", "by": "endpoint"}
    with Trace(trace) as more:
        more.write({**violated, "found": "[/x] :x: \x1b[2J"})
    assert "step 1: r: [/x] :x: �[2J" in baltoro("trace", "show", trace)[1]
    assert "t[key]" in baltoro("trace", "diff", trace, trace)[1]


def test_half_of_a_surrogate_pair_becomes_a_question_mark_on_the_page(baltoro, tmp_path):
    trace = traced(tmp_path / "t", "<think></think>half \ud83d pair")
    page = tmp_path / "page.html"
    assert baltoro("trace", "show", trace, "--html", page)[0] == 0
    assert "half ? pair" in page.read_text(encoding="utf-8")
    assert "half � pair" in baltoro("trace", "show", trace)[1]


def test_half_of_a_surrogate_pair_is_escaped_in_json(baltoro, monkeypatch):
    model = ScriptedChatModel(["<think></think>schön \ud83d"])
    monkeypatch.setattr(
        "baltoro.cli.options.ModelOptions.opened", lambda _: contextlib.nullcontext(model)
    )
    code, out = baltoro("agent", "q", "--tools=", "--json")
    assert code == 0
    assert json.loads(out)["answer"] == "schön \ud83d"
    assert "schön \\ud83d" in out


def test_doctor_shows_what_an_endpoint_says_as_it_is(monkeypatch, capsys):
    class Endpoint:
        name, max_context = "m[key] :x:", None

        class dialect:
            name = "generic"

    async def examine(_):
        yield Promise("calls", True, "it said [/x] :x: \x1b[2J")

    monkeypatch.setattr("baltoro.agent.doctor.examine", examine)
    monkeypatch.setattr("baltoro.chat.endpoint.open_endpoint", lambda *_: Endpoint)
    agents.examine_endpoint("http://x/v1", None, "")
    out = capsys.readouterr().out
    assert "m[key] :x: at http://x/v1" in out
    assert "it said [/x] :x: �[2J" in out


def test_traces_of_one_run_are_compared_without_naming_it(baltoro, tmp_path):
    one = traced(tmp_path / "1", "<think></think>a")
    other = traced(tmp_path / "2", "<think></think>b")
    assert baltoro("trace", "diff", one, one)[1].endswith("\nBoth runs do the same.\n")
    code, out = baltoro("trace", "diff", one, other)
    assert code == 1
    assert out.endswith("\nstep 1\n- 'a'\n+ 'b'\n")


def test_each_run_of_heavy_traces_is_compared(baltoro, tmp_path):
    one = traced_heavy(tmp_path / "1", "a", "b", "z")
    other = traced_heavy(tmp_path / "2", "a", "c", "z")
    assert "All 3 do the same." in baltoro("trace", "diff", one, one)[1]
    code, out = baltoro("trace", "diff", one, other)
    assert code == 1
    assert out.count("\nrun 2, step 1\n- 'b'\n+ 'c'\n") == 1
    assert out.count("step 1") == 1
    assert "run reflection" in out


def test_a_run_that_only_one_trace_has_is_a_difference(baltoro, tmp_path):
    one = traced_heavy(tmp_path / "1", "a", "b", "z")
    other = traced_heavy(tmp_path / "2", "a", "b", "c", "z")
    code, out = baltoro("trace", "diff", one, other)
    assert code == 1
    assert out.endswith(f"\nrun 3 is only in {other}.\n")


def test_each_run_of_a_heavy_trace_is_replayed(baltoro, tmp_path, monkeypatch):
    trace = traced_heavy(tmp_path / "1", "a", "b", "z")

    def replayed(*answers: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
        model = ScriptedChatModel([f"<think></think>{answer}" for answer in answers])
        monkeypatch.setattr(
            "baltoro.cli.options.ModelOptions.opened", lambda _: contextlib.nullcontext(model)
        )
        return baltoro("trace", "replay", trace, *options)

    assert replayed("a", "b", "z") == (0, "3 replies do the same, 0 differ, of 3 recorded.\n")
    code, out = replayed("a", "x")
    assert code == 1
    assert out.startswith("run 2, step 1\n- 'b'\n+ 'x'\n1 replies do the same, 1 differ, of 3")
    code, out = replayed("a", "x", "y", options=("--all",))
    assert out.startswith("run 2, step 1\n- 'b'\n+ 'x'\nrun reflection, step 1\n- 'z'\n+ 'y'\n1 ")

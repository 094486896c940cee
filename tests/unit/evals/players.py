"""Scripted models that take benchmarks: one that knows everything, one that guesses, one silent."""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from inspect_ai.dataset import Sample
from inspect_ai.solver._task_state import sample_state

from baltoro.chat.chat_model import ChatRequest, Completion, Event, Usage
from baltoro.chat.messages import ToolCall
from baltoro.chat.template import next_call_index
from baltoro.config import BaltoroError
from baltoro.evals.catalog import BENCHMARKS
from baltoro.evals.data import EXAMPLES, find_data
from baltoro.evals.registry import PARTS

Calls = list[tuple[str, dict[str, Any]]]
Said = str | Calls | None  # an answer, calls, or nothing
Say = Callable[[ChatRequest], Said]


class Player:
    """A model that says what a function of the request gives. `asked` holds the requests."""

    def __init__(self, say: Say, name: str = "player"):
        self.name = name
        self.say = say
        self.asked: list[ChatRequest] = []

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        self.asked.append(request)
        said = self.say(request)
        calls = said if isinstance(said, list) else []
        first = next_call_index(request.messages)
        yield Completion(
            reasoning_content="I see.",
            content=said if isinstance(said, str) else None,
            tool_calls=[
                ToolCall(f"functions.{name}:{first + place}", name, json.dumps(arguments))
                for place, (name, arguments) in enumerate(calls)
            ],
            finish_reason="tool_calls" if calls else "stop",
            usage=Usage(prompt=10, completion=5, reasoning=2, cached=0),
        )


def silent() -> Player:
    return Player(lambda request: None, "silent")


def knowing(benchmark: str, folder: Path | None = EXAMPLES) -> Player:
    """Knows the solution of each item."""
    samples = samples_of(benchmark, folder)
    if benchmark == "tau2-telecom":
        return Player(Caller(samples), "perfect")
    if benchmark == "bfcl":
        return Player(Clerk(samples), "perfect")
    answers = {text_of(sample): solution_of(benchmark, sample) for sample in samples}
    return Player(lambda request: answers[request.messages[0]["content"]], "perfect")


def guessing(benchmark: str, seed: int = 0) -> Player:
    """Answers in the right form, at random."""
    rng = random.Random(seed)

    def say(request: ChatRequest) -> Said:
        if request.tools and rng.random() < 0.5:
            function = rng.choice(request.tools)["function"]
            names = list(function["parameters"].get("properties", {}))
            return [(function["name"], {name: str(rng.random()) for name in names})]
        if benchmark in ("livecodebench-v6", "ojbench"):
            return f"```\nprint({rng.randrange(10**6)})\n```"
        answer = "ABCD"[rng.randrange(4)] if benchmark == "gpqa-diamond" else rng.randrange(10**6)
        return f"ANSWER: {answer}"

    return Player(say, "guessing")


def judge() -> Player:
    """Finds the solution in the response word for word; asked as the judged benchmarks ask."""

    def say(request: ChatRequest) -> Said:
        text = request.messages[-1]["content"]
        if "answer_score" in text:
            reference, given = re.search(r"Reference: (.*)\nAnswer: (.*)", text).groups()
            return json.dumps({"answer_score": int(reference in given.split())})
        response = text.split("[response]: ")[1].split("\n\nYour judgement")[0]
        correct = re.search(r"\[correct_answer\]: (.*)", text).group(1)
        right = correct in re.findall(r"Exact Answer: (.*)", response)
        return f"extracted_final_answer: {response}\n\ncorrect: {'yes' if right else 'no'}"

    return Player(say, "strict-judge")


def samples_of(benchmark: str, folder: Path | None) -> list[Sample]:
    entry = BENCHMARKS[benchmark]
    return PARTS[benchmark].read(find_data(entry, folder).path)


def text_of(sample: Sample) -> str:
    assert isinstance(sample.input, str)
    return sample.input


def solution_of(benchmark: str, sample: Sample) -> str:
    match benchmark:
        case "gsm8k" | "gpqa-diamond":
            return f"Let me see.\n\nANSWER: {sample.target}"
        case "hle" | "browsecomp":
            return f"Explanation: known\nExact Answer: {sample.target}\nConfidence: 90%"
        case "livecodebench-v6" | "ojbench":
            language = "cpp" if benchmark == "ojbench" else "python"
            return f"Here:\n```{language}\n{PROGRAMS[str(sample.id)]}```"
        case "finsearchcomp-t3":
            return f"It is {sample.target} per cent."
        case _:
            return f"So it is \\boxed{{{sample.target}}}."


PROGRAMS = {
    "example-stdin": "print(sum(map(int, input())))\n",
    "example-method": "class Solution:\n    def once(self, values: List[int]) -> List[int]:\n"
    "        counts = Counter(values)\n        return [v for v in values if counts[v] == 1]\n",
    "example-numbers": "a, b = float(input()), float(input())\nprint((a + b) / 2)\n",
    "loj-1": "#include <bits/stdc++.h>\nusing namespace std;\nint main() {\n  int n; cin >> n;\n"
    "  vector<int> v(n); for (int& x : v) cin >> x;\n"
    "  cout << accumulate(v.begin(), v.end(), 0) << '\\n'\n"
    "       << *max_element(v.begin(), v.end()) << '\\n';\n}\n",
    "example_A": "#include <bits/stdc++.h>\nusing namespace std;\nint main() {\n  string line;\n"
    "  getline(cin, line);\n  reverse(line.begin(), line.end());\n  cout << line;\n}\n",
}


class Clerk:
    """Calls the functions of BFCL as its possible answers say."""

    def __init__(self, samples: Sequence[Sample]):
        self.facts = {str(sample.id): sample.metadata for sample in samples}

    def __call__(self, request: ChatRequest) -> Said:
        state = sample_state()
        assert state is not None
        facts = self.facts[str(state.sample_id)]
        match facts["scorer"]:
            case "irrelevance":
                return "None of these functions helps."
            case "relevance":
                function = request.tools[0]["function"]
                return [(function["name"], {})]
            case "multi_turn":
                return self.turn(request, facts)
            case _:
                return [one_call(answer, facts) for answer in facts["parsed_ground_truth"]]

    def turn(self, request: ChatRequest, facts: dict[str, Any]) -> Said:
        if request.messages[-1]["role"] == "tool":
            return "Done."
        # A turn ends with words of the model; it may begin with new functions and no words at all.
        over = [m for m in request.messages if m["role"] == "assistant" and not m.get("tool_calls")]
        wanted = facts["raw_ground_truth"][len(over)]
        parameters = {
            tool["function"]["name"]: list(tool["function"]["parameters"].get("properties", {}))
            for tool in request.tools
        }
        calls = [read_call(text, parameters) for text in wanted]
        return calls or "That can't be done with what I have."


def one_call(
    answer: dict[str, dict[str, list[Any]]], facts: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The first possible value of each parameter; one that may be left out is."""
    ((name, parameters),) = answer.items()
    function = next(tool for tool in facts["tools"] if tool["name"] == name)
    required = function["parameters"].get("required", [])
    chosen = {
        key: next((value for value in values if value != ""), "")
        for key, values in parameters.items()
        if key in required or (values and "" not in values)
    }
    return name.replace(".", "_"), chosen


def read_call(text: str, parameters: dict[str, list[str]]) -> tuple[str, dict[str, Any]]:
    """`cp(source='a', destination='b')` as a call; unnamed arguments are the first parameters."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
    given = zip(parameters.get(name, []), call.args, strict=False)
    arguments = {key: ast.literal_eval(value) for key, value in given}
    return name, arguments | {k.arg: ast.literal_eval(k.value) for k in call.keywords}


class Caller:
    """Plays both sides of tau2: whoever's turn it is makes the next call of the solution.

    Each side ends its words with how many calls were made, so the conversation is all it needs.
    """

    def __init__(self, samples: Sequence[Sample]):
        self.actions = {
            str(sample.id): sample.metadata["task"]["evaluation_criteria"]["actions"] or []
            for sample in samples
        }

    def __call__(self, request: ChatRequest) -> Said:
        state = sample_state()
        assert state is not None
        actions, done = self.actions[str(state.sample_id)], calls_made(request)
        agent = "customer service agent that helps" in request.messages[0]["content"]
        if done == len(actions):
            return f"All is well, I think. [{done}]" if agent else "###STOP###"
        if actions[done]["requestor"] != ("assistant" if agent else "user"):
            return f"Please go on. [{done}]"
        return [(actions[done]["name"], actions[done]["arguments"])]


def calls_made(request: ChatRequest) -> int:
    """As the last words that say it, and what was called since."""
    since = 0
    for message in reversed(request.messages):
        since += len(message.get("tool_calls") or [])
        told = re.search(r"\[(\d+)\]\s*$", message.get("content") or "")
        if told and message["role"] in ("user", "assistant"):
            return int(told.group(1)) + since
    return since


def play(
    benchmark: str,
    player: Player,
    folder: Path,
    data: Path | None = EXAMPLES,
    *,
    resume: bool = False,
    **changes: Any,
) -> Any:
    """The result of a benchmark's run in `folder`."""
    import dataclasses

    from baltoro.evals.run import Models, Plan, measure
    from baltoro.evals.solver import Way

    entry = BENCHMARKS[benchmark]
    setting = entry.setting(None)
    if setting is None:
        raise BaltoroError("no setting")
    changes = {"repeats": 1, "tools": "" if "search" in setting.tools else setting.tools} | changes
    limit, heavy = changes.pop("limit", None), changes.pop("heavy", 1)
    told = {"tell": changes.pop("tell")} if "tell" in changes else {}
    concurrency = changes.pop("concurrency", 4)
    plan = Plan(
        benchmark=entry,
        way=Way(setting=dataclasses.replace(setting, **changes), heavy=heavy),
        data=find_data(entry, data),
        model=player.name,
        quantization="none",
        judge="strict-judge" if entry.judged else player.name if entry.simulated_user else None,
        limit=limit,
    )
    models = Models(
        measured=player, judge=judge() if entry.judged else None, concurrency=concurrency
    )
    return measure(plan, models, folder, resume=resume, **told)

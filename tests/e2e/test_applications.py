"""The harness of the applications, driven by a scripted model.

What this proves: tools, grading and checks work for right and for wrong work. It says nothing of
what any model can do.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from baltoro.chat.chat_model import Sampling
from baltoro.chat.scripted import ScriptedChatModel
from baltoro.checkpoint.bundled import bundled_models
from baltoro.tools.index import Document, Index, read_documents

APPLICATIONS = Path(__file__).parents[2] / "examples" / "applications"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, APPLICATIONS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def calling(index: int, name: str, **arguments: object) -> str:
    return (
        "<think>Go on.</think><|tool_calls_section_begin|><|tool_call_begin|>functions."
        f"{name}:{index}<|tool_call_argument_begin|>{json.dumps(arguments)}<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    )


repair = load("repair")
COMPILERS = {"python": "python3", "javascript": "node", "java": "javac", "cpp": "g++"}


def changes(patch: str) -> tuple[str, list[tuple[str, str]]]:
    """The file of a unified diff, and the old and new text of each of its parts."""
    head, *parts = patch.split("\n@@")
    name = head.split("+++ b/")[1].split("\n")[0]
    pairs = []
    for part in parts:
        lines = part.split("\n")[1:]
        old = [line[1:] for line in lines if line[:1] in ("-", " ")]
        new = [line[1:] for line in lines if line[:1] in ("+", " ")]
        pairs.append(("\n".join(old), "\n".join(new)))
    return name, pairs


@pytest.mark.parametrize("sample", repair.read_samples(), ids=lambda sample: sample["language"])
async def test_a_repair_is_graded_by_the_hidden_tests(sample):
    if shutil.which(COMPILERS[sample["language"]]) is None:
        pytest.skip(f"{COMPILERS[sample['language']]} is not installed")
    model = ScriptedChatModel([calling(0, "shell", command="ls"), "<think></think>All is well."])
    idle = await repair.repair(model, sample)
    assert not idle.resolved
    assert sorted(idle.failed) == sorted(sample["FAIL_TO_PASS"])
    assert idle.patch == ""

    name, parts = changes(sample["patch"])
    calls = [
        calling(i, "files", action="replace", path=name, old=old, new=new)
        for i, (old, new) in enumerate(parts)
    ]
    done = await repair.repair(ScriptedChatModel([*calls, "<think></think>Repaired."]), sample)
    assert done.resolved, done.failed
    assert done.patch == sample["patch"]


desk = load("desk")


def written(solution: list[dict]) -> list[str]:
    """The assistant's turns of a demonstration as a model generates them."""
    said = [message for message in solution if message["role"] == "assistant"]
    return [
        calling(i, call["name"], **json.loads(call["arguments"]))
        if (calls := message.get("tool_calls")) and (call := calls[0]["function"])
        else f"<think>So.</think>{message['content']}"
        for i, message in enumerate(said)
    ]


@pytest.fixture(scope="module")
def calls() -> list[Any]:
    """Every way that a call to the support desk can go, whole demonstrations only."""
    made = desk.cases(100, 0)
    return [
        case for case in made if case.problems[0].solution[-1]["content"] == case.problems[0].answer
    ]


async def test_the_support_desk_is_right_when_database_and_words_are(calls):
    outcomes = set()
    for case in calls:
        (problem,) = case.problems
        model = ScriptedChatModel(written(problem.solution))
        run, faults = await desk.answer_call(model, case, Sampling())
        assert faults == []
        assert (run.answer, run.violations) == (problem.answer, 0)
        outcomes.add("".join(c for c in problem.answer if not c.isdigit()))
    assert len(outcomes) == 7  # each sentence of the policy came up


async def test_the_support_desk_sees_wrong_deeds_missing_words_and_idleness(calls):
    acting = [c for c in calls if "I added" in c.problems[0].answer and len(written_of(c)) == 3]
    told = [c for c in calls if "pay your bill" in c.problems[0].answer and len(written_of(c)) == 3]
    look, act, say = written_of(acting[0])
    for script, fault in [
        ([look, say], "the database holds"),
        ([look, act, act.replace(":1", ":2"), say], "the database holds"),
        ([look, act.replace("add_data", "roaming_on"), say], "the database holds"),
        ([look, act, "<think></think>It is done."], "the caller was not told of 5"),
        ([look, act, "<think></think>I added 55 GB."], "the caller was not told of 5"),
    ]:
        _, found = await desk.answer_call(ScriptedChatModel(script), acting[0], Sampling())
        assert any(each.startswith(fault) for each in found), (script, found)
    look, act, _ = written_of(told[0])
    bill = re.findall(r"\d+", told[0].problems[0].answer)[0]
    polite = f"<think></think>There is a bill of {bill}, which I sent to you. Please pay it!"
    assert (await desk.answer_call(ScriptedChatModel([look, act, polite]), told[0], Sampling()))[
        1
    ] == []


def written_of(case: Any) -> list[str]:
    return written(case.problems[0].solution)


def test_the_support_desk_runs_on_the_bundled_model():
    """That it runs; whether tiny is right is for the model card."""
    if "tiny" not in bundled_models():
        pytest.skip("the bundled model is not there: make it with recipes/tiny.sh")
    command = [sys.executable, str(APPLICATIONS / "desk.py"), "--cases", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"[01] of 1 calls are right", done.stdout)


async def test_citations_are_checked_word_for_word(tmp_path):
    pytest.importorskip("trafilatura")
    research = load("research")
    index = Index(tmp_path / "corpus.db", create=True)
    index.add(read_documents(research.CORPUS))
    steps = [calling(0, "search", query="debris thinning"), calling(1, "open", id="ice-01")]
    good = 'Slowly [ice-01: "thinned by 0.11 metres per year only"].'
    wrong = 'Fast [ice-01: "thinned by 9 metres"] [ice-02: "0.38 metres"].'
    for answer, faults in [
        (good, []),
        (wrong, ["[ice-01] does not say: thinned by 9 metres", "[ice-02] was never opened"]),
        ("Slowly.", ["the answer cites nothing"]),
    ]:
        model = ScriptedChatModel([*steps, f"<think></think>{answer}"])
        _, found = await research.research(model, "How fast?", index)
        assert found == faults
    index.close()


async def test_addresses_and_quotation_marks_in_citations_are_checked_too(tmp_path):
    research = load("research")
    id = "https://arxiv.org/abs/1"
    index = Index(tmp_path / "corpus.db", create=True)
    index.add([Document(id, "Ice", 'They call it "dead ice", and it melts.')])
    for answer, faults in [
        (f'So [{id}: "it melts"].', []),
        (f'So [{id}: "call it "dead ice", and"] and [{id}: “it melts.”].', []),
        (
            f'So [{id}: "it melts"] [https://arxiv.org/abs/2: "it grows"].',
            ["[https://arxiv.org/abs/2] was never opened"],
        ),
        (f'So [{id}: "it "grows" here"].', [f'[{id}] does not say: it "grows" here']),
        (f'So [{id}: ""].', [f"[{id}] does not say: "]),
    ]:
        model = ScriptedChatModel([calling(0, "open", id=id), f"<think></think>{answer}"])
        _, found = await research.research(model, "Does it melt?", index)
        assert found == faults
    index.close()


async def test_the_numbers_of_an_analysis_are_checked_against_the_table():
    table = load("table")
    right = table.expected()
    code = "import csv\nrows = list(csv.DictReader(open('/workspace/orders.csv')))"
    steps = [calling(0, "python", code=code), calling(1, "python", code="len(rows)")]
    model = ScriptedChatModel([*steps, f"<think></think>So it is: {json.dumps(right)}"])
    run, faults = await table.analyse(model)
    assert faults == []
    assert [m["content"] for m in run.messages if m["role"] == "tool"][1] == "240"
    assert table.check('{"region": "nowhere"}')[0].startswith("region is nowhere, not ")
    assert table.check("about 12") == ["the answer ends with no JSON object"]

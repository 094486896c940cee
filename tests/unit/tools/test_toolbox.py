"""What a model is told about its calls."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

import pytest

from baltoro.chat.messages import ToolCall
from baltoro.config import BaltoroError
from baltoro.tools.lookup import Lookup
from baltoro.tools.tool import ToolBox


class Repeat:
    name = "repeat"
    description = "Say a word several times."
    parameters: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {"word": {"type": "string"}, "times": {"type": "integer", "minimum": 1}},
        "required": ["word"],
        "additionalProperties": False,
    }

    async def call(self, arguments: dict[str, Any]) -> str:
        return " ".join([arguments["word"]] * arguments.get("times", 1))


class Broken(Repeat):
    def __init__(self, fault: Exception):
        self.fault = fault

    async def call(self, arguments: dict[str, Any]) -> str:
        raise self.fault


class Waiting(Repeat):
    async def call(self, arguments: dict[str, Any]) -> str:
        await asyncio.sleep(60)
        return "too late"


def lookup() -> Lookup:
    return Lookup({"oslo": "cold", "rome": "warm"}, description="Get the weather of a city.")


def call(name: str, arguments: str) -> ToolCall:
    return ToolCall(id=f"functions.{name}:0", name=name, arguments=arguments)


async def test_a_call_returns_what_its_tool_says():
    box = ToolBox([Repeat(), lookup()])
    assert await box.run(call("repeat", '{"word": "hey", "times": 2}')) == "hey hey"
    assert await box.run(call("get", '{"key": "rome"}')) == "warm"


async def test_an_unknown_tool_is_answered_with_the_names_there_are():
    box = ToolBox([Repeat(), lookup()])
    said = await box.run(call("repaet", "{}"))
    assert said == ("There is no tool 'repaet'. Did you mean 'repeat'? The tools are: repeat, get.")
    said = await box.run(call("browse", "{}"))
    assert said == "There is no tool 'browse'. The tools are: repeat, get."
    assert "no other tools" in await ToolBox([]).run(call("get", "{}"))


@pytest.mark.parametrize(
    ("arguments", "explanation"),
    [
        ('{"word": "he', "not valid JSON: Unterminated string"),
        ("", "not valid JSON"),
        ('{"word": ' + "7" * 5000 + "}", "not valid JSON: Exceeds the limit"),
        ('{"word": ' + "[" * 200_000, "not valid JSON"),
        ("[1]", "[1] is not of type 'object'"),
        ('"hey"', "'hey' is not of type 'object'"),
        ("{}", "'word' is a required property"),
        ('{"word": 3}', "parameters at word: 3 is not of type 'string'"),
        ('{"word": "a", "times": 0}', "0 is less than the minimum of 1"),
        ('{"word": "a", "tiems": 2}', "'tiems' was unexpected"),
    ],
)
async def test_wrong_arguments_are_answered_with_the_fault_and_the_schema(arguments, explanation):
    said = await ToolBox([Repeat()]).run(call("repeat", arguments))
    assert explanation in said
    assert '"times": {"type": "integer"' in said


async def test_a_missing_entry_is_answered_with_the_nearest_one():
    said = await ToolBox([lookup()]).run(call("get", '{"key": "oslow"}'))
    assert said == "There is no entry 'oslow'. Did you mean 'oslo'?"
    said = await ToolBox([lookup()]).run(call("get", '{"key": "xyz"}'))
    assert said == "There is no entry 'xyz'."


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ZeroDivisionError(), "ZeroDivisionError"),
        (OSError(7, "Argument list too long"), "OSError: [Errno 7] Argument list too long"),
        # Only a clock outside the tool is a limit of the task.
        (TimeoutError("no answer"), "TimeoutError: no answer"),
        (BaltoroError("nothing is installed"), "BaltoroError: nothing is installed"),
    ],
)
async def test_a_fault_of_the_tool_itself_is_told_and_logged_and_ends_nothing(fault, said, caplog):
    async with asyncio.timeout(60):
        result = await ToolBox([Broken(fault)]).attempt(call("repeat", '{"word": "a"}'))
    assert result.failed
    assert result.text == (
        f"The tool 'repeat' failed: {said}. Try other arguments, or go on without it."
    )
    assert '\'repeat\' failed on {"word": "a"}' in caplog.text
    assert type(fault).__name__ in caplog.text


async def test_a_clock_around_a_call_ends_it():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ToolBox([Waiting()]).attempt(call("repeat", '{"word": "a"}'))


class Echo:
    name = "echo"
    description = "Say what came."
    parameters: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "page": {"type": "integer"},
            "price": {"type": "number"},
            "maybe": {"type": ["integer", "null"]},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "rows": {"type": "array", "items": {"additionalProperties": {"type": "integer"}}},
            "free": True,
        },
    }

    async def call(self, arguments: dict[str, Any]) -> str:
        return repr(arguments)


async def test_a_whole_number_arrives_as_an_integer_where_the_schema_says_so():
    box = ToolBox([Echo()])
    given = '{"page": 1.0, "price": 1.0, "maybe": 2.0, "either": 3e0, "rows": [{"a": 4.0}, 5.0]'
    assert await box.run(call("echo", given + ', "free": 6.0, "unknown": 7.0}')) == (
        "{'page': 1, 'price': 1.0, 'maybe': 2, 'either': 3, 'rows': [{'a': 4}, 5.0], "
        "'free': 6.0, 'unknown': 7.0}"
    )
    assert "1.5 is not of type 'integer'" in await box.run(call("echo", '{"page": 1.5}'))
    assert await box.run(call("echo", '{"maybe": null}')) == "{'maybe': None}"


async def test_a_result_can_be_sent_to_every_endpoint():
    said = await ToolBox([Repeat()]).run(call("repeat", json.dumps({"word": "half \ud83d"})))
    assert said == "half ?"
    assert (await ToolBox([]).run(call("\ud83d", "{}"))).startswith("There is no tool '?'")


def test_tools_are_offered_in_openai_form():
    assert ToolBox([lookup()]).schemas == [
        {
            "type": "function",
            "function": {
                "name": "get",
                "description": "Get the weather of a city.",
                "parameters": {
                    "type": "object",
                    "properties": {"key": {"type": "string"}},
                    "required": ["key"],
                },
            },
        }
    ]


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(BaltoroError, match="same name in: get, get"):
        ToolBox([lookup(), lookup()])


def test_parameters_that_are_no_schema_are_refused():
    tool = Repeat()
    tool.parameters = {"type": "objekt"}  # type: ignore[misc]
    with pytest.raises(BaltoroError, match="tool 'repeat' are not a JSON schema"):
        ToolBox([tool])

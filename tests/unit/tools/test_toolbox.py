"""What a model is told about its calls."""

from __future__ import annotations

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
    async def call(self, arguments: dict[str, Any]) -> str:
        raise ZeroDivisionError


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


async def test_a_fault_of_the_tool_itself_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        await ToolBox([Broken()]).run(call("repeat", '{"word": "a"}'))


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

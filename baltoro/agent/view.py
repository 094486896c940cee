"""A run in the terminal: thinking dimmed, calls and results in a few lines, the answer plain."""

from __future__ import annotations

import json

from rich.console import Console
from rich.text import Text

from baltoro.agent.events import Event, Finished, Replied, Returned, Run
from baltoro.chat.chat_model import ContentDelta, ReasoningDelta
from baltoro.chat.messages import ToolCall

MAX_LINES = 12  # of a call or a result
MAX_CHARS = 1200

STOPPED = {
    "step_limit": "Stopped at the limit of steps. More are allowed with --max-steps.",
    "token_limit": "Stopped at the limit of tokens.",
    "time_limit": "Stopped at the time limit.",
    "reply_cut": "The reply was cut: --max-tokens is reached.",
    "no_answer": "The model thought, but did not answer. Ask again or in other words.",
}

# A model's text must not steer the terminal, and half of a surrogate pair can not be printed.
_REPLACED = [*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]
_VISIBLE = {code: "�" for code in _REPLACED if chr(code) not in "\n\t"}


class TerminalView:
    """Observes runs and prints them as they happen.

    When the output is not a terminal it gets the answers alone, so that they can be piped; the
    rest goes to `aside`, the standard error.
    """

    def __init__(
        self, output: Console | None = None, aside: Console | None = None, *, summary: bool = False
    ):
        self.output = output or Console(highlight=False)
        piped = aside or Console(stderr=True, highlight=False)
        self.aside = self.output if self.output.is_terminal else piped
        self.summary = summary  # print a line about the whole run at its end
        self.writing: str | None = None  # the style of the text whose line is not ended yet

    def __call__(self, event: Event) -> None:
        match event:
            case ReasoningDelta(text):
                self._write(text, "dim")
            case ContentDelta(text):
                self._write(text, "")
            case Replied():
                self._end_text()
            case Returned(call=call, result=result):
                self._show_call(call)
                self._show_result(result)
            case Finished(run):
                self._show_end(run)

    def _write(self, text: str, style: str) -> None:
        if self.writing not in (None, style):
            self._end_text()
        if self.writing is None:
            text = text.lstrip("\n")
        if text:
            self.writing = style
            self._console(style).print(Text(_safe(text), style), end="", soft_wrap=True)

    def _end_text(self) -> None:
        if self.writing is not None:
            self._console(self.writing).print()
        self.writing = None

    def _console(self, style: str) -> Console:
        return self.aside if style else self.output

    def _show_call(self, call: ToolCall) -> None:
        first, *more = shorten(readable_arguments(call)).split("\n")
        head = Text.assemble(("→ ", "cyan"), (_safe(call.name), "bold cyan"), " ", _safe(first))
        self.aside.print(head, soft_wrap=True)
        for line in more:
            self.aside.print(Text(f"  {_safe(line)}"), soft_wrap=True)

    def _show_result(self, result: str) -> None:
        mark = "←"
        for line in shorten(result).split("\n"):
            self.aside.print(Text(f"{mark} {_safe(line)}", "green"), soft_wrap=True)
            mark = " "

    def _show_end(self, run: Run) -> None:
        if run.stop_reason in STOPPED:
            self.aside.print(Text(STOPPED[run.stop_reason], "yellow"), soft_wrap=True)
        if self.summary:
            self.aside.print(Text(summary(run), "dim"), soft_wrap=True)


def readable_arguments(call: ToolCall) -> str:
    """The arguments as a person would write them: code as code, otherwise `name=value`."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):  # JSON, a number or a nesting too long
        return call.arguments
    if not isinstance(arguments, dict):
        return call.arguments
    if len(arguments) == 1:
        (value,) = arguments.values()
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in arguments.items())


def shorten(text: str) -> str:
    """The first lines of a long text, and how much more there is."""
    lines = text[:MAX_CHARS].rstrip("\n").split("\n")
    shown = "\n".join(lines[:MAX_LINES])
    left = len(text.rstrip("\n")) - len(shown)
    return f"{shown}\n… {left:,} more characters" if left > 0 else shown


def summary(run: Run) -> str:
    usage = run.usage
    return (
        f"{_count(run.steps, 'step')}, {_count(run.tool_calls, 'call')}, "
        f"{_count(usage.completion, 'token')} ({usage.reasoning:,} thinking), {run.seconds:.1f} s"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _safe(text: str) -> str:
    return text.translate(_VISIBLE)

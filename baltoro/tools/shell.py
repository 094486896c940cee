"""The tool `shell`: a command line in the sandbox."""

from __future__ import annotations

from typing import Any

from baltoro.tools.bubblewrap import Bubblewrap
from baltoro.tools.python import describe
from baltoro.tools.sandbox import Limits, MakeSandbox, Workspace
from baltoro.tools.tool import Arguments

# The line comes through standard input, which is then at its end: as an argument of bash the kernel
# takes 128 KiB at most.
BASH = ("/bin/bash", "-c", 'eval -- "$(cat)"')


class ShellTool:
    """Runs each command line in a sandbox of its own; the files in the workspace stay."""

    name = "shell"

    def __init__(
        self,
        workspace: Workspace,
        limits: Limits | None = None,
        sandbox: MakeSandbox = Bubblewrap,
    ):
        """Raises `BaltoroError` when there is no working sandbox."""
        self.sandbox = sandbox(limits, workspace)

    @property
    def description(self) -> str:
        limits = self.sandbox.limits
        return (
            f"Run a command line with bash in {Workspace.INSIDE} and return its output and exit "
            "code. Files there stay; processes end with the command, and variables and the folder "
            f"are as at first. No network, {limits.wall_seconds:g} seconds, "
            f"{limits.memory_bytes >> 20} MiB for a process, {limits.output_bytes} bytes of output."
        )

    @property
    def parameters(self) -> dict[str, Any]:
        command = {"type": "string"}
        return {"type": "object", "properties": {"command": command}, "required": ["command"]}

    async def call(self, arguments: Arguments) -> str:
        line = arguments["command"].encode("utf-8", errors="replace")
        if b"\0" in line:
            return "[A command line cannot hold a NUL character.]"
        outcome = await self.sandbox.run(BASH, line)
        text = describe(outcome, self.sandbox.limits)
        if outcome.exit_code:
            text += f"\n[exit {outcome.exit_code}]"
        return text.strip("\n") or "[No output.]"

"""python, shell and files in one workspace, used as a model would."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from baltoro.chat.messages import ToolCall
from baltoro.config import BaltoroError
from baltoro.tools.files import FilesTool
from baltoro.tools.python_session import NEW, PythonSession
from baltoro.tools.sandbox import Limits, Workspace
from baltoro.tools.shell import ShellTool
from baltoro.tools.tool import ToolBox

QUICK = Limits(wall_seconds=60)


@pytest.fixture
def workspace():
    space = Workspace()
    yield space
    space.close()


@pytest.fixture
async def session(workspace):
    tool = PythonSession(workspace, QUICK)
    yield tool
    await tool.close()


async def use(tool, **arguments) -> str:
    return await ToolBox([tool]).run(ToolCall("functions.x:0", tool.name, json.dumps(arguments)))


async def test_the_interpreter_remembers_and_prints_what_the_code_says(session):
    assert await use(session, code="import math\nx = 20") == "[The code printed nothing.]"
    assert await use(session, code="math.factorial(x)") == "2432902008176640000"
    assert "ZeroDivisionError" in await use(session, code="1 / 0")
    assert await use(session, code="x") == "20"
    assert await use(session, code="import sys; sys.exit(3)") == (
        "[exit 3; the interpreter goes on]"
    )
    assert await use(session, code="print('a\\u2028b'); import os; os.system('echo c')") == (
        "a\u2028b\nc\n0"
    )


async def test_an_interpreter_that_ends_is_replaced_and_that_is_said(session):
    await use(session, code="x = 1")
    said = await use(session, code="import os; print('bye', flush=True); os._exit(0)")
    assert said == "bye\n[The code ended the interpreter.]"
    said = await use(session, code="x")
    assert said.startswith(NEW)
    assert "NameError" in said


async def test_code_that_does_not_end_is_stopped(workspace):
    session = PythonSession(workspace, Limits(wall_seconds=1))
    assert await use(session, code="while True: pass") == "[Stopped after 1 seconds.]"
    await session.close()


async def test_the_interpreter_outlives_the_time_that_one_call_has(workspace):
    session = PythonSession(workspace, Limits(wall_seconds=3))
    await use(session, code="x = 42")
    await asyncio.sleep(3 + 6)
    assert await use(session, code="x") == "42"
    await session.close()


async def test_children_of_the_code_and_long_output_do_no_harm(session):
    code = "import os\nif os.fork() == 0: x = 'child'\nelse: x = 'parent'; os.wait()\nx"
    assert (await use(session, code=code)).splitlines()[-1] == "'parent'"
    assert await use(session, code="x") == "'parent'"
    said = await use(session, code="print('y' * 10**6)")
    assert said.startswith("[Only the first 20000 bytes are shown.]\nyyy")
    assert len(said) < 20_100
    assert await use(session, code="x") == "'parent'"


async def test_the_tools_share_files(workspace, session):
    shell, files = ShellTool(workspace, QUICK), FilesTool(workspace, QUICK)
    assert await use(files, action="write", path="a/b.txt", text="one\ntwo\n") == (
        "/workspace/a/b.txt is written: 2 lines."
    )
    assert await use(shell, command="cat a/b.txt; ls missing") == (
        "one\ntwo\nls: cannot access 'missing': No such file or directory\n[exit 2]"
    )
    assert await use(session, code="open('/workspace/a/b.txt').read()") == "'one\\ntwo\\n'"
    assert await use(files, action="view", path=".") == "a/"
    for path in ("a/b.txt", "/a/b.txt", "/workspace/a/b.txt"):
        assert await use(files, action="view", path=path) == "    1 one\n    2 two\n    3 "
    changed = await use(files, action="replace", path="a/b.txt", old="two", new="three")
    assert "    2 three" in changed
    assert await use(files, action="search", path=".", pattern="th.ee") == "a/b.txt:2: three"


async def test_mistakes_with_files_are_answered_with_what_to_do(workspace):
    files = FilesTool(workspace, QUICK)
    await use(files, action="write", path="f.py", text="  x = 1\nx = 1\n")
    said = await use(files, action="replace", path="f.py", old="x = 1", new="y")
    assert "occurs 2 times" in said
    said = await use(files, action="replace", path="f.py", old="    x = 1\nz", new="y")
    assert "does not occur" in said
    assert "Line 1 is '  x = 1'" in said
    assert "Beside it are: f.py" in await use(files, action="view", path="g.py")
    assert "needs 'text'" in await use(files, action="write", path="f.py")
    assert "no regular expression" in await use(files, action="search", path=".", pattern="(")


async def test_a_command_line_may_be_long_and_is_what_bash_would_be_given(workspace):
    shell = ShellTool(workspace, QUICK)
    text = "a" * 140_000
    said = await use(shell, command=f"cat > f.txt <<'X'\n{text}\nX\nwc -c f.txt; exit 3")
    assert said == "140001 f.txt\n[exit 3]"
    assert await use(shell, command='cat; pwd; echo $? $LINENO "$0"; false\n\n') == (
        "/workspace\n0 1 /bin/bash\n[exit 1]"
    )
    assert await use(shell, command="-x") == (
        "/bin/bash: line 1: -x: command not found\n[exit 127]"
    )
    assert await use(shell, command="cat <<X\n\ta 'b' \\$c\nX\n") == "\ta 'b' $c"
    assert "[exit 2]" in await use(shell, command="echo (")
    assert "NUL" in await use(shell, command="echo \0")


@pytest.mark.parametrize(
    "change",
    [
        {"action": "write", "text": "y = '\ud83d'\n"},
        {"action": "replace", "old": "x", "new": "'\ud83d'"},
    ],
    ids=lambda change: change["action"],
)
async def test_a_change_that_fails_leaves_the_file_as_it_was(workspace, change):
    files = FilesTool(workspace, QUICK)
    await use(files, action="write", path="a.py", text="x = 1\n")
    said = await use(files, path="a.py", **change)
    assert said == (
        "Nothing is written to /workspace/a.py: the new text has half of a surrogate pair "
        "('\\ud83d'), which no text in UTF-8 can hold. Write the whole character."
    )
    assert (workspace.folder / "a.py").read_text() == "x = 1\n"
    full = FilesTool(workspace, Limits(wall_seconds=60, file_bytes=4096))
    assert "File too large" in await use(full, action="write", path="a.py", text="y" * 5000)
    assert (workspace.folder / "a.py").read_text() == "x = 1\n"
    assert [each.name for each in workspace.folder.iterdir()] == ["a.py"]


async def test_a_changed_file_keeps_its_mode_and_its_links(workspace):
    files, shell = FilesTool(workspace, QUICK), ShellTool(workspace, QUICK)
    await use(
        shell,
        command="echo one > a.sh; chmod 751 a.sh; ln -s a.sh link; echo r > r; chmod 444 r; umask",
    )
    await use(files, action="replace", path="link", old="one", new="two")
    assert await use(files, action="write", path="new", text="") == (
        "/workspace/new is written: 0 lines."
    )
    assert await use(shell, command="stat -c '%a %N' a.sh link new; cat a.sh") == (
        "751 'a.sh'\n777 'link' -> 'a.sh'\n644 'new'\ntwo"
    )
    assert "may not be written: its mode is 444" in await use(
        files, action="write", path="r", text="x"
    )
    assert "is a folder" in await use(files, action="write", path=".", text="x")


async def test_only_the_whole_name_of_the_workspace_is_taken_from_a_path(workspace):
    files = FilesTool(workspace, QUICK)
    await use(files, action="write", path="/workspace2/x.txt", text="hi")
    assert (workspace.folder / "workspace2" / "x.txt").read_text() == "hi"
    assert await use(files, action="view", path="/workspace") == "workspace2/"
    assert await use(files, action="view", path="/workspace/workspace2/x.txt", line=1.0) == (
        "    1 hi"
    )


async def test_a_search_says_what_is_not_there_and_what_it_does_not_read(workspace):
    files = FilesTool(workspace, QUICK)
    big = workspace.folder / "big.txt"
    big.write_text("needle\n" + "x" * 3_999_992 + "é needle")  # the cut is inside of é
    assert await use(files, action="search", path="big.tx", pattern="needle") == (
        "There is no file /workspace/big.tx. Beside it are: big.txt."
    )
    cut = "(of big.txt only the first 4000000 bytes are searched)"
    assert await use(files, action="search", path=".", pattern="needle") == (
        f"big.txt:1: needle\n{cut}"
    )
    assert await use(files, action="search", path=".", pattern="thread") == (
        f"No line matches.\n{cut}"
    )


def test_a_folder_of_root_is_refused_and_a_missing_one_is_named(tmp_path):
    with pytest.raises(BaltoroError, match="there is no folder"):
        Workspace(tmp_path / "missing")
    if os.geteuid() == 0:
        with pytest.raises(BaltoroError, match="belongs to root"):
            Workspace(tmp_path)

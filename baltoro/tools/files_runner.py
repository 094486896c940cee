"""What the tool `files` runs inside the sandbox: standard input holds the arguments as JSON.

Imports the standard library only, because nothing else is there.
"""

import codecs
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import NoReturn

LINES = 400
MATCHES = 100
LINE_CHARS = 2000
READ_BYTES = 4_000_000


def view(path: Path, line: int = 1) -> str:
    if path.is_dir():
        names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in path.iterdir())
        shown = "\n".join(names[:LINES]) or "(empty)"
        return shown + (f"\n({len(names) - LINES} more)" if len(names) > LINES else "")
    lines = read(path).split("\n")
    if line > len(lines):
        fail(f"{path} has only {len(lines)} lines.")
    part = lines[line - 1 : line - 1 + LINES]
    text = "\n".join(f"{line + i:5} {each[:LINE_CHARS]}" for i, each in enumerate(part))
    left = len(lines) - (line - 1) - len(part)
    return text + (f"\n({left} more lines; go on with line={line + LINES})" if left > 0 else "")


def write(path: Path, text: str) -> str:
    save(path, text)
    return f"{path} is written: {len(text.splitlines())} lines."


def replace(path: Path, old: str, new: str) -> str:
    text = read(path)
    count = text.count(old) if old else 0
    if count == 0:
        hint = similar(text, old)
        fail(f"'old' does not occur in {path}.{hint} It must be equal, spaces and all.")
    if count > 1:
        fail(f"'old' occurs {count} times in {path}. Give more of the text around it.")
    save(path, text.replace(old, new))
    first = text[: text.index(old)].count("\n") + 1
    return view(path, max(1, first - 3)).split("\n(")[0][:4000]


def similar(text: str, old: str) -> str:
    """Where the first line of what was meant stands, its spaces aside."""
    wanted = old.strip().split("\n")[0].strip()
    for number, line in enumerate(text.split("\n"), 1):
        if wanted and wanted == line.strip():
            return f" Line {number} is {line!r}."
    return ""


def search(path: Path, pattern: str) -> str:
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        fail(f"'{pattern}' is no regular expression: {error}.")
    if not path.exists():
        fail_missing(path)
    found, cut = [], []
    for file in [path] if path.is_file() else files(path):
        name = file.relative_to(Path.cwd())
        try:
            text, whole = beginning(file)
        except (OSError, UnicodeDecodeError):
            continue
        if not whole:
            cut.append(f"(of {name} only the first {READ_BYTES} bytes are searched)")
        for number, line in enumerate(text.split("\n"), 1):
            if wanted.search(line):
                found.append(f"{name}:{number}: {line[:300]}")
                if len(found) == MATCHES:
                    return "\n".join([*found, f"(the first {MATCHES} matches)", *cut])
    return "\n".join([*(found or ["No line matches."]), *cut])


def beginning(file: Path) -> tuple[str, bool]:
    """The text of a file as far as it is read, and whether that is all of it."""
    with file.open("rb") as opened:
        data = opened.read(READ_BYTES + 1)
    whole = len(data) <= READ_BYTES
    # Not final, it lets the end fall inside a character, and leaves that away.
    return codecs.getincrementaldecoder("utf-8")().decode(data[:READ_BYTES], final=whole), whole


def files(folder: Path):
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if each not in (".git", "__pycache__"))
        yield from (Path(parent, name) for name in sorted(names))


def read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        fail_missing(path)
    if len(data) > READ_BYTES:
        fail(f"{path} has {len(data)} bytes; {READ_BYTES} can be read.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        fail(f"{path} is no text in UTF-8.")


def save(path: Path, text: str) -> None:
    """Make or overwrite a file. If that fails, what was there before is still there."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        fail(
            f"Nothing is written to {path}: the new text has half of a surrogate pair "
            f"({text[error.start]!a}), which no text in UTF-8 can hold. Write the whole character."
        )
    if path.is_dir():
        fail(f"{path} is a folder. Give the path of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path = Path(os.path.realpath(path))  # a link stays one, to the file that it leads to
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    if mode is not None and not os.access(path, os.W_OK):
        fail(f"{path} may not be written: its mode is {mode:o}.")
    beside = path.with_name(f".new-{os.urandom(8).hex()}")
    try:
        beside.write_bytes(data)
        if mode is not None:
            beside.chmod(mode)
        beside.replace(path)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.")
    finally:
        beside.unlink(missing_ok=True)


def inside(workspace: Path, path: str) -> Path:
    """The file that is meant: models write `/workspace/a`, `a` and `/a` for the same."""
    if f"{path}/".startswith(f"{workspace}/"):
        path = path.removeprefix(str(workspace))
    return workspace / path.lstrip("/")


def fail_missing(path: Path) -> NoReturn:
    parent = path.parent
    there = ", ".join(sorted(p.name for p in parent.iterdir())[:30]) if parent.is_dir() else ""
    fail(f"There is no file {path}." + (f" Beside it are: {there}." if there else ""))


def fail(sentence: str) -> NoReturn:
    print(sentence)
    sys.exit(1)


def main() -> None:
    arguments = json.loads(sys.stdin.buffer.read())
    action = arguments.pop("action")
    path = inside(Path.cwd(), arguments.pop("path"))
    wanted = {"view": ["line"], "write": ["text"], "replace": ["old", "new"]}
    names = wanted.get(action, ["pattern"])
    given = {name: arguments[name] for name in names if name in arguments}
    actions = {"view": view, "write": write, "replace": replace, "search": search}
    try:
        print(actions[action](path, **given))
    except (OSError, ValueError, RecursionError) as error:
        fail(f"That is not possible: {error}.")


if __name__ == "__main__":
    main()

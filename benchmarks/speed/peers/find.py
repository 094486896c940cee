"""Where the engines are that baltoro is compared with, and processes that run them.

`benchmarks/speed/peers/setup.sh FOLDER` builds them; BALTORO_PEERS names the folder. What is not
there is named as missing in the results.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
ANSWER = "=>"
# Other engines' threads wait for more work by spinning, for milliseconds or, in some runtimes, a
# fifth of a second: whoever is measured next would share the cores with them.
SECONDS_TO_REST = 0.3
NOT_NAMED = "BALTORO_PEERS does not name a folder of benchmarks/speed/peers/setup.sh"


def folder() -> Path | None:
    named = os.environ.get("BALTORO_PEERS")
    return Path(named) if named else None


def find(*places: str) -> Path | str:
    """The first of the places below the peers' folder that exists, or why there is none."""
    root = folder()
    if root is None:
        return NOT_NAMED
    for place in places:
        for path in sorted(root.glob(place)):
            return path
    return f"there is no {places[0]} in {root}"


def llama_libraries() -> Path | str:
    found = find("llama/bin/libggml-cpu.so")
    return found if isinstance(found, str) else found.parent


def ik_libraries() -> Path | str:
    found = find("venv/lib/python*/site-packages/ik_llama_cpp/lib", "ik/ik_llama_cpp/lib")
    return found


def peers_python() -> Path | str:
    """An interpreter that has kt-kernel, torch and gguf."""
    return find("venv/bin/python")


class PeerProcess:
    """A script that prints `=> 0` when it is ready, and `=> seconds` for every line it is sent."""

    def __init__(self, command: Sequence[str | Path]):
        # A pipe that nobody reads would fill up, and the peer wait for ever.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | {"LLAMA_CPP_LIB_PATH": str(llama_libraries())},
        )
        self.missing = "" if self._answer() else f"it failed: {self._last_words()}"

    def seconds(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._answer()
        if not answer:
            raise RuntimeError(f"the peer died: {self._last_words()}")
        time.sleep(SECONDS_TO_REST)
        return float(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # engines print much else
            if line.startswith(ANSWER):
                return line.removeprefix(ANSWER).strip()
        return ""

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        return (self._said.read().strip().splitlines() or ["it said nothing"])[-1]


class Peers:
    """Processes by name, to be asked in turn and closed together."""

    def __init__(self) -> None:
        self.measures: dict[str, Callable[[], float] | str] = {}
        self._processes: list[PeerProcess] = []

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.close()

    def add(self, name: str, command: Sequence[str | Path], rate: Callable[[float], float]) -> None:
        """A peer whose seconds become a figure by `rate`."""
        process = PeerProcess(command)
        if process.missing:
            self.measures[name] = process.missing
            return
        self._processes.append(process)
        self.measures[name] = lambda: rate(process.seconds())

    def add_ggml(
        self, options: Sequence[str | int], rate: Callable[[float], float], plain: bool = False
    ) -> None:
        """llama.cpp, with its weights rearranged and (`plain`) as they are, and ik_llama.cpp."""
        script = [sys.executable, HERE / "ggml_moe.py"]
        given = [str(option) for option in options]
        llama, ik = llama_libraries(), ik_libraries()
        kinds = [("llama.cpp Q4_0 repacked", llama, ["llama.cpp", "--repacked"])]
        if plain:
            kinds.append(("llama.cpp Q4_0", llama, ["llama.cpp"]))
        kinds.append(("ik_llama.cpp Q4_0", ik, ["ik_llama.cpp"]))
        for name, where, kind in kinds:
            if isinstance(where, str):
                self.measures[name] = where
            else:
                self.add(name, [*script, where, *kind, *given], rate)

    def add_python(self, options: Sequence[str | int], rate: Callable[[float], float]) -> None:
        """torch, mlx and kt-kernel, which compute with activations in floats."""
        for kind in ("torch", "mlx", "kt-kernel"):
            command = [sys.executable, HERE / "python_moe.py", kind, *map(str, options)]
            self.add(kind, command, rate)

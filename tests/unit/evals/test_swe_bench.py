"""A repository's own tests as the judge of a patch."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from players import Player, play

from baltoro.chat.chat_model import ChatRequest
from baltoro.config import BaltoroError
from baltoro.evals.swe_bench import command_of

TEST_PATCH = """\
diff --git a/test_parity.py b/test_parity.py
new file mode 100644
--- /dev/null
+++ b/test_parity.py
@@ -0,0 +1,11 @@
+import unittest
+
+from parity import is_even
+
+
+class Parity(unittest.TestCase):
+    def test_even(self):
+        self.assertTrue(is_even(4))
+
+    def test_odd(self):
+        self.assertFalse(is_even(7))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An issue in a repository of one file."""
    repository = tmp_path / "data" / "repos" / "example__parity"
    repository.mkdir(parents=True)
    (repository / "parity.py").write_text("def is_even(number):\n    return number % 2 == 1\n")
    (repository / ".gitignore").write_text("__pycache__/\n")

    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=example", "-c", "user.email=example@example.org"]
        done = subprocess.run(
            ["git", *settings, *arguments], cwd=repository, check=True, capture_output=True
        )
        return done.stdout.decode().strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "Begin")
    record = {
        "instance_id": "example__parity-1",
        "repo": "example/parity",
        "base_commit": git("rev-parse", "HEAD"),
        "problem_statement": "`is_even` says the opposite.",
        "test_patch": TEST_PATCH,
        "FAIL_TO_PASS": json.dumps(["test_parity.Parity.test_even"]),
        "PASS_TO_PASS": json.dumps(["test_parity.Parity.test_odd"]),
        "test_command": "python -m unittest",
    }
    (tmp_path / "data" / "swe_bench_verified.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path / "data"


def working(command: str) -> Player:
    """Runs one command line, then says that it is done."""

    def say(request: ChatRequest):
        if request.messages[-1]["role"] == "tool":
            return "I changed it."
        return [("shell", {"command": command})]

    return Player(say, "worker")


def test_a_patch_that_solves_the_issue_passes_and_is_written_for_the_official_grader(
    data: Path, tmp_path: Path
):
    player = working("sed -i 's/== 1/== 0/' parity.py && python3 -c 'import parity'")
    result = play("swe-bench-verified", player, tmp_path / "run", data)
    assert result.score == 1.0
    (line,) = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    prediction = json.loads(line)
    assert prediction["instance_id"] == "example__parity-1"
    assert prediction["model_name_or_path"] == "worker"
    assert prediction["model_patch"].count("diff --git") == 1  # caches are no change
    assert "+    return number % 2 == 0" in prediction["model_patch"]


@pytest.mark.parametrize(
    "command",
    [
        "true",  # nothing changed
        "sed -i 's/== 1/== 2/' parity.py",
        "rm parity.py",
        # Tests of one's own do not take the place of the hidden ones.
        "echo 'class Parity: pass' > test_parity.py",
        # Nothing in the workspace is git's configuration.
        "mkdir .git && echo '[core]' > .git/config",
    ],
)
def test_anything_else_does_not(command: str, data: Path, tmp_path: Path):
    assert play("swe-bench-verified", working(command), tmp_path / "run", data).score == 0.0


def facts(repo: str, *tests: str) -> dict:
    return {"repo": repo, "tests": tests, "test_command": None, "test_patch": TEST_PATCH}


def test_tests_are_chosen_by_the_names_that_their_runner_prints():
    assert command_of(facts("a/b", "tests/test_a.py::test[x y-$z]")) == (
        "python -m pytest -q -x 'tests/test_a.py::test[x y-$z]'"
    )
    names = ("test_one (admin.tests.Pages)", "test_two (admin.tests.Pages.test_two)", "A sentence")
    assert command_of(facts("django/django", *names)) == (
        "python tests/runtests.py --settings=test_sqlite --parallel 1 "
        "admin.tests.Pages.test_one admin.tests.Pages.test_two"
    )
    assert command_of(facts("sympy/sympy", "test_one", "test_two")) == (
        "python -m pytest -q -x test_parity.py -k 'test_one or test_two'"
    )
    with pytest.raises(BaltoroError, match="can be chosen by its name"):
        command_of(facts("django/django", "A sentence"))


def test_more_tests_than_an_argument_can_hold_are_run(data: Path, tmp_path: Path):
    path = data / "swe_bench_verified.jsonl"
    record = json.loads(path.read_text())
    record["PASS_TO_PASS"] = ["test_parity.Parity.test_odd"] * 6000
    path.write_text(json.dumps(record) + "\n")
    player = working("sed -i 's/== 1/== 0/' parity.py")
    assert play("swe-bench-verified", player, tmp_path / "run", data).score == 1.0


def test_a_repository_that_is_not_there_is_a_sentence(data: Path, tmp_path: Path):
    (data / "repos" / "example__parity").rename(tmp_path / "elsewhere")
    with pytest.raises(BaltoroError, match="git clone --bare"):
        play("swe-bench-verified", working("true"), tmp_path / "run", data)

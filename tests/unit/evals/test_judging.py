"""Programs judged by what they print, in the sandbox."""

from __future__ import annotations

import base64
import pickle
import zlib

import pytest

from baltoro.config import BaltoroError
from baltoro.evals.coding import last_program, read_private
from baltoro.evals.judging import Test, judge, same_output
from baltoro.tools.sandbox import MIB

LIMITS = {"seconds": 2.0, "memory_bytes": 512 * MIB}
DOUBLE = [Test("2\n", "4\n"), Test("5\n", "10\n")]


async def test_a_program_is_right_when_it_passes_all_tests():
    found = await judge("print(2 * int(input()))", "python", DOUBLE, **LIMITS)
    assert (found.right, found.passed) == (True, 2)


@pytest.mark.parametrize(
    ("source", "passed", "fault"),
    [
        ("print(4)", 1, "wrote '4"),
        ("while True: pass", 0, "Longer than 2 seconds"),
        ("raise SystemExit(3)", 0, "code 3"),
        ("print(4 if", 0, "code 1"),
        ("print(open('/etc/shadow').read())", 0, "code 1"),
        ("x = bytearray(10**9); print(4)", 0, "code 1"),
    ],
)
async def test_a_program_is_wrong_for_a_reason(source: str, passed: int, fault: str):
    found = await judge(source, "python", DOUBLE, **LIMITS)
    assert (found.right, found.passed) == (False, passed)
    assert fault in found.fault


async def test_c_plus_plus_is_compiled_once_and_errors_are_told():
    source = "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << 2 * n; }"
    assert (await judge(source, "cpp", DOUBLE, **LIMITS)).right
    broken = await judge("int main() { return x; }", "cpp", DOUBLE, **LIMITS)
    assert "does not compile" in broken.fault


async def test_words_on_the_standard_error_are_no_output():
    source = "import sys; print('busy', file=sys.stderr); print(2 * int(input()))"
    assert (await judge(source, "python", DOUBLE, **LIMITS)).right


async def test_no_test_proves_nothing():
    assert not (await judge("print(1)", "python", [], **LIMITS)).right


def test_output_is_compared_word_by_word_and_numbers_by_their_value():
    assert same_output("1.50  a\nb\n\n", "1.5 a\nb")
    assert not same_output("1 2\n", "1\n2\n")
    assert not same_output("1 2", "1 2 3")
    assert not same_output("a", "b")


def test_the_last_block_is_the_program():
    assert last_program("```python\na\n```\nor better\n```py\nb\n```\n") == "b\n"
    assert last_program("no program") is None


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def test_packed_tests_can_not_run_code(capsys):
    packed = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(BaltoroError, match="print"):
        read_private(packed)
    assert capsys.readouterr().out == ""

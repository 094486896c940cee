"""Every benchmark's scorer on a few items of our own: perfect 100 %, guessing at chance, silent 0.

With BALTORO_EVAL_DATA=FOLDER the same on the real files in that folder, as far as they are there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from players import Player, guessing, knowing, play, silent

from baltoro.config import BaltoroError
from baltoro.evals.catalog import BENCHMARKS
from baltoro.evals.data import read_lines

WITH_EXAMPLES = sorted(set(BENCHMARKS) - {"swe-bench-verified", "tau2-telecom"})
REAL = ("gsm8k", "imo-answerbench", "bfcl")
BUNDLED_TASKS = 114
# By their own files no call is right.
UNSOLVABLE_OF_BFCL = (
    # a required parameter has no possible value
    "live_multiple_964-207-0",
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    # the ticket "ticket_001" has to be closed by its number
    "multi_turn_base_173",
    "multi_turn_long_context_173",
    "multi_turn_miss_func_173",
    "multi_turn_miss_param_173",
    # a function is needed two turns before it is given
    "multi_turn_miss_func_49",
)


@pytest.mark.parametrize("benchmark", WITH_EXAMPLES)
def test_a_model_that_knows_all_answers_scores_all(benchmark: str, tmp_path: Path):
    result = play(benchmark, knowing(benchmark), tmp_path)
    assert result.score == 1.0
    assert (result.cut, result.unanswered) == (0.0, 0.0)


@pytest.mark.parametrize("benchmark", WITH_EXAMPLES)
def test_a_silent_model_scores_nothing(benchmark: str, tmp_path: Path):
    result = play(benchmark, silent(), tmp_path)
    assert (result.score, result.unanswered) == (0.0, 1.0)


@pytest.mark.parametrize("benchmark", sorted(set(WITH_EXAMPLES) - {"bfcl", "gpqa-diamond"}))
def test_a_guessing_model_finds_no_free_answer(benchmark: str, tmp_path: Path):
    assert play(benchmark, guessing(benchmark), tmp_path).score == 0.0


def test_a_guessing_model_picks_a_quarter_of_the_right_letters(tmp_path: Path):
    result = play("gpqa-diamond", guessing("gpqa-diamond"), tmp_path, repeats=20)
    assert result.score == pytest.approx(0.25, abs=0.13)  # 100 guesses: 3 standard errors


def test_guessed_calls_are_right_where_it_only_matters_whether_there_is_one(tmp_path: Path):
    result = play("bfcl", guessing("bfcl"), tmp_path, repeats=12)
    # 2 of 6 items ask only for a call or for none, each guessed in half of 12 cases.
    assert result.score == pytest.approx(1 / 6, abs=0.1)


def test_tau2_is_solved_by_its_solution_and_by_nothing_less(tmp_path: Path):
    perfect = play("tau2-telecom", knowing("tau2-telecom"), tmp_path / "1", None, limit=2)
    assert (perfect.score, perfect.of_items) == (1.0, BUNDLED_TASKS)
    assert perfect.judge == "perfect"
    assert "the model plays the user too" in perfect.differences
    quiet = silent()
    assert play("tau2-telecom", quiet, tmp_path / "2", None, limit=2, max_steps=8).score == 0.0
    assert len(quiet.asked) == 2 * (8 + 1)  # the reply that is one too many ends the attempt


@pytest.mark.long
def test_tau2_is_solved_by_its_solution_in_all_tasks(tmp_path: Path):
    assert play("tau2-telecom", knowing("tau2-telecom"), tmp_path / "1", None).score == 1.0
    assert play("tau2-telecom", silent(), tmp_path / "2", None, max_steps=8).score == 0.0
    chance = play("tau2-telecom", guessing("tau2-telecom"), tmp_path / "3", None, max_steps=16)
    assert (chance.score, chance.items) == (0.0, BUNDLED_TASKS)


@pytest.mark.long
@pytest.mark.parametrize("benchmark", REAL)
def test_real_files_give_all_to_the_perfect_model_and_nothing_to_the_others(
    benchmark: str, tmp_path: Path
):
    folder = os.environ.get("BALTORO_EVAL_DATA")
    if folder is None or not (Path(folder) / BENCHMARKS[benchmark].data.name).is_file():
        pytest.skip(f"BALTORO_EVAL_DATA names no folder with {BENCHMARKS[benchmark].data.name}")
    data = Path(folder)
    perfect = play(benchmark, knowing(benchmark, data), tmp_path / "1", data)
    unsolvable = len(UNSOLVABLE_OF_BFCL) if benchmark == "bfcl" else 0
    assert perfect.items == perfect.of_items
    assert perfect.score == pytest.approx(1 - unsolvable / perfect.items, abs=1e-9)
    assert play(benchmark, silent(), tmp_path / "2", data, max_steps=8).score == 0.0
    chance = play(benchmark, guessing(benchmark), tmp_path / "3", data, max_steps=8).score
    assert chance < (0.2 if benchmark == "bfcl" else 0.01)


def test_tokens_that_run_out_are_told_apart_from_wrong_answers(tmp_path: Path):
    from baltoro.chat.scripted import ScriptedChatModel

    cut = ScriptedChatModel(["<think>still think"] * 5)
    result = play("gsm8k", cut, tmp_path, concurrency=1)
    assert (result.score, result.cut, result.unanswered) == (0.0, 1.0, 1.0)


def test_heavy_mode_reflects_on_its_trajectories(tmp_path: Path):
    said = knowing("gsm8k")
    answers = said.say

    def say(request):
        text = request.messages[-1]["content"]
        return (
            answers(request) if "attempts" not in text else text.split("[Attempt 1, 3 times]\n")[1]
        )

    said.say = say
    result = play("gsm8k", said, tmp_path, heavy=3)
    assert (result.score, result.heavy) == (1.0, 3)
    assert len(said.asked) == 4 * 5  # of each item three trajectories and the reflection
    assert "3 trajectories, not 8" in result.differences
    assert BENCHMARKS["gsm8k"].data.items == result.of_items


def test_the_result_names_all_that_differs_from_the_published_way(tmp_path: Path):
    result = play("hle", knowing("hle"), tmp_path, temperature=0.3)
    assert result.items == 3  # the one with a picture is left out
    assert result.published["K2 Thinking"] == 23.9
    assert result.differences == [
        "3 of 2158 items",
        "judged by strict-judge, not by o3-mini",
        "temperature 0.3, not 1.0",
    ]
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["judge"], written["quantization"]) == ("strict-judge", "none")


def test_records_are_told_apart_by_line_feeds_alone(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    records = [{"problem": "one\u2028two\x85"}, {"problem": "three"}]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    assert read_lines(path) == records


def test_rows_may_lack_what_nobody_reads_and_nothing_else(tmp_path: Path):
    path = tmp_path / "imo_answerbench_v2.csv"
    headings = "Problem ID,Problem,Short Answer,Category"
    path.write_text(f"{headings},Subcategory\na-1,How many?,3,Algebra\n")
    player = Player(lambda request: "\\boxed{3}")
    assert play("imo-answerbench", player, tmp_path / "run", tmp_path).score == 1.0
    path.write_text(f"{headings}\na-1,How many?\n")
    with pytest.raises(BaltoroError, match="is not in the form that IMO-AnswerBench needs"):
        play("imo-answerbench", player, tmp_path / "other", tmp_path)


def test_a_noted_call_does_not_change_with_what_the_system_does_later():
    from baltoro.evals.bfcl import with_own_arguments

    class Board:
        def pin(self, words: list[str]) -> None:
            self.words = words

    Board.pin = with_own_arguments(Board.pin)
    board, words = Board(), ["first"]
    board.pin(words=words)
    board.words.append("later")
    assert words == ["first"]

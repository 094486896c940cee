"""How several attempts are shown to the model that makes one answer of them."""

from baltoro.chat.reflection import ATTEMPT_CHARS, reflecting, reflection


def shown(attempts: list[str]) -> str:
    return reflection("How many?", attempts).partition("right answer.\n\n")[2]


def test_an_answer_that_several_gave_is_shown_once_and_first():
    assert shown(["4", "5", " 5\n", "6"]) == (
        "[Attempt 1, 2 times]\n5\n\n[Attempt 2]\n4\n\n[Attempt 3]\n6"
    )


def test_different_attempts_keep_their_order():
    assert shown(["4", "5"]) == "[Attempt 1]\n4\n\n[Attempt 2]\n5"


def test_all_attempts_are_counted_those_that_are_equal_too():
    assert "Here are 3 attempts." in reflection("How many?", ["4", "4", "4"])


def test_a_long_attempt_is_cut():
    assert shown(["x" * (ATTEMPT_CHARS + 1), "y"]).count("x") == ATTEMPT_CHARS


def test_the_question_is_asked_in_place_of_itself_or_behind_what_followed_it():
    system = {"role": "system", "content": "Be brief."}
    asked, answered = ({"role": role, "content": "Hi"} for role in ("user", "assistant"))
    short = reflecting([system, asked], ["4", "5"])
    assert [message["role"] for message in short] == ["system", "user"]
    long = reflecting([asked, answered], ["4", "5"])
    assert [message["role"] for message in long] == ["user", "assistant", "user"]
    assert short[-1] == long[-1] == asked | {"content": reflection("Hi", ["4", "5"])}

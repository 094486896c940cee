"""The worked example that a reader of the grammars meets first."""

import doctest

import baltoro.engine.grammars


def test_the_example_of_the_grammars_is_what_they_do():
    found = doctest.testmod(baltoro.engine.grammars)
    assert found.attempted > 20
    assert found.failed == 0

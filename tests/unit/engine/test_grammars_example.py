"""The worked examples that a reader of the grammars meets first."""

import doctest

import pytest

import baltoro.engine.grammars
from baltoro.engine.grammars import closing


@pytest.mark.parametrize("module", [baltoro.engine.grammars, closing])
def test_the_examples_of_the_grammars_are_what_they_do(module):
    found = doctest.testmod(module)
    assert found.attempted > 1
    assert found.failed == 0

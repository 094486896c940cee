"""A JSON text of a grammar that is led to its end before its tokens run out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from baltoro.engine.grammars.json_grammar import JsonGrammar

Mask = NDArray[np.bool_]


class BoundedText:
    """A JSON text that is led to its end before its tokens run out.

    `plan` is the shortest way from here to the end, where it is known. It is looked up again only
    after `trust` tokens, because so many can't use up what is left; and before each token where the
    grammar does not hold all of the schema.
    """

    def __init__(self, grammar: JsonGrammar):
        self._grammar = grammar
        self._text = grammar.begin()
        self._plan: list[int] | None = grammar.shortest
        self._trust = 0
        self._ahead: tuple[int, list[int]] | None = None  # a token that was tried, and the way on

    @property
    def begun(self) -> bool:
        return self._text.begun

    @property
    def grammar_end(self) -> int:
        return self._grammar.end

    @property
    def whole(self) -> bool:
        """Whether the text may end here."""
        return self._text.whole and not (self._grammar.checked and self.ending())

    def mask(self) -> Mask:
        return self._text.mask()

    def correct(self, token: int, end: int, left: int) -> int:
        """`left`: the tokens that the text still has, this one included. `end` may stand for a
        token of the text too, as long as that may not end."""
        if token == end and self._text.whole:
            return self._way(end)[0] if self._grammar.checked else token
        if self._plan and token == self._plan[0]:
            return token
        if self._trust > 0:
            return token
        tried = self._text.copy()
        tried.accept(token)
        way = tried.ending()
        if way is not None and len(way) < left:
            self._ahead = token, way
            self._trust = (left - 1 - len(way)) // (2 * self._grammar.growth + 1)
            return token
        return self._way(end)[0]

    def accept(self, token: int) -> None:
        self._text.accept(token)
        if self._plan and token == self._plan[0]:
            self._plan = self._plan[1:]
        else:
            self._plan = self._ahead[1] if self._ahead and self._ahead[0] == token else None
        self._ahead = None
        self._trust = 0 if self._grammar.checked else max(0, self._trust - 1)

    def ending(self) -> list[int]:
        """The shortest way to the end."""
        if self._plan is None:
            self._plan = self._text.ending()
        return self._plan or []

    def _way(self, end: int) -> Sequence[int]:
        return [*self.ending(), end]

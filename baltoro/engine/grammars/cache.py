"""The grammars of JSON schemas, made once for each."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from baltoro.chat.chat_model import SchemaError
from baltoro.chat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from baltoro.engine.grammars.json_grammar import JsonGrammar

_KEPT_GRAMMARS = 128  # of about 0.15 MiB each


class JsonGrammars:
    """The grammars of one tokenizer, made once for each schema."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._llguidance: LLTokenizer | None = None
        self._known: OrderedDict[str, JsonGrammar | SchemaError] = OrderedDict()

    @property
    def end(self) -> int:
        """The token that stands for the end of a text in masks."""
        return self.tokenizer.form.call_end

    def of(self, schema: Any) -> JsonGrammar:
        """Raises SchemaError."""
        key = json.dumps(schema)
        with self._lock:
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = self._make(schema)
                if len(self._known) > _KEPT_GRAMMARS:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
        if isinstance(found, SchemaError):
            raise found
        return found

    def _make(self, schema: Any) -> JsonGrammar | SchemaError:
        # A server without such requests starts sooner without what they take.
        from baltoro.engine.grammars.json_grammar import JsonGrammar, llguidance_tokenizer

        if self._llguidance is None:  # a second for a vocabulary of 160,000
            self._llguidance = llguidance_tokenizer(self.tokenizer, self.end)
        try:
            return JsonGrammar(schema, self.tokenizer, self._llguidance, self.end)
        except SchemaError as error:
            return error
        except RecursionError:
            return SchemaError("it is nested too deeply. Flatten it.")

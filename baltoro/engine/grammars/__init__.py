"""Keeps replies in form: which tokens may come, and how a call ends before its tokens run out.

Below, a tool's schema is followed from the request to the reply; a test runs these lines. Each byte
is a token here, so that masks can be read; the model would write sevens for ever.

    >>> from baltoro.chat.tokenizer import Tokenizer
    >>> tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)})
    >>> schema = {
    ...     "type": "object",
    ...     "properties": {
    ...         "rows": {"type": "array", "items": {"type": "integer"},
    ...                  "minItems": 2, "uniqueItems": True},
    ...         "day": {"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}]},
    ...     },
    ...     "required": ["rows"],
    ...     "additionalProperties": False,
    ... }

1. `schema_forms.py` says the schema as the newest draft does, with patterns for known formats, and
takes out what no grammar can hold. That is checked on the value, and is named:

    >>> from baltoro.engine.grammars.schema_forms import held_form, modern_form
    >>> modern, left_out = modern_form(schema), set()
    >>> [*modern["properties"]["day"]["anyOf"][1]]
    ['type', 'pattern']
    >>> held_form(modern, left_out)["properties"]["rows"]
    {'type': 'array', 'items': {'type': 'integer'}, 'minItems': 2}
    >>> left_out
    {'uniqueItems'}

2. `json_grammar.py` makes llguidance's grammar of what is held (`cache.py` does so once for each
schema), and asks it which tokens may come next. Here they are those behind `[7`:

    >>> from baltoro.engine.grammars.cache import JsonGrammars
    >>> grammars = JsonGrammars(tokenizer)
    >>> grammar = grammars.of(schema)
    >>> text = grammar.begin()
    >>> for token in tokenizer.encode('{"rows":[7'):
    ...     text.accept(token)
    >>> tokenizer.decode([*text.mask().nonzero()[0]])
    '\\t\\n ,0123456789'
    >>> grammar.checked, grammar.is_valid('{"rows":[7,7]}')
    (('uniqueItems',), False)

3. `closing.py` proposes ends for a beginning, shortest first. `partial_json.py` reads the
beginning, `flat_schema.py` says which alternatives without references or compositions the schema
has there, `patterns.py` completes a text under its pattern, `number_ends.py` a number within its
bounds. Of the first proposals that the grammar takes and that validate, the one of the fewest
tokens is the way to the end:

    >>> from baltoro.engine.grammars.flat_schema import FlatSchemas
    >>> [flat["type"] for flat in FlatSchemas(modern).of(modern["properties"]["day"])]
    [['null'], ['string']]
    >>> grammar.closer.completions('{"rows":[7,8],"day":n')
    ['ull}']
    >>> grammar.closer.completions('{"rows":[7,8],"day":"2028-02-2')[:2]
    ['0"}', '1"}']
    >>> tokenizer.decode(text.ending())
    ',0]}'

4. `bounded_text.py` takes back a token that would leave too few for the way to the end. With five
left another 7 may come, with four the end has to begin:

    >>> from baltoro.engine.grammars.bounded_text import BoundedText
    >>> bounded = BoundedText(grammar)
    >>> for token in tokenizer.encode('{"rows":[7'):
    ...     bounded.accept(token)
    >>> close = tokenizer.form.call_end
    >>> [chr(bounded.correct(ord("7"), close, left)) for left in (6, 5, 4)]
    ['7', '7', ',']

5. `reply.py` knows the whole reply: thinking, an answer, calls with their marks and names. It is a
`Constraint` of the engine's (`engine/constraint.py`), beside the budget of thinking:

    >>> from baltoro.chat.chat_model import ChatRequest, ToolChoice
    >>> from baltoro.engine.constraint import ThinkingBudget, combined_choice, corrected
    >>> from baltoro.engine.grammars.reply import ReplyGrammar, reply_rules
    >>> tool = {"type": "function", "function": {"name": "book", "parameters": schema}}
    >>> must_call = ToolChoice(mode="required")
    >>> request = ChatRequest(messages=[], tools=[tool], tool_choice=must_call)
    >>> rules = reply_rules(grammars, request, first_index=0)
    >>> ReplyGrammar(tokenizer, rules, max_tokens=100).tokens_needed()
    36

Before each token `step_loop.py` asks the constraints what may come. That is a token or a mask over
the logits, from which it draws; then it asks whether the drawn token may stay:

    >>> def drawn(choice):
    ...     if isinstance(choice, int):
    ...         return choice
    ...     return ord("7") if choice is None or choice[ord("7")] else choice.nonzero()[0][-1]
    >>> def reply(max_tokens):
    ...     grammar = ReplyGrammar(tokenizer, rules, max_tokens)
    ...     constraints, ids = [grammar, ThinkingBudget(2, tokenizer)], []
    ...     while tokenizer.form.end not in ids:
    ...         token = int(drawn(combined_choice(constraints)))
    ...         token = int(drawn(corrected(constraints, token)))
    ...         for constraint in constraints:
    ...             constraint.accept(token)
    ...         ids.append(token)
    ...     return len(ids), tokenizer.decode(ids).partition("argument_begin|>")[2]
    >>> reply(40)
    (40, '{"rows":[77,7]}<|tool_call_end|><|tool_calls_section_end|><|im_end|>')
    >>> reply(50)
    (50, '{"rows":[777777777777,7]}<|tool_call_end|><|tool_calls_section_end|><|im_end|>')

GLM's family writes each argument for itself; `keyed_call.py` stands in the place of `BoundedText`
there, and `argument_values.py` keeps each value to its schema.
"""

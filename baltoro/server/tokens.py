"""The token level of a reply as JSON: log-probs and ids."""

from __future__ import annotations

import math
from typing import Any

from baltoro.chat.chat_model import TokenTrace
from baltoro.chat.tokenizer import StreamDecoder, Tokenizer
from baltoro.server.errors import ApiError

LOWEST_LOGPROB = -9999.0  # JSON has no -inf


def finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB) if not math.isnan(logprob) else LOWEST_LOGPROB


def required_trace(trace: TokenTrace | None) -> TokenTrace:
    if trace is None:
        message = "the model behind this server returns no token ids or log-probs; "
        message += "leave out 'logprobs' and 'return_token_ids'."
        raise ApiError(message, param="logprobs", code="unsupported_field")
    return trace


def token_json(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.decode_bytes([token])
    text = data.decode("utf-8", errors="replace")
    return {"token": text, "logprob": finite(logprob), "bytes": list(data)}


def chat_logprobs(tokenizer: Tokenizer, trace: TokenTrace, count: int) -> dict[str, Any]:
    """`logprobs` of a chat choice: one entry per generated token, thinking and marks included.

    `logprob` is under the model's own distribution, `sampled_logprob` (ours) under the one that
    the token was drawn from. `count` alternatives are listed per token.
    """
    content = []
    for i, token in enumerate(trace.generated_ids):
        entry = token_json(tokenizer, token, trace.logprobs[i])
        entry["sampled_logprob"] = finite(trace.sampled_logprobs[i])
        top = list(trace.top_logprobs[i].items())[:count] if trace.top_logprobs else []
        entry["top_logprobs"] = [token_json(tokenizer, id, logprob) for id, logprob in top]
        content.append(entry)
    return {"content": content, "refusal": None}


def text_logprobs(tokenizer: Tokenizer, trace: TokenTrace, first_offset: int) -> dict[str, Any]:
    """`logprobs` of a text completion: parallel lists over the generated tokens.

    `text_offset` counts characters from `first_offset`, where the reply begins in `text`.
    """
    decoder = StreamDecoder(tokenizer)
    offsets = [first_offset]
    for token in trace.generated_ids:
        offsets.append(offsets[-1] + len(decoder.feed(token)))
    top = [
        {token_name(tokenizer, token): finite(logprob) for token, logprob in entry.items()}
        for entry in trace.top_logprobs
    ]
    return {
        "tokens": [token_name(tokenizer, token) for token in trace.generated_ids],
        "token_logprobs": [finite(logprob) for logprob in trace.logprobs],
        "top_logprobs": top or None,
        "text_offset": offsets[:-1],
    }


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """The token's text, or its bytes as `bytes:\\xe4` where they are only a part of a character.

    Different tokens thus have different names, as keys of `top_logprobs` must.
    """
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

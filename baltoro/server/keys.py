"""Who may ask, and how much: API keys from a file, which need hold no more than their hashes.

A line of the file is a key, or `sha256:` and the key's hash in hexadecimal, and then what belongs
to it, all of it optional:

    sha256:9f86d0...  name=alice  concurrent=4  requests_per_minute=60  tokens_per_minute=100000
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baltoro.chat.chat_model import Completion
from baltoro.config import BaltoroError
from baltoro.server.errors import ApiError, too_many

WINDOW_SECONDS = 60.0
LIMITS = ("concurrent", "requests_per_minute", "tokens_per_minute")


@dataclass(frozen=True, kw_only=True)
class Key:
    """One client of the server; a limit of None is none."""

    digest: bytes  # sha256 of the key
    name: str  # in the log, which never shows the key
    concurrent: int | None = None  # requests at once
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of prompts and replies


ANYONE = Key(digest=b"", name="-")


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", errors="surrogatepass")).digest()


def new_key(name: str) -> tuple[str, str]:
    """A key nobody can guess, and the line for the key file."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    return key, f"sha256:{digest(key).hex()} name={name}"


def read_keys(path: Path) -> list[Key]:
    """The keys of a file; empty lines and lines that begin with # do not count.

    Raises `BaltoroError` for a file that cannot be read, has no key, or a line that makes no sense.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BaltoroError(f"cannot read the API key file {path}: {reason}.") from None
    used = [(n, line.split()) for n, line in enumerate(lines, 1) if line.split("#")[0].strip()]
    keys = [read_line(words, f"{path}, line {number}", number) for number, words in used]
    if not keys:
        raise BaltoroError(
            f"the API key file {path} holds no key: put one on each line, "
            "or leave out --api-key-file to accept every request."
        )
    return keys


def read_line(words: Sequence[str], where: str, number: int) -> Key:
    key, *settings = words
    if key.startswith("sha256:"):
        if not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", key):
            raise BaltoroError(f"{where}: 'sha256:' must be followed by 64 hexadecimal digits.")
        hashed = bytes.fromhex(key.removeprefix("sha256:"))
    else:
        hashed = digest(key)
    name, limits = f"key{number}", {}
    for setting in settings:
        what, _, value = setting.partition("=")
        if what == "name" and value:
            name = value
        elif what in LIMITS and re.fullmatch(r"[0-9]{1,12}", value):
            limits[what] = int(value)
        else:
            known = ", ".join(f"{limit}=N" for limit in LIMITS)
            raise BaltoroError(f"{where}: '{setting}' is not one of name=NAME, {known}.")
    return Key(digest=hashed, name=name, **limits)


@dataclass
class Account:
    """What one key has used."""

    key: Key
    clock: Callable[[], float] = time.monotonic
    running: int = 0
    requests: deque[tuple[float, int]] = field(default_factory=deque)  # when, how many
    tokens: deque[tuple[float, int]] = field(default_factory=deque)

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request within the limits. Raises 429 that says when the next one has a chance."""
        key = self.key
        if key.concurrent is not None and self.running >= key.concurrent:
            raise too_many(f"this key works on {key.concurrent} requests at once at most.", 1)
        self.check(self.requests, key.requests_per_minute, "requests")
        self.check(self.tokens, key.tokens_per_minute, "tokens")
        if key.requests_per_minute is not None:
            self.requests.append((self.clock(), 1))
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def used(self, tokens: int) -> None:
        """Count tokens of a reply; those that go beyond the limit delay the next request."""
        if self.key.tokens_per_minute is not None:
            self.tokens.append((self.clock(), tokens))

    def check(self, spent: deque[tuple[float, int]], limit: int | None, what: str) -> None:
        if limit is None:
            return
        now = self.clock()
        while spent and spent[0][0] <= now - WINDOW_SECONDS:
            spent.popleft()
        excess = sum(count for _, count in spent) - limit
        for when, count in spent:
            if excess < 0:
                return
            excess -= count
            if excess < 0:
                wait = math.ceil(when + WINDOW_SECONDS - now)
                raise too_many(f"this key has used its {limit} {what} per minute.", max(wait, 1))
        if excess >= 0:  # a limit of 0
            raise too_many(f"this key has {limit} {what} per minute.", math.ceil(WINDOW_SECONDS))


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whose request it is."""

    account: Account
    scope: str  # names the caller: what is remembered of one is not shown to another
    notes: dict[str, Any]  # of the request, for its line in the log

    def used(self, completion: Completion) -> None:
        """Count the tokens of one answer."""
        usage, notes = completion.usage, self.notes
        self.account.used(usage.prompt + usage.completion)
        notes["prompt_tokens"] = notes.get("prompt_tokens", 0) + usage.prompt
        notes["cached_tokens"] = notes.get("cached_tokens", 0) + usage.cached
        notes["completion_tokens"] = notes.get("completion_tokens", 0) + usage.completion
        notes["finish_reason"] = completion.finish_reason


class KeyRing:
    """The accounts of a server. Without keys everyone shares one without limits."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self.accounts = [Account(key) for key in keys]
        self.anyone = Account(ANYONE)

    def __bool__(self) -> bool:
        return bool(self.accounts)

    def account(self, authorization: str | None, x_api_key: str | None) -> Account:
        """Whose key the headers carry: OpenAI's or Anthropic's. Raises `ApiError` 401."""
        if not self.accounts:
            return self.anyone
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else (x_api_key or "").strip()
        hashed = digest(given)
        # Every key is compared, in constant time, so that the answer's delay tells nothing.
        matches = [hmac.compare_digest(hashed, each.key.digest) for each in self.accounts]
        if not given or not any(matches):
            raise ApiError(
                "this server asks for an API key: send 'Authorization: Bearer KEY' or "
                "'x-api-key: KEY' with a key of its key file.",
                status=401,
                kind="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return self.accounts[matches.index(True)]

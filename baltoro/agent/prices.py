"""What a reply costs. Prices are data with a source and a date, never constants of this code.

A table of one's own (TOML) comes first:

    ["kimi-k2-thinking"]  # US dollars per million tokens
    input = 0.60
    cached = 0.15
    output = 2.50
    date = 2026-05-01

then the tables of the package genai-prices, if it is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from baltoro.chat.chat_model import Usage
from baltoro.config import BaltoroError, read_toml

MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Cost:
    """US dollars of one reply or of many."""

    cached: float = 0.0  # prompt tokens that were found in the cache
    input: float = 0.0  # the other prompt tokens
    thinking: float = 0.0
    answer: float = 0.0  # generated tokens that are not thinking

    @property
    def total(self) -> float:
        return self.cached + self.input + self.thinking + self.answer

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            cached=self.cached + other.cached,
            input=self.input + other.input,
            thinking=self.thinking + other.thinking,
            answer=self.answer + other.answer,
        )


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens."""

    input: float
    cached: float
    output: float  # thinking is output
    source: str
    date: str  # on which it was true

    def cost(self, usage: Usage) -> Cost:
        return Cost(
            cached=usage.cached * self.cached / MILLION,
            input=(usage.prompt - usage.cached) * self.input / MILLION,
            thinking=usage.reasoning * self.output / MILLION,
            answer=(usage.completion - usage.reasoning) * self.output / MILLION,
        )


def find_price(model: str, base_url: str | None = None, table: Path | None = None) -> Price | None:
    """The price of a model; None where nobody tells it. Raises `BaltoroError` for a bad table."""
    if table is not None and (price := _from_table(model, table)):
        return price
    return _from_package(model, base_url)


def _from_table(model: str, path: Path) -> Price | None:
    entry = read_toml(path).get(model)
    if entry is None:
        return None
    try:
        return Price(
            input=float(entry["input"]),
            cached=float(entry.get("cached", entry["input"])),
            output=float(entry["output"]),
            source=str(path),
            date=str(entry["date"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BaltoroError(
            f"{path}: the entry of '{model}' needs input, output (US dollars per million tokens) "
            f"and date; {error} is missing or wrong."
        ) from None


def _from_package(model: str, base_url: str | None) -> Price | None:
    try:
        import genai_prices  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    where: dict[str, Any] = {"provider_api_url": base_url} if base_url else {}

    def per_million(**tokens: int) -> float:
        usage = genai_prices.Usage(**tokens)
        return float(genai_prices.calc_price(usage, model_ref=model, **where).total_price)

    try:
        return Price(
            input=per_million(input_tokens=MILLION),
            cached=per_million(input_tokens=MILLION, cache_read_tokens=MILLION),
            output=per_million(input_tokens=0, output_tokens=MILLION),
            source=f"genai-prices {genai_prices.__version__}",
            date=date.today().isoformat(),
        )
    except LookupError:  # the package knows no such model or endpoint
        return None

"""A bounded queue: a server that is full says so at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter

from baltoro.server.errors import ApiError, busy


class Admission:
    """Counts the answers being worked on or waiting for it, of which `limit` are let in."""

    def __init__(self, limit: int, rejected: Counter) -> None:
        self.limit = limit
        self.rejected = rejected  # counts the requests that found no place
        self.in_flight = 0

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Hold `count` places. Raises 429 where they are not free, 400 where they never can be."""
        if count > self.limit:
            raise ApiError(
                f"this request asks for {count} answers, but the server works on {self.limit} at "
                "most. Ask for fewer at once.",
                code="too_many_answers",
            )
        if self.in_flight + count > self.limit:
            self.rejected.inc()
            raise busy(
                f"the server is busy: {self.in_flight} of {self.limit} answers are in work and "
                f"this request asks for {count} more."
            )
        self.in_flight += count
        try:
            yield
        finally:
            self.in_flight -= count

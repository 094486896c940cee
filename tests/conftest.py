"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn
from fastapi import FastAPI

StartServer = Callable[[FastAPI], str]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """`app` on a free port of this machine, in a thread; gives its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        listener.listen()  # from here on connections wait until the server takes them
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Serves an app until the test is over."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))

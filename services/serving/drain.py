"""SIGTERM: readiness turns red first; the server closes after a grace in which load balancers look elsewhere."""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog

from shared.errors import Unavailable

log = structlog.stdlib.get_logger(__name__)


class Drain:
    """Stands before the server's own SIGTERM handler while the app lives."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._draining = False
        self._server: Callable[[int, FrameType | None], Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """For readiness: raises Unavailable from the signal on."""
        if self._draining:
            raise Unavailable("shutting down")

    def install(self) -> None:
        """Take SIGTERM, if there is a server that handles it and this is the thread for that."""
        handler = signal.getsignal(signal.SIGTERM)
        if self._grace_s > 0 and callable(handler) and threading.current_thread() is threading.main_thread():
            self._server, self._loop = handler, asyncio.get_running_loop()
            signal.signal(signal.SIGTERM, self._on_signal)

    def uninstall(self) -> None:
        """Give SIGTERM back, and count as draining."""
        self._draining = True
        if self._server is not None:
            signal.signal(signal.SIGTERM, self._server)
            self._server = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        server, loop = self._server, self._loop
        if server is None or loop is None:
            return
        if self._draining:
            server(number, frame)  # asked twice: at once
            return
        self._draining = True
        loop.call_soon_threadsafe(loop.call_later, self._grace_s, server, number, None)

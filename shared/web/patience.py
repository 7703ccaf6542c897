"""How long a connection may dawdle, and how many there may be.

uvicorn waits for ever for a head that comes a byte a second, and for a client that does not read its answer. Here each connection
looks at itself once a second: one that is at the same point for too long ends. A request costs nothing by it. (A body that dawdles
is answered 408 by what reads it, `shared.web.body`.)

Beyond a number of connections, a new one is answered 503, and closed, unless it asks for what must answer whatever happens.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from shared.errors import Unavailable
from shared.web.errors import problem_of
from shared.web.express import ExpressProtocol
from shared.web.request_id import RequestIdMiddleware

LOOK_S = 1.0
RESERVE = 64
"""Connections beyond the limit that are heard at all, so that they can be answered; the next ones are closed at once."""
RESERVE_HEAD_S = 2.0


@dataclass(frozen=True)
class Patience:
    """What an app allows its connections; `app.state.patience`."""

    head_s: float
    """From a connection's beginning, or the first byte after an answer, to the end of a request's head."""
    answer_s: float
    """From an answer to its last byte taken over by the client's side."""
    most: int
    """Connections at a time."""
    always: tuple[str, ...]
    """Beginnings of paths that answer on any connection."""


class PatientProtocol(ExpressProtocol):
    """One connection; the app says in `state.patience` what is allowed, or nothing is limited."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        state = getattr(self.app, "state", None)
        self._patience: Patience | None = getattr(state, "patience", None)
        self._limits_s: Mapping[str, float] = {}
        self._point: tuple[str, object] | None = None
        self._since_s = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        patience = self._patience
        if patience is None:
            return
        surplus = len(self.connections) - patience.most
        if surplus > RESERVE:
            transport.abort()
            return
        if surplus > 0:
            self._routes, self.app = None, _Full(self.app, patience.always)
        head_s = patience.head_s if surplus <= 0 else min(patience.head_s, RESERVE_HEAD_S)
        self._limits_s = {"head": head_s, "answer": patience.answer_s}
        self._watch = self.loop.call_later(LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client, or this side, has left."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        now_s, point = self.loop.time(), self._dawdles_at()
        if point != self._point:
            self._point, self._since_s = point, now_s
        elif point is not None and now_s - self._since_s >= self._limits_s[point[0]]:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(LOOK_S, self._look)

    def _dawdles_at(self) -> tuple[str, object] | None:
        """At which point the client is waited for; None while it is not."""
        cycle = self.cycle
        if self.transport.get_write_buffer_size() > 0:
            return "answer", cycle
        if (cycle is None or cycle.response_complete) and self._idle_since_s is None:
            return "head", cycle
        return None


class _Full:
    """The app, for a connection more than there may be."""

    def __init__(self, app: Any, always: tuple[str, ...]) -> None:
        self._app = app
        self._always = always

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app if scope["path"].startswith(self._always) else _refuse
        await app(scope, receive, send)


async def _refuse_here(scope: Scope, receive: Receive, send: Send) -> None:
    answer = problem_of(Unavailable("More connections are open than this replica takes; try again shortly."))
    answer.headers["connection"] = "close"
    await answer(scope, receive, send)


_refuse = RequestIdMiddleware(_refuse_here)

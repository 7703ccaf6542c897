"""Streams that clients follow a run by: how many may be open in this process, for each costs a query a second."""

from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.errors import Unavailable


class Streams:
    """Counts open streams. Used on the event loop alone."""

    def __init__(self, limit: int) -> None:
        self.limit, self.open = limit, 0

    def respond(self, events: AsyncIterator[str]) -> StreamingResponse:
        """A stream of server-sent events, counted from now until it has ended or its client is gone.

        Raises:
            Unavailable: as many as may be are open.
        """
        if self.open >= self.limit:
            raise Unavailable(
                f"{self.limit} runs are followed here already; look at the run itself, or come back later."
            )
        self.open += 1
        return _Counted(events, self)


class _Counted(StreamingResponse):
    def __init__(self, events: AsyncIterator[str], streams: Streams) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. A client that leaves before the first event is counted out as well."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.open -= 1

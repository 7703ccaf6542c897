"""How serving's HTTP server is made: one place for one process and for many."""

import gc
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from shared.web.express import ExpressProtocol

HTTP_PROTOCOL: Any = ExpressProtocol
"""What speaks HTTP on a connection: a name that uvicorn knows, or a class of `asyncio.Protocol` as uvicorn's are."""
CLOSE_WITHIN_S = 8
"""At the end, how long requests under way may take to finish."""


def make_config(app: str | Callable[..., Any], **options: Any) -> uvicorn.Config:
    """The server's configuration.

    Args:
        app: the app, or where its factory is found.
        options: what differs: host and port; or none when connections are handed over.
    """
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        loop="uvloop",
        http=HTTP_PROTOCOL,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_WITHIN_S,
        **options,
    )


class Server(uvicorn.Server):
    """uvicorn's server, tuned for answers in fractions of a millisecond."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app. What is there by then no garbage collection looks through again: that takes tens of milliseconds."""
        await super().startup(sockets=sockets)
        gc.collect()
        gc.freeze()

"""How serving's HTTP server is made: one place for one process and for many."""

import gc
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from shared.web.patience import PatientProtocol

HTTP_PROTOCOL: Any = PatientProtocol
"""What speaks HTTP on a connection: a name that uvicorn knows, or a class of `asyncio.Protocol` as uvicorn's are."""
OTHER_FILES = 256
"""Files that a process holds beside its connections."""
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


def allow_files(connections: int) -> int:
    """Have the system allow so many connections, or as many as it will; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else min(connections, max(1, soft - OTHER_FILES))


SWITCH_S = 0.0005
"""How long a thread that computes keeps Python from the event loop that waits for it; Python's own 5 ms are the whole time of many
answers. Administration, following the registry and loading compute in threads.
"""


class Server(uvicorn.Server):
    """uvicorn's server, tuned for answers in fractions of a millisecond."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app. What is there by then no garbage collection looks through again: that takes tens of milliseconds."""
        sys.setswitchinterval(SWITCH_S)
        await super().startup(sockets=sockets)
        gc.collect()
        gc.freeze()

"""What every log line of the current request or task carries: its request id, and whatever else was bound to it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from structlog.contextvars import bound_contextvars

from shared.ids import new_id

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id that ties HTTP requests, tasks and log lines together; empty outside of a request or task."""

_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def accept_request_id(given: str | None) -> str:
    """The caller's request id if it is one that is safe to log and to pass on, else a new one."""
    return given if given is not None and _ACCEPTED.fullmatch(given) else new_id().hex


@contextmanager
def log_context(*, request: str | None = None, **values: object) -> Iterator[None]:
    """Log lines inside carry `values`, and the request id `request` where one is given; nested contexts add up."""
    token = None if request is None else request_id.set(request)
    try:
        with bound_contextvars(**values):
            yield
    finally:
        if token is not None:
            request_id.reset(token)

"""Which faults are an outage, that says nothing about the work it interrupts, and how to sit one out.

The rest of what a database may say (a query over its time limit, a deadlock) may well be the work's own doing.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.errors import StoreFull, Unavailable

log = structlog.get_logger(__name__)

DATABASE_FAULTS = (OperationalError, InterfaceError, PoolTimeout, psycopg.OperationalError, psycopg.InterfaceError)
PASSING = (Unavailable, *DATABASE_FAULTS)
"""Faults that another attempt may not meet."""
LOOK_S = 2.0
"""Between two tries to reach a database that is away."""
HAND_OVER_S = 3.0
"""How long a worker that was asked to stop goes on trying: whoever asked is waiting."""
_OUTAGES = ("08", "53300", "57P")
"""SQLSTATE of a lost connection, of too many connections, of a server that stops or starts (PostgreSQL, appendix A).

The rest of class 53 (no disk, no memory, over `temp_file_limit`) may mean that the work is too large."""


Result = TypeVar("Result")


def is_outage(error: BaseException) -> bool:
    """Whether a store, a service or the database is away: no fault of the work that met it, as a store without room may be."""
    if isinstance(error, Unavailable | PoolTimeout):
        return not isinstance(error, StoreFull)
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(error, DATABASE_FAULTS):
        return False
    state = getattr(cause, "sqlstate", None)
    return state is None or state.startswith(_OUTAGES)


def describe(error: BaseException) -> str:
    """One of `PASSING`, as a sentence for a person."""
    if isinstance(error, Unavailable):
        return f"{error.detail.rstrip('.')}."
    if is_outage(error):
        return "The registry could not be reached."
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"The registry broke off the work ({type(cause).__name__})."


def patiently(act: Callable[[], Result], *, stopping: threading.Event) -> Result:
    """Do one transaction that says how work went, again and again while the database is away, however long that takes.

    Who gave up would use up an attempt: nobody hears of it, and that counts as a crash. Nor could the worker claim anything else
    meanwhile.

    Args:
        act: must be harmless to repeat (a commit whose answer was lost may have happened), and notice that its row is lost.
        stopping: once set, the last fault is raised after `HAND_OVER_S`.

    Returns:
        What `act` returns.
    """
    deadline: float | None = None
    while True:
        try:
            return act()
        except DATABASE_FAULTS as error:
            if deadline is None and stopping.is_set():
                deadline = time.monotonic() + HAND_OVER_S
            if not is_outage(error) or (deadline is not None and time.monotonic() >= deadline):
                raise
            log.warning("waiting for the registry", error=type(error).__name__)
            time.sleep(LOOK_S)

"""Which faults are an outage, that says nothing about the work it interrupts, and how to sit one out.

The rest of what a database may say (a query over its time limit, a deadlock) may well be the work's own doing.
"""

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


def patiently(act: Callable[[], Result], *, patience_s: float) -> Result:
    """Do one transaction, again and again while the database is away.

    Args:
        act: must be harmless to repeat: a commit whose answer was lost may have happened.
        patience_s: how long to go on; the last fault is then raised.

    Returns:
        What `act` returns.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return act()
        except DATABASE_FAULTS as error:
            if not is_outage(error) or time.monotonic() >= deadline:
                raise
            log.warning("waiting for the registry", error=type(error).__name__)
            time.sleep(LOOK_S)

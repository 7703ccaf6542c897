"""What counts as an outage, and so uses up no attempt."""

import errno

import psycopg
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.errors import Invalid, StoreFull, Unavailable
from shared.jobs import faults

AWAY = [
    psycopg.OperationalError,  # no SQLSTATE: the connection itself
    psycopg.errors.ConnectionFailure,
    psycopg.errors.TooManyConnections,
    psycopg.errors.AdminShutdown,
    psycopg.errors.CannotConnectNow,
]
MAYBE_THE_WORK = [
    psycopg.errors.DiskFull,
    psycopg.errors.OutOfMemory,
    psycopg.errors.ConfigurationLimitExceeded,  # temp_file_limit
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
]


@pytest.mark.parametrize("cause", AWAY)
def test_a_database_that_is_away_is_an_outage(cause: type[psycopg.Error]) -> None:
    assert faults.is_outage(cause("told in words"))
    assert faults.is_outage(OperationalError("select", {}, cause("told in words")))


@pytest.mark.parametrize("cause", MAYBE_THE_WORK)
def test_work_that_may_be_too_large_for_the_database_counts(cause: type[psycopg.Error]) -> None:
    fault = OperationalError("select", {}, cause("told in words"))
    assert isinstance(fault, faults.PASSING)
    assert not faults.is_outage(fault)
    assert not faults.is_outage(cause("told in words"))
    assert faults.describe(fault) == f"The registry broke off the work ({cause.__name__})."


@pytest.mark.parametrize(
    ("fault", "outage"),
    [
        (Unavailable("the bucket does not answer"), True),
        (PoolTimeout("no connection was free"), True),
        (StoreFull("the disk of the artifact store is full"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (Invalid("no labelled example"), False),
    ],
)
def test_a_store_is_away_or_full(fault: Exception, outage: bool) -> None:
    assert faults.is_outage(fault) == outage

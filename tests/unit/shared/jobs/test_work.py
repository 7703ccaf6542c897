"""The kinds of leased work fit the tables and the state machines."""

import threading
import uuid

import pytest

from shared.contracts.tasks import QUEUE_OF
from shared.errors import IllegalMove, LeaseLost, WorkerStops
from shared.jobs.lease import Lease
from shared.jobs.work import ALL_WORK, RUN, WorkKind
from shared.registry import tables
from shared.registry.states import MOVES, CycleState, RunState, check_move, is_terminal
from shared.registry.tables.columns import LeasedWork


def test_every_leased_table_is_swept() -> None:
    leased = {table for table in vars(tables).values() if isinstance(table, type) and issubclass(table, LeasedWork)} - {
        LeasedWork
    }
    assert leased == {kind.table for kind in ALL_WORK}


@pytest.mark.parametrize("kind", ALL_WORK, ids=lambda kind: kind.name)
def test_what_leases_and_the_sweeper_do_is_legal(kind: WorkKind) -> None:
    check_move(kind.queued, kind.running)
    check_move(kind.running, kind.failed)
    check_move(kind.running, kind.queued)  # the lease expired, or the worker gave it back
    check_move(kind.queued, kind.failed)  # no attempts are left
    assert is_terminal(kind.failed)
    assert kind.task in QUEUE_OF


@pytest.mark.parametrize("machine", MOVES, ids=lambda machine: machine.__name__)
def test_every_state_can_be_reached(machine: type) -> None:
    first, *others = machine
    reached = {state for targets in MOVES[machine].values() for state in targets}
    assert set(others) <= reached, f"nothing leads from {first} to the rest"


def test_an_ended_run_stays_ended() -> None:
    with pytest.raises(IllegalMove, match="RunState cannot go from succeeded to running"):
        check_move(RunState.SUCCEEDED, RunState.RUNNING)
    assert not is_terminal(CycleState.HELD)


def test_a_lost_lease_stops_its_holder() -> None:
    lease = Lease(RUN, uuid.uuid4(), fence=3, attempt=1, max_attempts=3, lease_s=1, lost=threading.Event())
    lease.check()
    lease.stopping.set()
    with pytest.raises(WorkerStops, match="was asked to stop"):
        lease.check()
    lease.lost.set()
    with pytest.raises(LeaseLost, match=r"run .* \(fence 3\) is lost"):
        lease.check()

"""Due slots start cycles unasked, once each, whoever looks and however often."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import OperationalError

from services.trainer import cycle_repository, repository, schedule, schedule_repository
from services.trainer.schedule import tick
from shared.contracts.tasks import TaskName
from shared.registry.session import Sessions
from shared.registry.states import CycleState
from shared.registry.tables import Cycle, Pipeline, Schedule, ScheduleSlot, SpecVersion
from tests.support.rows import Rows

LONG_AGO = datetime.now(UTC) - timedelta(days=3)
MINUTELY = "* * * * *"


def set_schedule(rows: Rows, pipeline: uuid.UUID, **values: Any) -> None:
    with rows.sessions.begin() as session:
        schedule_repository.set_schedule(
            session, pipeline, **{"cron": None, "paused": False, "changed_by": "ana", **values}
        )


def end_all(rows: Rows) -> None:
    for cycle in rows.all(Cycle):
        rows.set(Cycle, cycle.id, state=CycleState.RELEASED)


def now(rows: Rows) -> datetime:
    with rows.sessions.begin() as session:
        return repository.database_now(session)


def test_a_due_slot_starts_a_cycle_unasked(rows: Rows, sessions: Sessions) -> None:
    pipeline = rows.pipeline(schedule=MINUTELY, created_at=LONG_AGO)
    assert tick(sessions) == 1
    (cycle,) = rows.all(Cycle)
    (slot,) = rows.all(ScheduleSlot)
    assert (cycle.pipeline_id, cycle.trigger, cycle.requested_by) == (pipeline, "schedule", "schedule")
    assert (cycle.state, cycle.spec_version, cycle.as_of, cycle.slot) == (CycleState.QUEUED, 1, slot.slot, slot.slot)
    assert slot.cycle_id == cycle.id
    assert timedelta(0) <= now(rows) - slot.slot < timedelta(minutes=3)
    assert slot.slot.second == 0
    assert rows.nudges() == [(TaskName.ADVANCE_CYCLE, cycle.id)]


def test_missed_slots_are_caught_up_by_one(rows: Rows, sessions: Sessions) -> None:
    rows.pipeline(schedule="0 3 * * *", created_at=LONG_AGO)
    assert tick(sessions) == 1, "three days were missed"
    end_all(rows)
    assert tick(sessions) == 0
    assert len(rows.all(ScheduleSlot)) == 1


def test_nothing_is_due_before_a_schedule_was_set(rows: Rows, sessions: Sessions) -> None:
    pipeline = rows.pipeline(created_at=LONG_AGO)
    assert tick(sessions) == 0, "no schedule"
    set_schedule(rows, pipeline, cron="0 3 * * *")
    assert tick(sessions) == 0, "last night's slot is from before the schedule"


def apply(rows: Rows, pipeline: uuid.UUID, **changes: Any) -> None:
    """A new spec version, applied just now."""
    with rows.sessions.begin() as session:
        owner = session.get_one(Pipeline, pipeline)
        spec = session.get_one(SpecVersion, (pipeline, owner.spec_version)).spec
        owner.spec_version += 1
        session.add(
            SpecVersion(pipeline_id=pipeline, number=owner.spec_version, digest="n" * 64, spec={**spec, **changes})
        )


def test_a_schedule_that_stays_the_same_keeps_its_due_slot(rows: Rows, sessions: Sessions) -> None:
    pipeline = rows.pipeline(name="of-the-spec", schedule="0 3 * * *", created_at=LONG_AGO)
    apply(rows, pipeline, description="another one")
    apply(rows, pipeline, owner="somebody else")
    set_schedule(rows, pipeline)
    assert (tick(sessions), rows.all(Schedule)) == (1, [])

    own = rows.pipeline(name="put-by-hand", created_at=LONG_AGO)
    set_schedule(rows, own, cron="0 4 * * *")
    with sessions.begin() as session:
        session.execute(update(Schedule).values(changed_at=LONG_AGO))
    apply(rows, own, schedule="0 5 * * *")
    set_schedule(rows, own, cron="0 4 * * *", changed_by="ben")
    assert [(row.changed_at, row.changed_by) for row in rows.all(Schedule)] == [(LONG_AGO, "ana")]
    assert tick(sessions) == 1


def test_another_schedule_drops_what_was_due(rows: Rows, sessions: Sessions) -> None:
    pipeline = rows.pipeline(schedule="0 3 * * *", created_at=LONG_AGO)
    apply(rows, pipeline, schedule="0 4 * * *")
    assert tick(sessions) == 0
    apply(rows, pipeline, schedule="0 3 * * *")
    assert tick(sessions) == 0, "it was another in between"


def test_a_pause_is_not_caught_up(rows: Rows, sessions: Sessions) -> None:
    pipeline = rows.pipeline(schedule="0 3 * * *", created_at=LONG_AGO)
    set_schedule(rows, pipeline, paused=True)
    assert tick(sessions) == 0
    set_schedule(rows, pipeline)
    assert tick(sessions) == 0


@pytest.mark.parametrize("state", cycle_repository.OPEN_CYCLES)
def test_a_cycle_at_work_defers_the_slot(rows: Rows, sessions: Sessions, state: CycleState) -> None:
    pipeline = rows.pipeline(schedule="0 3 * * *", created_at=LONG_AGO)
    rows.cycle(pipeline, state=CycleState.HELD)  # waits for a person, and hinders nothing
    earlier = rows.cycle(pipeline, state=state)
    assert (tick(sessions), rows.all(ScheduleSlot)) == (0, [])
    rows.set(Cycle, earlier, state=CycleState.FAILED)
    assert tick(sessions) == 1


def test_each_pipeline_has_its_own_schedule(rows: Rows, sessions: Sessions) -> None:
    rows.cycle(rows.pipeline(name="busy", schedule=MINUTELY, created_at=LONG_AGO))
    due = rows.pipeline(name="due", schedule=MINUTELY, created_at=LONG_AGO)
    rows.pipeline(name="never")
    assert tick(sessions) == 1
    assert [slot.pipeline_id for slot in rows.all(ScheduleSlot)] == [due]


def test_a_pipeline_that_cannot_be_followed_hinders_no_other(rows: Rows, sessions: Sessions) -> None:
    broken = rows.pipeline(name="a-broken", schedule=MINUTELY, created_at=LONG_AGO)
    with sessions.begin() as session:
        row = session.get_one(SpecVersion, (broken, 1))
        row.spec = {**row.spec, "schedule": "whenever"}
    due = rows.pipeline(name="b-due", schedule=MINUTELY, created_at=LONG_AGO)
    assert tick(sessions) == 1
    assert [slot.pipeline_id for slot in rows.all(ScheduleSlot)] == [due]


def test_a_database_that_is_away_ends_the_tick(rows: Rows, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    rows.pipeline(schedule=MINUTELY, created_at=LONG_AGO)

    def away(*_: object) -> int:
        raise OperationalError("select", {}, Exception("the server closed the connection"))

    monkeypatch.setattr(schedule, "_tick_pipeline", away)
    with pytest.raises(OperationalError):
        tick(sessions)


def test_many_schedulers_start_a_slot_once(rows: Rows, sessions: Sessions) -> None:
    """A daily slot, made due anew each round; no round may start two cycles, or none."""
    rows.pipeline(schedule="0 3 * * *", created_at=LONG_AGO)
    for number in range(15):
        ready = threading.Barrier(4)

        def look(ready: threading.Barrier = ready) -> int:
            ready.wait()
            return tick(sessions)

        with ThreadPoolExecutor(4) as pool:
            started = [future.result() for future in [pool.submit(look) for _ in range(4)]]
        assert sum(started) == 1, f"round {number}: {started}"
        assert len(rows.all(Cycle)) == number + 1
        end_all(rows)
        with sessions.begin() as session:
            session.execute(delete(ScheduleSlot))


def test_the_slots_key_holds_where_the_lock_does_not(
    rows: Rows, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = rows.pipeline(schedule="0 3 * * *", created_at=LONG_AGO)
    monkeypatch.setattr(schedule_repository, "lock_schedule", lambda *_: True)
    monkeypatch.setattr(cycle_repository, "has_open_cycle", lambda *_: False)
    ready = threading.Barrier(4)
    last_slot = schedule_repository.last_slot

    def look_together(*arguments: Any) -> Any:
        found = last_slot(*arguments)
        ready.wait(60)  # all have looked before anyone writes
        return found

    monkeypatch.setattr(schedule_repository, "last_slot", look_together)
    with ThreadPoolExecutor(4) as pool:
        started = [future.result() for future in [pool.submit(tick, sessions) for _ in range(4)]]
    assert sorted(started) == [0, 0, 0, 1]
    assert [cycle.pipeline_id for cycle in rows.all(Cycle)] == [pipeline]

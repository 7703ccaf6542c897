"""Which slot of a cron schedule is due. Pure."""

from datetime import datetime, timedelta

from cronsim import CronSim


def due_slot(cron: str, *, after: datetime, now: datetime) -> datetime | None:
    """The newest slot in (after, now]. Slots missed before it are caught up by it, once, and not one by one.

    Args:
        cron: five fields, UTC.
        after: the last slot taken, or when the schedule was set.
        now: the present moment.
    """
    # The iterator leaves its start out; from the next whole minute backwards, the first slot is the newest that is due.
    newest: datetime = next(CronSim(cron, now.replace(second=0, microsecond=0) + timedelta(minutes=1), reverse=True))
    return newest if newest > after else None

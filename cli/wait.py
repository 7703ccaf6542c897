"""Waiting for a row that a worker moves on: look, show, look again, with a deadline."""

import time
from collections.abc import Callable, Collection
from typing import Any

Json = dict[str, Any]
POLL_S = 0.2


class StillGoing(Exception):
    """The deadline passed; `row` is how the row looked last."""

    def __init__(self, row: Json, deadline_s: float) -> None:
        super().__init__(
            f"{row.get('id', 'It')} is still in state {row['state']} after {deadline_s / 60:.0f} minutes. "
            "Are all workers up? `relevo status` tells, `relevo logs` says more."
        )
        self.row = row


def wait_for(
    row: Json,
    read: Callable[[], Json],
    over: Collection[str],
    show: Callable[[str], None],
    *,
    deadline_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Json:
    """Read the row until its `state` is one of `over`, and return it as it then is.

    Args:
        row: the row as last seen.
        show: told the state at each look.

    Raises:
        StillGoing: it is not over after `deadline_s`.
    """
    end = clock() + deadline_s
    while True:
        show(row["state"])
        if row["state"] in over:
            return row
        if clock() > end:
            raise StillGoing(row, deadline_s)
        sleep(POLL_S)
        row = read()

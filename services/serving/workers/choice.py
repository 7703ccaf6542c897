"""What the process before the workers decides, as pure functions: who takes a connection, when a worker is started again."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

SILENT_AFTER_S = 5.0
"""A worker that was not heard for so long (it tells every second) counts as not ready: its event loop hangs."""
FIRST_RESTART_S, MAX_RESTART_S = 0.5, 30.0


class Standing(IntEnum):
    """What a worker last said of itself; a higher one takes connections first."""

    AWAY = 0
    """It has not started, is closing, or is gone: it takes no connections."""
    UNREADY = 1
    """It answers, but /readyz is red: it takes connections while nobody is ready, and says so."""
    READY = 2
    """It can do its work."""


@dataclass(slots=True)
class Load:
    """One worker, as the hand-over sees it."""

    standing: Standing = Standing.AWAY
    open: int = 0
    """Connections it was given that it has not told to be closed."""
    given: int = 0
    """Number of the last connection it was given, counted over all workers."""
    heard_s: float = 0.0
    """When it was last heard, monotonic."""


def is_ready(load: Load, now_s: float) -> bool:
    """Whether it said so, and lately."""
    return load.standing is Standing.READY and now_s - load.heard_s < SILENT_AFTER_S


def hangs(load: Load, now_s: float, silent_s: float) -> bool:
    """Whether one that takes connections has been silent for so long that it is to be killed."""
    return load.standing is not Standing.AWAY and now_s - load.heard_s > silent_s


def choose(loads: Sequence[Load], now_s: float) -> list[int]:
    """Who is to take the next connection, best first: ready ones, of these the one with the fewest open connections, of these the
    one that has waited longest, so that short connections go round.
    """
    takers = [number for number, load in enumerate(loads) if load.standing is not Standing.AWAY]

    def order(number: int) -> tuple[bool, int, int]:
        load = loads[number]
        return (not is_ready(load, now_s), load.open, load.given)

    return sorted(takers, key=order)


def restart_pause_s(last_s: float, lived_s: float) -> float:
    """How long to wait before a worker is started again: twice as long each time, from the beginning after a long life.

    Args:
        last_s: the pause before; 0 for none.
        lived_s: how long the worker lived.
    """
    if last_s == 0 or lived_s > MAX_RESTART_S:
        return FIRST_RESTART_S
    return min(last_s * 2, MAX_RESTART_S)

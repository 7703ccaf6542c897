"""Waiting for a condition, generously: a slow machine makes a test slow, never wrong."""

import time
from collections.abc import Callable

DEADLINE_S = 90.0


def until(true: Callable[[], object], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Look until it is so; fail after the deadline, saying what was waited for."""
    deadline = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < deadline, f"not within {deadline_s:.0f} s: {what}"
        time.sleep(0.05)

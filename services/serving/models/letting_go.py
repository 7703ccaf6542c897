"""Giving back the memory of a version that nobody uses any more, in a thread: freeing a large model takes its time."""

import ctypes
from collections.abc import Callable
from typing import cast

from services.serving.models.slot import Slot


def let_go(slot: Slot) -> None:
    """Free the version of a slot that no request can reach any more, and return the memory to the system."""
    loaded, slot.loaded = slot.loaded, None
    if loaded is not None and loaded.lane is not None:
        loaded.lane.retire()
        loaded.lane = None
    del loaded
    _trim(0)


def _find_trim() -> Callable[[int], int]:
    """glibc's `malloc_trim`, which frees the pages that lie between what is in use; elsewhere the allocator knows best."""
    try:
        return cast("Callable[[int], int]", ctypes.CDLL(None).malloc_trim)
    except (OSError, AttributeError):
        return int


_trim = _find_trim()

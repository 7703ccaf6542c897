"""The threads that long batches run in, shared by all lanes: who finds none free is asked again before the one that had it.

Without it each lane would fill the pool's own queue, in which nobody has a priority or a deadline.
"""

import asyncio
from collections.abc import Callable


class Threads:
    """So many threads. All methods belong to one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: dict[Callable[[], None], None] = {}

    def take(self, again: Callable[[], None]) -> bool:
        """Take a thread if one is free; else `again` is called, once, when one may be."""
        if self._free:
            self._free -= 1
            return True
        self._waiting[again] = None
        return False

    def give_back(self, again: Callable[[], None]) -> None:
        """A thread is free. All who wait are called, in the order in which they came: the first may need none any more. Whoever had
        the thread (`again`) comes last.
        """
        asyncio.get_running_loop().call_soon(self._hand_out, again)

    def _hand_out(self, again: Callable[[], None]) -> None:
        # Freed only here: nobody who comes by in the meantime takes the thread from those who wait for it.
        self._free += 1
        self._waiting.pop(again, None)
        waiting, self._waiting = self._waiting, {}
        for call in (*waiting, again):
            call()

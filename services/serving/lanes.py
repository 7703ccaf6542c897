"""What scores and what it shares: a lane for each loaded version, the threads for long work, and the backlogs of all of them."""

import asyncio
import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from services.serving.admission import Backlog, Priority
from services.serving.config import ServingSettings
from services.serving.lane import Lane
from services.serving.models.loader import Loaded
from services.serving.models.slots import Lease
from services.serving.postprocessing.current import Configurations
from services.serving.prediction_log.spool import Spool
from services.serving.shadow.mirror import Mirror
from services.serving.terms import Urgency
from services.serving.threads import Threads
from shared.errors import Unavailable
from shared.prediction_ids import PredictionIds

MOST_WAITING = 256
"""Large bodies that may be parsed or wait for it; what comes on top is told to come back."""

NICE = 10
"""Of scoring threads, on Linux; the event loop's is 0."""

T = TypeVar("T")


class Lanes:
    """All lanes of a process. Its coroutines belong to one event loop."""

    def __init__(
        self,
        spool: Spool,
        ids: PredictionIds,
        *,
        configurations: Configurations,
        settings: ServingSettings,
        mirror: Mirror,
    ) -> None:
        self._spool, self._mirror = spool, mirror
        self._ids = ids
        self._configurations = configurations
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.score_threads, thread_name_prefix="score", initializer=_give_way)
        self._on_loop = self._backlog(1)
        self._in_threads = self._backlog(settings.score_threads)
        self._threads = Threads(settings.score_threads)
        self._waiting = 0

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def of(self, loaded: Loaded) -> Lane:
        """The lane of a version, made when it is first asked for."""
        lane = loaded.lane
        if lane is None:
            lane = loaded.lane = Lane(
                loaded, self._ids, self._spool, self._pool, current=self._configurations.of(loaded.pipeline_name),
                settings=self._settings, on_loop=self._on_loop, in_threads=self._in_threads,
                mirror=self._mirror, threads=self._threads,
            )  # fmt: skip
        return lane

    def let_in(self, lease: Lease, urgency: Urgency, body_bytes: int) -> None:
        """Whether a request may come now, before it is read; the lease ends when it may not.

        Raises:
            Overloaded, DeadlinePassed: too much waits.
        """
        if self.has_room():
            return
        try:
            self.of(lease.loaded).check(urgency, body_bytes)
        except BaseException:
            lease.release()
            raise

    def let_in_large(self, urgency: Urgency) -> None:
        """Whether a request may come whose body is so large that it is read in a thread.

        Raises:
            Overloaded, DeadlinePassed: too much waits.
        """
        self._in_threads.check(*urgency)

    async def aside(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run something in a thread.

        Raises:
            Unavailable: too much waits for one.
        """
        if self._waiting >= MOST_WAITING:
            raise Unavailable("This replica has more to do than it can; try again shortly.")
        work: Any = asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
        self._waiting += 1
        work.add_done_callback(self._one_less)
        result: T = await work
        return result

    def _one_less(self, _: object) -> None:
        self._waiting -= 1

    def has_room(self) -> bool:
        """Whether a prediction that came now would wait for nobody, and so work that may be left undone may be begun."""
        return self._on_loop.has_room() and self._in_threads.has_room()

    @property
    def wait_s(self) -> float:
        """How long a prediction of normal priority that came now is expected to wait, seconds."""
        return max(backlog.wait_s(Priority.NORMAL) for backlog in (self._on_loop, self._in_threads))

    def _backlog(self, servers: int) -> Backlog:
        chance = random.Random()  # noqa: S311 - it only spreads retries
        most_wait_s = self._settings.most_wait_ms / 1000
        return Backlog(servers=servers, most_wait_s=most_wait_s, clock=time.perf_counter, chance=chance)


def _give_way() -> None:
    """Have the event loop go first where this thread shares a core with it: who is refused must not wait for what is scored."""
    if sys.platform == "linux":  # elsewhere a priority is a process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)

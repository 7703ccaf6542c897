"""Waiting for what the loading threads do, from the event loop: with a deadline, and without disturbing others who wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from services.serving.models.catalogue import Pipeline
from services.serving.models.slots import Lease, ModelSlots
from shared.errors import Unavailable


async def load_and_lease(
    slots: ModelSlots,
    pipeline: Pipeline,
    number: int,
    lease: Callable[[str, int], Lease | None],
    *,
    wait_s: float,
    retry_now: bool = False,
) -> Lease:
    """A lease on a version that may have to be loaded first.

    Args:
        lease: `slots.lease_pinned` or `slots.hold`.
        retry_now: try a version that failed a moment ago again at once.

    Raises:
        NotFound, NotLoadable: as loading fails.
        Unavailable: it takes longer than `wait_s`, or the artifact store is away.
    """
    with slots.reserve(pipeline.name, number):
        await finished(slots.begin_load(pipeline, number, retry_now=retry_now), wait_s, f"Version {number}")
        leased = lease(pipeline.name, number)
    if leased is None:
        raise Unavailable(f"Version {number} is not at hand; try again shortly.")
    return leased


async def finished(future: "Future[None]", wait_s: float, what: str) -> None:
    """Wait for a future that others may be waiting for, too.

    Raises:
        Unavailable: it takes longer than `wait_s`.
        RelevoError: as it failed.
    """
    waiting = asyncio.wrap_future(future)
    waiting.add_done_callback(
        lambda done: done.cancelled() or done.exception()
    )  # heard, even when nobody waits any more
    done, _ = await asyncio.wait({waiting}, timeout=wait_s)
    if not done:
        raise Unavailable(f"{what} is not ready yet; try again shortly.")
    waiting.result()

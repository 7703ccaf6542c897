"""Database work that a request asks for: a transaction in a thread, with a deadline; refused at once while PostgreSQL is away."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlmodel import Session

from services.serving.models.follower import Follower
from shared.errors import Unavailable
from shared.registry.session import Sessions

T = TypeVar("T")


class Transactions:
    """Runs transactions for requests. Predictions need none."""

    def __init__(self, sessions: Sessions, follower: Follower, *, wait_s: float) -> None:
        """Prepare.

        Args:
            sessions: the registry.
            follower: knows whether the registry answers.
            wait_s: how long a request waits. The transaction may still commit later, so what is done in it must bear repeating.
        """
        self._sessions = sessions
        self._follower = follower
        self._wait_s = wait_s

    async def run(self, act: Callable[[Session], T]) -> T:
        """What `act` returns, once the transaction is committed.

        Raises:
            Unavailable: PostgreSQL is away or takes too long; whatever `act` and the driver raise.
        """
        self._follower.check_answering()

        def transact() -> T:
            with self._sessions.begin() as session:
                return act(session)

        try:
            async with asyncio.timeout(self._wait_s):
                return await asyncio.to_thread(transact)
        except TimeoutError:
            raise Unavailable("The registry takes too long to answer; try again shortly.") from None

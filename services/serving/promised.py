"""What the outcome of an express request is given to: the caller who waits without a coroutine."""

from services.serving.lane import Scored
from services.serving.models.slots import Lease
from shared.web.raw import Waiting


class Promised:
    """Ends the lease and tells the caller. One whose caller has left is scored and logged all the same."""

    __slots__ = ("_lease", "_waiting")

    def __init__(self, waiting: Waiting, lease: Lease) -> None:
        self._waiting, self._lease = waiting, lease

    def cancelled(self) -> bool:
        """Never: the lease ends with the outcome."""
        return False

    def set_result(self, scored: Scored) -> None:
        """Answer."""
        self._lease.release()
        self._waiting.answer(scored.answer)

    def set_exception(self, error: Exception) -> None:
        """Refuse."""
        self._lease.release()
        self._waiting.refuse(error)

"""Whether each prediction that a client saw answered is in PostgreSQL: what wrk counted against what is stored.

wrk leaves when its time is over, with at most one request a connection under way: those may be answered and stored although nobody
counted the answer. So what is stored lies between what wrk saw answered and that plus what can have been under way.
"""

from dataclasses import dataclass

from benchmarks.serving.stack import Stack
from benchmarks.serving.wrk import Load


@dataclass
class Ledger:
    """Sums over all loads on serving, those that only warm included."""

    answered_requests: int = 0
    answered_rows: int = 0
    unheard_requests: int = 0
    """Most that can have been under way when a load ended or a connection broke."""
    unheard_rows: int = 0

    def add(self, load: Load, rows: int) -> None:
        """One load, of requests of so many rows."""
        self.answered_requests += load.answered
        self.answered_rows += load.answered * rows
        self.unheard_requests += load.unheard
        self.unheard_rows += load.unheard * rows

    def logged(self, relevo: Stack) -> float:
        """The share of the answered predictions that is stored, after `stack.drain`: 1 when none is missing and none too many.

        Below 1: fewer are stored than wrk saw answered, or than serving itself counted. Above 1: more than were asked for.
        """
        requests, rows = relevo.logged_requests(), relevo.logged()
        counted = relevo.metric("relevo_serving_predictions_total")
        print(
            f"stored: {requests:,} requests, {rows:,} rows; serving counted {counted:,.0f} rows; wrk saw the answers to "
            f"{self.answered_requests:,} requests, {self.answered_rows:,} rows, and left at most {self.unheard_requests:,} "
            f"requests, {self.unheard_rows:,} rows under way"
        )
        return share(
            (requests, self.answered_requests, self.unheard_requests),
            (rows, self.answered_rows, self.unheard_rows),
            (rows, int(counted), 0),
        )


def share(*counts: tuple[int, int, int]) -> float:
    """The share of what is wanted that is there: the lowest below 1, else the highest above 1, else 1.

    Args:
        counts: of each kind what is there, what must be, and how much more may be.
    """
    shares = []
    for found, least, more in counts:
        if found < least:
            shares.append(found / least)
        elif found > least + more:
            shares.append(found / max(1, least + more))
    return min(shares, default=1.0) if any(each < 1 for each in shares) else max(shares, default=1.0)

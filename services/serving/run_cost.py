"""What a batch costs, learned while serving: a fixed part and a part for each row, in seconds. And how large rows are, so that it
is known before they are read.
"""

import math

SHARE = 0.05
"""How far one observation moves the estimate."""
FEW = 8
"""Up to so many rows an observation tells about the fixed part, above about the part for each row."""
STALL = 4.0
"""An observation counts as at most so many times what was expected: a run that was merely interrupted says little of the next."""
LEAST_S = 1e-9
REMEMBERS_S = 60.0
"""After so long without its like the largest row seen counts half."""


class RunCost:
    """The estimate. Begins with what was measured when the model was warmed, and follows what runs take."""

    def __init__(self, fixed_s: float, per_row_s: float) -> None:
        self.fixed_s = max(LEAST_S, fixed_s)
        self.per_row_s = max(LEAST_S, per_row_s)

    @classmethod
    def measured(cls, one_row_s: float, many_rows_s: float, many: int) -> "RunCost":
        """From the time of one row alone and of `many` rows together."""
        per_row_s = max(0.0, (many_rows_s - one_row_s) / (many - 1))
        return cls(one_row_s - per_row_s, per_row_s)

    def of(self, rows: int) -> float:
        """The expected time of a run of so many rows."""
        return self.fixed_s + self.per_row_s * rows

    def rows_within(self, seconds: float) -> int:
        """The most rows expected to run within a time; at least 1."""
        return max(1, int((seconds - self.fixed_s) / self.per_row_s))

    def learn(self, rows: int, seconds: float) -> None:
        """Take in what a run took."""
        seconds = min(seconds, STALL * self.of(rows))
        # A run that takes less than one of the two parts tells that this part is smaller, whatever the run's size.
        if rows <= FEW or seconds < self.fixed_s:
            self.fixed_s = _nearer(self.fixed_s, seconds - self.per_row_s * rows)
        if rows > FEW or seconds < self.per_row_s * rows:
            self.per_row_s = _nearer(self.per_row_s, max(0.0, seconds - self.fixed_s) / rows)


class RowBytes:
    """How many bytes of a body a row takes: the largest seen lately, so that a body rarely seems to have more than it has."""

    def __init__(self) -> None:
        self._most = math.inf
        self._seen_s = 0.0

    def rows_in(self, body_bytes: int) -> int:
        """Rows that a body has at least, as far as is known; 1 when nothing is."""
        return max(1, int(body_bytes / self._most))

    def learn(self, row_bytes: float, now_s: float) -> None:
        """Take in how large the largest row of some bodies was, at a moment by a monotonic clock. Without a body (a lookup that is
        scored) it says nothing.
        """
        if not row_bytes:
            return
        if self._most == math.inf or row_bytes >= (left := self._most * 0.5 ** ((now_s - self._seen_s) / REMEMBERS_S)):
            left = row_bytes
        self._most, self._seen_s = max(1.0, left), now_s


def _nearer(estimate_s: float, seen_s: float) -> float:
    return max(LEAST_S, estimate_s + SHARE * (seen_s - estimate_s))

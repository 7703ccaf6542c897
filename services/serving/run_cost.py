"""What a batch costs, learned while serving: a fixed part and a part for each row, in seconds."""

SHARE = 0.05
"""How far one observation moves the estimate."""
FEW = 8
"""Up to so many rows an observation tells about the fixed part, above about the part for each row."""


class RunCost:
    """The estimate. Begins with what was measured when the model was warmed, and follows what runs take."""

    def __init__(self, fixed_s: float, per_row_s: float) -> None:
        self.fixed_s = fixed_s
        self.per_row_s = per_row_s

    @classmethod
    def measured(cls, one_row_s: float, many_rows_s: float, many: int) -> "RunCost":
        """From the time of one row alone and of `many` rows together."""
        per_row_s = max(0.0, (many_rows_s - one_row_s) / (many - 1))
        return cls(max(0.0, one_row_s - per_row_s), per_row_s)

    def of(self, rows: int) -> float:
        """The expected time of a run of so many rows."""
        return self.fixed_s + self.per_row_s * rows

    def rows_within(self, seconds: float) -> int:
        """The most rows expected to run within a time; at least 1."""
        if self.per_row_s <= 0:
            return 1 if self.fixed_s > seconds else 2**31
        return max(1, int((seconds - self.fixed_s) / self.per_row_s))

    def learn(self, rows: int, seconds: float) -> None:
        """Take in what a run took."""
        if rows <= FEW:
            self.fixed_s += SHARE * (max(0.0, seconds - self.per_row_s * rows) - self.fixed_s)
        else:
            self.per_row_s += SHARE * (max(0.0, seconds - self.fixed_s) / rows - self.per_row_s)

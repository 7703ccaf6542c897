"""The end of a replay in words and figures: the table per period and the one JSON line for machines."""

from collections.abc import Sequence

import orjson
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cli.demo.score import PeriodScore
from shared.evaluation import Quality

UNKNOWN = "-"
"""Shown for a figure that the flights cannot tell, as when all of a period's flights were cancelled."""


def period_table(rows: Sequence[PeriodScore], live: Quality, frozen: Quality) -> Table:
    """The replay per period, the live model beside the frozen first one; the better log loss of a row is green."""
    table = Table(
        title="The model in production beside the first one, frozen",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("Period", "Cycle"):
        table.add_column(name, no_wrap=True)
    for name in ("Flights", "Late", "Live", "Log\nloss", "Bias", "Frozen\nloss", "Frozen\nbias"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        versions = ", ".join(f"v{version}" for version in row.versions)
        table.add_row(
            row.period.label, row.cycle, *_counts(row.flights, row.live), versions, *_figures(row.live, row.frozen)
        )
    table.add_section()
    total = sum(row.flights for row in rows)
    table.add_row("All", "", *_counts(total, live), "", *_figures(live, frozen), style="bold")
    return table


def period_line(row: PeriodScore) -> str:
    """One period in a sentence, for a log that shows no progress bar."""
    live, frozen = (_shown(quality.log_loss, ".4f") for quality in (row.live, row.frozen))
    versions = ", ".join(f"v{version}" for version in row.versions)
    return f"{row.period.label}: {row.flights:,} flights, log loss {live} live ({versions}), {frozen} frozen"


def summary(flights: int, cycle_states: Sequence[str], live: Quality, frozen: Quality) -> dict[str, float | None]:
    """The figures of the whole replay; a figure that the flights cannot tell is None."""
    return {
        "flights": flights,
        "cycles": len(cycle_states),
        "released": cycle_states.count("released"),
        "rejected": cycle_states.count("rejected"),
        "live_log_loss": _rounded(live.log_loss),
        "frozen_log_loss": _rounded(frozen.log_loss),
        "live_auc": _rounded(live.auc),
        "frozen_auc": _rounded(frozen.auc),
    }


def json_line(figures: dict[str, float | None]) -> str:
    """One line of JSON."""
    return orjson.dumps(figures).decode()


def _counts(flights: int, quality: Quality) -> tuple[str, str]:
    return f"{flights:,}", _shown(quality.mean_label, ".1%")


def _figures(live: Quality, frozen: Quality) -> tuple[Text, ...]:
    """Log loss and bias of both models."""
    return (
        _loss(live.log_loss, other=frozen.log_loss),
        Text(_shown(live.prediction_bias, "+.3f")),
        _loss(frozen.log_loss, other=live.log_loss),
        Text(_shown(frozen.prediction_bias, "+.3f")),
    )


def _loss(value: float | None, other: float | None) -> Text:
    wins = value is not None and other is not None and round(value, 4) < round(other, 4)
    return Text(_shown(value, ".4f"), style="green" if wins else "")


def _shown(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)

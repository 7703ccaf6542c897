"""The picture of a replay: log loss, bias and the late rate per period, the live model beside the frozen first one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cli.demo.score import PeriodScore
from shared.evaluation import Quality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIVE, FROZEN, WORLD, INK = "#0072B2", "#D55E00", "#9AA5B1", "#27313B"
"""Two colours that colour-blind readers tell apart (Okabe and Ito), and two greys."""
MOST_MARKS = 14
"""Version marks above the first panel that stay readable side by side."""


def save_plot(path: Path, rows: Sequence[PeriodScore], live: Quality, frozen: Quality) -> None:
    """Draw the periods of a replay and write a PNG of 1,600 x 1,350 pixels.

    Raises:
        ValueError: no period to draw.
    """
    if not rows:
        raise ValueError("there is no period to draw")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16 / 1.5, 9), dpi=150, facecolor="white", layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1.3])
    loss, bias, late = panels
    edges = _edges(rows)

    live_loss, frozen_loss = (_values([getattr(row, name).log_loss for row in rows]) for name in ("live", "frozen"))
    _shade_gap(loss, edges, live_loss, frozen_loss)
    _steps(loss, edges, frozen_loss, FROZEN, "first model, frozen")
    _steps(loss, edges, live_loss, LIVE, "model in production, retrained each period")
    loss.set_ylabel("log loss (lower is better)")
    loss.use_sticky_edges = False  # the shading's foot is no floor
    loss.margins(y=0.06)
    loss.set_xlim(np.floor(edges[0]), np.ceil(edges[-1]))
    _mark_versions(loss, edges, rows)

    bias.axhline(0, color=INK, linewidth=0.8)
    _steps(bias, edges, _values([row.frozen.prediction_bias for row in rows]), FROZEN)
    _steps(bias, edges, _values([row.live.prediction_bias for row in rows]), LIVE)
    bias.set_ylabel("bias (score - outcome)")

    late.stairs(100 * _values([row.live.mean_label for row in rows]), edges, fill=True, color=WORLD, alpha=0.55)
    late.set_ylabel("flights late (%)")
    late.set_ylim(bottom=0)

    _style(figure, list(panels))
    figure.suptitle(_title(live, frozen), x=0.012, ha="left", fontsize=13, color=INK)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", ncols=2, frameon=False, labelcolor=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _title(live: Quality, frozen: Quality) -> str:
    figures = [
        f"{name} {ours:.{digits}f} live, {theirs:.{digits}f} frozen"
        for name, ours, theirs, digits in (
            ("log loss", live.log_loss, frozen.log_loss, 4),
            ("AUC", live.auc, frozen.auc, 3),
        )
        if ours is not None and theirs is not None
    ]
    return "Will the flight be late? A year of flights, predicted live\n" + "; ".join(figures)


def _edges(rows: Sequence[PeriodScore]) -> NDArray[np.float64]:
    """Where the periods begin, and where the last one ends, as matplotlib's day numbers."""
    from matplotlib.dates import date2num

    return np.asarray(date2num([row.period.start for row in rows] + [rows[-1].period.end]), dtype=np.float64)


def _values(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Unknown figures become NaN, which draws as a gap."""
    return np.array([np.nan if value is None else value for value in values])


def _steps(
    axes: "Axes", edges: NDArray[np.float64], values: NDArray[np.float64], color: str, label: str | None = None
) -> None:
    axes.stairs(values, edges, baseline=None, color=color, linewidth=2.2, label=label)


def _shade_gap(
    axes: "Axes", edges: NDArray[np.float64], live: NDArray[np.float64], frozen: NDArray[np.float64]
) -> None:
    """Fill between the two models: what retraining was worth, or cost, in each period."""
    axes.stairs(np.where(live <= frozen, frozen, np.nan), edges, baseline=live, fill=True, color=LIVE, alpha=0.13)
    axes.stairs(np.where(live > frozen, live, np.nan), edges, baseline=frozen, fill=True, color=FROZEN, alpha=0.13)


def _mark_versions(axes: "Axes", edges: NDArray[np.float64], rows: Sequence[PeriodScore]) -> None:
    """Name the version in production above the periods; a period whose cycle released nothing stands out."""
    every = -(-len(rows) // MOST_MARKS)
    for begin, end, row in list(zip(edges[:-1], edges[1:], rows, strict=True))[::every]:
        released = row.cycle.startswith("released")
        axes.annotate(
            ", ".join(f"v{version}" for version in row.versions) + ("" if released else " kept"),
            ((begin + end) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=LIVE if released else WORLD,
        )


def _style(figure: "Figure", panels: Sequence["Axes"]) -> None:
    from matplotlib.dates import DateFormatter, MonthLocator

    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(WORLD)
        axes.tick_params(colors=INK, labelsize=9)
        axes.yaxis.label.set_color(INK)
        axes.grid(axis="y", color=WORLD, alpha=0.25, linewidth=0.8)
        axes.set_axisbelow(True)
    panels[-1].xaxis.set_major_locator(MonthLocator())
    panels[-1].xaxis.set_major_formatter(DateFormatter("%b %d"))
    figure.align_ylabels(panels)

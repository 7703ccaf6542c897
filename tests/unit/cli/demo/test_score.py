"""The ledger counts labelled flights per period; the report shows the same figures, and unknown ones as such."""

import io
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cli.demo.plan import Period, plan
from cli.demo.plot import save_plot
from cli.demo.report import json_line, period_line, period_table, summary
from cli.demo.score import Answers, Ledger, by_period, quality


@pytest.fixture
def periods() -> list[Period]:
    return plan(timedelta(days=30))[:3]


def _ledger() -> Ledger:
    """Two played periods: the live model is right in the second, the frozen one says one half throughout."""
    ledger = Ledger()
    for period, live, version in ((1, [0.5, 0.5, 0.5, 0.5], 1), (2, [0.9, 0.1, 0.8, 0.4], 2)):
        ledger.add(
            Answers(
                period=np.full(4, period),
                label=np.array([1.0, 0.0, 1.0, np.nan]),
                live_version=np.full(4, version),
                live=np.array(live),
                frozen=np.full(4, 0.5),
            )
        )
    return ledger


def test_quality_is_over_the_flights_whose_outcome_is_known(periods: list[Period]) -> None:
    first, second = by_period(_ledger().all(), periods, {1: "released", 2: "released*"})
    assert (first.flights, first.live.rows, first.versions) == (4, 3, (1,))
    assert first.live.log_loss == pytest.approx(np.log(2))
    assert first.live == first.frozen
    assert (second.cycle, second.versions) == ("released*", (2,))
    assert second.live.log_loss == pytest.approx(-np.log([0.9, 0.9, 0.8]).mean())
    assert second.live.mean_label == pytest.approx(2 / 3)
    assert second.frozen.prediction_bias == pytest.approx(0.5 - 2 / 3)
    assert (second.live.auc, second.frozen.auc) == (1.0, 0.5)


def test_a_ledger_without_a_day_has_no_figures(periods: list[Period]) -> None:
    live, frozen = quality(Ledger().all())
    assert (live.rows, live.log_loss, frozen.auc) == (0, None, None)
    assert by_period(Ledger().all(), periods, {}) == []


def test_the_last_line_is_json_with_every_figure() -> None:
    live, frozen = quality(_ledger().all())
    line = json_line(summary(8, ["released", "rejected", "released", "held"], live, frozen))
    assert line.startswith('{"flights":8,"cycles":4,"released":2,"rejected":1,"live_log_loss":0.')
    assert '"frozen_log_loss":0.69315' in line
    assert '"frozen_auc":0.5}' in line
    none = quality(Ledger().all())
    assert '"live_log_loss":null' in json_line(summary(0, [], *none))


def test_the_table_fits_a_narrow_terminal_uncut(periods: list[Period]) -> None:
    answers = _ledger().all()
    rows = by_period(answers, periods, {1: "released", 2: "cancelled"})
    console = Console(width=80, file=io.StringIO())
    with console.capture() as printed:
        console.print(period_table(rows, *quality(answers)))
    text = printed.get()
    assert "…" not in text
    assert all(figure in text for figure in ("Mar 31-Apr 29", "cancelled", "66.7%", "v2", "0.6931", "-0.167"))
    assert period_line(rows[1]).startswith("Mar 31-Apr 29: 4 flights, log loss 0.1446 live (v2), 0.6931 frozen")


def test_a_period_without_outcomes_shows_dashes(periods: list[Period]) -> None:
    ledger = Ledger()
    ledger.add(Answers(np.ones(2), np.full(2, np.nan), np.ones(2), np.full(2, 0.5), np.full(2, 0.5)))
    (row,) = by_period(ledger.all(), periods, {})
    assert (row.flights, row.live.log_loss, row.cycle) == (2, None, "none")
    assert "log loss - live" in period_line(row)


def test_the_picture_is_a_png_of_the_size_promised(periods: list[Period], tmp_path: Path) -> None:
    answers = _ledger().all()
    path = tmp_path / "new" / "demo.png"
    save_plot(path, by_period(answers, periods, {1: "released", 2: "rejected"}), *quality(answers))
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")) == (1600, 1350)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no period"):
        save_plot(tmp_path / "demo.png", [], *quality(Ledger().all()))

"""Walk-forward retraining quality: the default network against gradient boosting, on a year of real flights.

For each month from March to December 2013 both learn from every flight whose outcome was known when the month began,
and are tested on the month. One pipeline file serves all months: nothing is tuned by month.

    python -m benchmarks.retraining [--sample 1.0] [--seed 7] [--pipeline pipelines/flights.yaml]

Prints a table, the means, whether the bar is met, and, last, one JSON object. Exits 1 when the bar is not met.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OrdinalEncoder

from cli.flights import load_flights
from services.trainer.fit_model import fit_model
from services.trainer.transform import feeds_of
from services.trainer.transform.build import run_in_chunks, session
from shared.spec import CategoryFeature, NumberFeature, PipelineSpec, load_yaml, parse

MONTHS = range(3, 13)
LOCAL = "America/New_York"
MARGIN = 0.010
"""The network's mean AUC may be this much below gradient boosting's, and its mean log loss this much above."""


@dataclass(frozen=True)
class Month:
    """Both models on the flights of one month."""

    month: str
    train_rows: int
    test_rows: int
    late_rate: float
    network_auc: float
    boosting_auc: float
    network_log_loss: float
    boosting_log_loss: float
    network_s: float
    boosting_s: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=float, default=1.0, help="share of the flights, in (0, 1]")
    parser.add_argument("--seed", type=int, default=7, help="names the sample, and seeds gradient boosting")
    parser.add_argument("--pipeline", type=Path, default=Path(__file__).parents[1] / "pipelines" / "flights.yaml")
    options = parser.parse_args()
    console = Console(width=100, highlight=False)
    spec = parse(load_yaml(options.pipeline.read_text()))
    with console.status("Reading the flights"):
        flights = load_flights(options.sample, options.seed)
    console.print(f"{len(flights):,} flights; {spec.network.kind} {spec.network.hidden} against gradient boosting\n")
    console.print(HEADER)
    months: list[Month] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for number in progress.track(MONTHS, description="Months"):
            months.append(run_month(flights, number, spec, options.seed))
            progress.console.print(row_of(months[-1]))
    result = summary(months)
    console.print(
        f"{'mean':29}{result['network_auc']:15.4f}{result['boosting_auc']:10.4f}"
        f"{result['network_log_loss']:20.4f}{result['boosting_log_loss']:10.4f}\n"
    )
    console.print(
        f"The bar: mean AUC at least {result['boosting_auc'] - MARGIN:.4f}, mean log loss at most "
        f"{result['boosting_log_loss'] + MARGIN:.4f}: {'met' if result['met'] else 'NOT met'}."
    )
    print(json.dumps({**result, "months": [asdict(month) for month in months]}))
    return 0 if result["met"] else 1


HEADER = "month     train   test   late   AUC: network  boosting   log loss: network  boosting   seconds"


def row_of(month: Month) -> str:
    return (
        f"{month.month}{month.train_rows:8}{month.test_rows:7}{month.late_rate:7.3f}"
        f"{month.network_auc:15.4f}{month.boosting_auc:10.4f}"
        f"{month.network_log_loss:20.4f}{month.boosting_log_loss:10.4f}{month.network_s:6.1f}{month.boosting_s:5.1f}"
    )


def summary(months: list[Month]) -> dict[str, float | bool]:
    """Means over the months, and whether they meet the bar."""
    names = ("network_auc", "boosting_auc", "network_log_loss", "boosting_log_loss")
    means = {name: round(float(np.mean([getattr(month, name) for month in months])), 5) for name in names}
    met = (
        means["network_auc"] >= means["boosting_auc"] - MARGIN
        and means["network_log_loss"] <= means["boosting_log_loss"] + MARGIN
    )
    return {**means, "met": met}


def run_month(flights: pd.DataFrame, number: int, spec: PipelineSpec, seed: int) -> Month:
    """Train both on what was known when the month began, in local time, and score the month."""
    train, test = split(flights, number, spec)
    started = time.monotonic()
    network = network_scores(train, test, spec)
    between = time.monotonic()
    boosting = boosting_scores(train, test, spec, seed)
    ended = time.monotonic()
    truth = test["late"].to_numpy()
    return Month(
        month=f"2013-{number:02}",
        train_rows=len(train),
        test_rows=len(test),
        late_rate=float(truth.mean()),
        network_auc=float(roc_auc_score(truth, network)),
        boosting_auc=float(roc_auc_score(truth, boosting)),
        network_log_loss=float(log_loss(truth, network.astype(np.float64))),
        boosting_log_loss=float(log_loss(truth, boosting)),
        network_s=round(between - started, 2),
        boosting_s=round(ended - between, 2),
    )


def split(flights: pd.DataFrame, number: int, spec: PipelineSpec) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Flights mature and known by the first moment of the month, and the month's own flights with an outcome."""
    begin = pd.Timestamp(year=2013, month=number, day=1, tz=LOCAL)
    end = begin + pd.DateOffset(months=1)
    departure = flights["scheduled_departure"]
    known = (departure <= begin - spec.label.mature_after) & (flights["known_at"] <= begin)
    return flights[known], flights[(departure >= begin) & (departure < end) & flights["late"].notna()]


def network_scores(train: pd.DataFrame, test: pd.DataFrame, spec: PipelineSpec) -> np.ndarray:
    """Scores of the test rows by the ONNX file that the trainer makes of the train rows."""
    fitted = fit_model(as_table(train, spec), spec, metadata={}, on_epoch=lambda _: None, should_stop=lambda: False)
    (scores,) = run_in_chunks(session(fitted.onnx_bytes), ["score"], feeds_of(as_table(test, spec), spec))
    return scores


def as_table(flights: pd.DataFrame, spec: PipelineSpec) -> pa.Table:
    """The columns of a dataset: key, time, every input feature, label."""
    roles = {"key": spec.key, "time": spec.time, "label": spec.label.name}
    columns = {**roles, **{name: name for name in spec.input_features}}
    return pa.table({name: pa.Array.from_pandas(flights[source]) for name, source in columns.items()})


def boosting_scores(train: pd.DataFrame, test: pd.DataFrame, spec: PipelineSpec, seed: int) -> np.ndarray:
    """Gradient boosting on the same columns: categories as categories, weather and local calendar parts as numbers."""
    categories = [name for name, feature in spec.features.items() if isinstance(feature, CategoryFeature)]
    numbers = [name for name, feature in spec.features.items() if isinstance(feature, NumberFeature)]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan).fit(train[categories])

    def matrix(flights: pd.DataFrame) -> np.ndarray:
        local = flights[spec.time].dt.tz_convert(LOCAL).dt
        calendar = [local.hour * 60 + local.minute, local.hour, local.day_of_week, local.day, local.month]
        return np.column_stack([encoder.transform(flights[categories]), flights[numbers].to_numpy(), *calendar])

    model = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.1, categorical_features=list(range(len(categories))), random_state=seed
    )
    model.fit(matrix(train), train["late"].to_numpy())
    return model.predict_proba(matrix(test))[:, 1]


if __name__ == "__main__":
    sys.exit(main())

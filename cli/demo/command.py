"""`relevo demo`: replay the flights year in event time against the real services, and show what retraining was worth."""

import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.addresses import DEFAULT_HOME, NoAddresses
from cli.client import Client, Json
from cli.demo import report
from cli.demo.bootstrap import apply_paused, free_name, send_history
from cli.demo.cycles import Outcome, run_cycle
from cli.demo.errors import DemoFailed
from cli.demo.host import stack
from cli.demo.plan import LAST_DAY, Period, plan
from cli.demo.plot import save_plot
from cli.demo.replay import Replay
from cli.demo.rows import flight_fields
from cli.demo.score import Ledger, by_period, quality
from cli.flights import load_flights
from cli.transport import CallFailed
from shared.errors import RelevoError
from shared.registry.states import CycleState
from shared.spec import PipelineSpec, load_yaml, parse
from shared.spec.types import parse_duration

if TYPE_CHECKING:
    import pandas as pd

FLIGHTS_PIPELINE = Path(__file__).parents[2] / "pipelines" / "flights.yaml"
PLOT = "demo.png"


def demo(
    *,
    home: Annotated[Path, typer.Option(help="Folder of the stack, and of the plot.")] = DEFAULT_HOME,
    port_base: Annotated[int, typer.Option(help="First of the four ports, when the stack is not up yet.")] = 8000,
    every: Annotated[
        timedelta,
        typer.Option(parser=parse_duration, metavar="DURATION", help="Simulated time between cycles, in days."),
    ] = "30d",  # type: ignore[assignment]
    until: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Last day to replay.")] = str(LAST_DAY),  # type: ignore[assignment]
    sample: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the flights to replay.")] = 0.15,
    pipeline: Annotated[
        Path, typer.Option(help="Pipeline file.", exists=True, dir_okay=False, show_default="pipelines/flights.yaml")
    ] = FLIGHTS_PIPELINE,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
) -> None:
    """Replay a year of real flights: predict each one, learn from how it ended, retrain, release, compare.

    Two months of history train the first model. Then every day is predicted over HTTP by the model in production and
    by the first one, frozen; truths are sent back when they are known; and a cycle runs each period. Prints a table,
    then one line of JSON, and draws a picture in the home folder. The full replay: --every 7d --sample 1.
    """
    err = Console(stderr=True)
    try:
        periods = plan(every, until.date())
        document = load_yaml(pipeline.read_bytes())
        spec = parse(document)
        flights = load_flights(sample)
        fields = flight_fields(spec, list(flights.columns))
        with stack(home, port_base, keep=keep) as addresses, Client(addresses) as client:
            document["name"] = free_name(client, spec.name)
            stage = Stage(client, parse(document), fields, periods, err)
            outcomes, ledger = play(stage, document, flights)
            conclude(periods, outcomes, ledger, home / PLOT, err)
            if keep:
                err.print(f"The stack is up; try {addresses.serving}/docs. `relevo down --home {home}` stops it.")
    except (DemoFailed, CallFailed, NoAddresses, RelevoError, OSError, ValueError) as error:
        err.print(f"The demo failed: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("Stopped.")
        raise typer.Exit(130) from None


@dataclass(frozen=True, slots=True)
class Stage:
    """What a replay plays on: the services, the pipeline as applied, the fields it takes, and the calendar."""

    client: Client
    spec: PipelineSpec
    fields: list[str]
    periods: list[Period]
    console: Console


def play(stage: Stage, document: Json, flights: "pd.DataFrame") -> tuple[dict[int, Outcome], Ledger]:
    """The replay from an empty pipeline to its last landing: how the cycles ended, by period number, and all answers.

    Raises:
        DemoFailed: the loop broke a promise.
    """
    departure = flights[stage.spec.time]
    begin, end = stage.periods[0].start, stage.periods[-1].end
    history = flights[departure < begin]
    future = flights[(departure >= begin) & (departure < end)].reset_index(drop=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stage.console,
    ) as progress:
        apply_paused(stage.client, document)
        sending = progress.add_task("Sending January and February", total=len(history))
        send_history(stage.client, stage.spec, stage.fields, history, lambda rows: progress.advance(sending, rows))
        return _fly(stage, future, progress)


def _fly(stage: Stage, flights: "pd.DataFrame", progress: Progress) -> tuple[dict[int, Outcome], Ledger]:
    """Each period: its cycle, then its days."""
    outcomes: dict[int, Outcome] = {}
    cycles = progress.add_task("Cycles", total=len(stage.periods))
    days = progress.add_task("Flights", total=len(flights))
    replay: Replay | None = None
    for period in stage.periods:

        def show(state: str, period: Period = period) -> None:
            progress.update(cycles, description=f"Cycle of {period.start:%b %d}: {state}")

        outcome = run_cycle(stage.client, stage.spec.name, period.start, show)
        if replay is None:
            replay = Replay(stage.client, stage.spec, stage.fields, flights, frozen=outcome.released_version)
        outcomes[period.number] = outcome
        if outcome.state != CycleState.RELEASED:
            note = f"The cycle of {period.start:%b %d} ended as {outcome.state}: {outcome.reason}"
            progress.console.print(note, highlight=False, soft_wrap=True)
        progress.advance(cycles)
        for day in period.days:
            progress.update(days, description=f"Flights of {day.start:%b %d}")
            progress.advance(days, replay.play(period, day))
        for row in by_period(replay.ledger.all(), [period], {period.number: outcome.text}):
            progress.console.print(report.period_line(row), highlight=False, soft_wrap=True)
    assert replay is not None, "a plan has at least one period"
    replay.tell_the_rest()
    return outcomes, replay.ledger


def conclude(periods: list[Period], outcomes: dict[int, Outcome], ledger: Ledger, plot: Path, err: Console) -> None:
    """Print the table, draw the picture, and end with the line of JSON."""
    answers = ledger.all()
    live, frozen = quality(answers)
    rows = by_period(answers, periods, {number: outcome.text for number, outcome in outcomes.items()})
    out = Console()
    out = out if out.is_terminal else Console(width=100)
    out.print(report.period_table(rows, live, frozen))
    if any(outcome.unsettled for outcome in outcomes.values()):
        out.print("* released although the rows did not settle it: the pipeline says `inconclusive: promote`")
    save_plot(plot, rows, live, frozen)
    err.print(f"The same as a picture: {plot}", highlight=False, markup=False, soft_wrap=True)
    states = [outcome.state for outcome in outcomes.values()]
    sys.stdout.write(report.json_line(report.summary(len(answers.label), states, live, frozen)) + "\n")

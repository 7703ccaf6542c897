"""`relevo cycle`, `runs`, `models`, `promote` and `rollback`: retraining and release from the terminal."""

from datetime import datetime
from typing import Annotated

import typer

from cli.commands.common import (
    HomeOption,
    JsonOption,
    LimitOption,
    PipelineArgument,
    WaitOption,
    connected,
    moment,
    print_item,
    print_json,
    print_list,
    watch,
)
from shared.registry.states import CycleState

CYCLE_OVER = (
    CycleState.RELEASED,
    CycleState.HELD,
    CycleState.REJECTED,
    CycleState.FAILED,
    CycleState.CANCELLED,
)
CYCLE_COLUMNS = ("id", "state", "trigger", "as_of", "version", "reason")
RUN_COLUMNS = ("id", "state", "dataset", "version", "created_at", "reason")
VERSION_COLUMNS = ("number", "state", "as_of", "dataset", "train_label_mean", "digest")
DEPLOYMENT_FIELDS = ("live_version", "generation", "previous_version", "applied_version", "registry_age_s")

ReasonOption = Annotated[str, typer.Option(help="Why; kept in the history.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    for command in (cycle, runs, models, promote, rollback):
        app.command()(command)


def cycle(
    pipeline: PipelineArgument,
    cycle_id: Annotated[str | None, typer.Argument(help="Show this cycle instead of starting one.")] = None,
    *,
    as_of: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Learn only from what was known by then.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the cycles instead of starting one.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the cycle named.")] = False,
    limit: LimitOption = 20,
    wait: WaitOption = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a pass through the loop: dataset, training, validation, release. Exits with 1 when nothing came of it."""
    with connected(home) as client:
        if listing:
            print_list(client.cycles(pipeline), CYCLE_COLUMNS, limit=limit, as_json=as_json)
            return
        if cycle_id is not None:
            row = client.cancel_cycle(pipeline, cycle_id) if cancel else client.cycle(pipeline, cycle_id)
            print_item(row, as_json=as_json)
            return
        if cancel:
            raise typer.BadParameter("name the cycle to cancel; `relevo cycle PIPELINE --list` shows them")
        row = client.start_cycle(pipeline, as_of)
        if wait:
            started: str = row["id"]
            row = watch(row, lambda: client.cycle(pipeline, started), CYCLE_OVER, "Cycle")
        print_item(row, as_json=as_json, fields=CYCLE_COLUMNS)
        if row["state"] in (CycleState.REJECTED, CycleState.FAILED, CycleState.CANCELLED):
            raise typer.Exit(1)


def runs(
    pipeline: PipelineArgument,
    run_id: Annotated[str | None, typer.Argument(help="Show this run.")] = None,
    *,
    limit: LimitOption = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List training runs, or show one."""
    with connected(home) as client:
        if run_id is not None:
            print_item(client.run(pipeline, run_id), as_json=as_json)
        else:
            print_list(client.runs(pipeline), RUN_COLUMNS, limit=limit, as_json=as_json)


def models(
    pipeline: PipelineArgument,
    *,
    history: Annotated[bool, typer.Option("--history", help="List the changes of the version in production.")] = False,
    limit: LimitOption = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which version is in production, and list the versions."""
    with connected(home) as client:
        if history:
            columns = ("generation", "action", "version", "previous_version", "actor", "reason", "created_at")
            print_list(client.deployment_history(pipeline), columns, limit=limit, as_json=as_json)
            return
        versions = client.versions(pipeline)
        if as_json:
            rows = [row for row, _ in zip(versions, range(limit), strict=False)]
            print_json({"deployment": client.deployment_or_none(pipeline), "versions": rows})
            return
        deployment = client.deployment_or_none(pipeline)
        if deployment is None or deployment["live_version"] is None:
            typer.echo("No version is in production.")
        else:
            print_item(deployment, as_json=False, fields=DEPLOYMENT_FIELDS)
        print_list(versions, VERSION_COLUMNS, limit=limit, as_json=False)


def promote(
    pipeline: PipelineArgument,
    version: Annotated[int, typer.Argument(help="Number of the version.")],
    *,
    reason: ReasonOption = "",
    override: Annotated[
        str | None, typer.Option(help="Who takes it upon himself, and why: needed without a passing verdict.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a version into production."""
    with connected(home) as client:
        print_item(client.promote(pipeline, version, reason=reason, override=override), as_json=as_json)


def rollback(
    pipeline: PipelineArgument, *, reason: ReasonOption, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Put the version that was in production before back into production."""
    with connected(home) as client:
        print_item(client.rollback(pipeline, reason=reason), as_json=as_json)

"""`relevo predict`, `monitor` and `alerts`: the model in production from the terminal."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from cli.client import Json
from cli.commands.common import (
    BadInput,
    HomeOption,
    JsonOption,
    LimitOption,
    PipelineArgument,
    connected,
    moment,
    print_item,
    print_json,
    print_list,
    read_rows,
)

DAY_COLUMNS = ("day", "predictions", "mean_prediction", "mean_label", "bias", "labels", "loss", "auc", "model_age_s")
ALERT_COLUMNS = ("id", "kind", "created_at", "acknowledged_at", "sentence")


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    for command in (predict, monitor, alerts):
        app.command()(command)


def predict(
    pipeline: PipelineArgument,
    file: Annotated[Path | None, typer.Argument(help="Instances as JSON or NDJSON; - reads standard input.")] = None,
    *,
    instance: Annotated[str | None, typer.Option(help="One instance as a JSON object, instead of a file.")] = None,
    version: Annotated[int | None, typer.Option(help="Ask this version instead of the one in production.")] = None,
    key: Annotated[str | None, typer.Option(help="Look up the prediction of this key, made ahead.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score instances, or look up what was predicted for a key."""
    with connected(home) as client:
        if key is not None:
            if file is not None or instance is not None or version is not None:
                raise BadInput("Give either --key or instances.")
            print_item(client.lookup(pipeline, key), as_json=as_json)
            return
        answer = client.predict(pipeline, _instances(file, instance), version)
        if as_json:
            print_json(answer)
            return
        Console().print(f"version {answer['model_version']}", style="bold", highlight=False)
        print_list(
            iter(answer["predictions"]), ("prediction_id", "score"), limit=len(answer["predictions"]), as_json=False
        )


def monitor(
    pipeline: PipelineArgument,
    *,
    start: Annotated[
        datetime | None, typer.Option("--from", parser=moment, metavar="TIME", help="First moment.")
    ] = None,
    end: Annotated[datetime | None, typer.Option("--to", parser=moment, metavar="TIME", help="Last moment.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the model in production did, day by day of event time."""
    with connected(home) as client:
        found = client.monitoring(pipeline, start, end)
        if as_json:
            print_json(found)
        else:
            print_list(iter(found["days"]), DAY_COLUMNS, limit=len(found["days"]) or 1, as_json=False)
            if not found["up_to_date"]:
                Console().print(
                    "Newer predictions or labels are not counted yet; that takes some seconds.", style="dim"
                )


def alerts(
    pipeline: PipelineArgument,
    *,
    acknowledge: Annotated[str | None, typer.Option(help="Id of an alert that has been seen to.")] = None,
    limit: LimitOption = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what needed attention, or acknowledge it."""
    with connected(home) as client:
        if acknowledge is not None:
            print_item(client.acknowledge(pipeline, acknowledge), as_json=as_json)
        else:
            print_list(client.alerts(pipeline), ALERT_COLUMNS, limit=limit, as_json=as_json)


def _instances(file: Path | None, instance: str | None) -> list[Json]:
    """The instances given; a file may also hold a whole request, `{"instances": [...]}`."""
    if (file is None) == (instance is None):
        raise BadInput("Give either a file or --instance.")
    if file is not None:
        rows = read_rows(file)
        whole = rows[0].get("instances") if len(rows) == 1 else None
        return whole if isinstance(whole, list) else rows
    try:
        found = orjson.loads(instance or "")
    except orjson.JSONDecodeError as error:
        raise BadInput(f"--instance is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise BadInput('--instance must be a JSON object, such as \'{"flight_id": "...", ...}\'.')
    return [found]

"""`relevo apply`, `ingest`, `label` and `dataset`: the data service from the terminal."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.client import Json
from cli.commands.common import (
    BadInput,
    HomeOption,
    JsonOption,
    LimitOption,
    PipelineArgument,
    WaitOption,
    connected,
    moment,
    print_item,
    print_list,
    read_rows,
    watch,
)
from shared.errors import RelevoError
from shared.registry.states import DatasetState
from shared.spec import load_yaml

CONTENT_TYPES = {
    ".json": "application/json",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".parquet": "application/vnd.apache.parquet",
    ".arrow": "application/vnd.apache.arrow.stream",
    ".arrows": "application/vnd.apache.arrow.stream",
}
DATASET_OVER = (DatasetState.READY, DatasetState.FAILED, DatasetState.ERASED)
DATASET_COLUMNS = ("number", "state", "as_of", "train_rows", "test_rows", "train_label_mean", "digest")


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    app.command()(apply)
    app.command()(ingest)
    app.command()(label)
    app.command()(dataset)


def apply(
    file: Annotated[Path, typer.Argument(help="Pipeline file (YAML).", exists=True, dir_okay=False)],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a pipeline, or give it a new spec version."""
    with connected(home) as client:
        try:
            document = load_yaml(file.read_bytes())
        except (RelevoError, OSError) as error:
            raise BadInput(f"{file}: {error}") from None
        print_item(client.apply(document, dry_run=dry_run), as_json=as_json)


def ingest(
    pipeline: PipelineArgument,
    file: Annotated[
        Path, typer.Argument(help="Events: .json, .ndjson, .parquet or .arrow.", exists=True, dir_okay=False)
    ],
    *,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send events. Exits with 1 when rows were put into quarantine."""
    with connected(home) as client:
        content_type = CONTENT_TYPES.get(file.suffix.lower())
        if content_type is None:
            raise BadInput(f"{file.name}: the ending must be one of {', '.join(CONTENT_TYPES)}.")
        verdicts = client.ingest(pipeline, file.read_bytes(), content_type)
        print_item(verdicts, as_json=as_json)
        if verdicts.get("quarantined"):
            raise typer.Exit(1)


def label(
    pipeline: PipelineArgument,
    file: Annotated[Path | None, typer.Argument(help="Labels as JSON or NDJSON; - reads standard input.")] = None,
    *,
    key: Annotated[str | None, typer.Option(help="Key of one example, instead of a file.")] = None,
    value: Annotated[float | None, typer.Option(help="Its label.")] = None,
    time: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="When it became known; default: now.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send ground truth: from a file, or for one example with --key and --value. Exits with 1 when rows were refused."""
    with connected(home) as client:
        if file is not None and key is None and value is None:
            rows = read_rows(file)
        elif file is None and key is not None and value is not None:
            row: Json = {"key": key, "label": value}
            rows = [row if time is None else {**row, "time": time}]
        else:
            raise BadInput("Give either a file, or --key and --value.")
        verdicts = client.label(pipeline, rows)
        print_item(verdicts, as_json=as_json)
        if verdicts.get("quarantined"):
            raise typer.Exit(1)


def dataset(
    pipeline: PipelineArgument,
    number: Annotated[int | None, typer.Argument(help="Show this version instead of building one.")] = None,
    *,
    as_of: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Leave out what was not known by then.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the versions instead of building one.")] = False,
    limit: LimitOption = 20,
    wait: WaitOption = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a dataset version, or show those there are."""
    with connected(home) as client:
        if listing:
            print_list(client.datasets(pipeline), DATASET_COLUMNS, limit=limit, as_json=as_json)
            return
        if number is not None:
            print_item(client.dataset(pipeline, number), as_json=as_json)
            return
        row = client.build_dataset(pipeline, as_of)
        if wait:
            found: int = row["number"]
            row = watch(row, lambda: client.dataset(pipeline, found), DATASET_OVER, f"Dataset {found}")
        print_item(row, as_json=as_json, fields=(*DATASET_COLUMNS, "reason"))
        if row["state"] == DatasetState.FAILED:
            raise typer.Exit(1)

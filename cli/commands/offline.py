"""`relevo precompute`: generations of offline predictions from the terminal."""

from pathlib import Path
from typing import Annotated, Literal

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
    print_item,
    print_list,
    watch,
)
from shared.registry.states import PrecomputeState

OVER = (PrecomputeState.READY, PrecomputeState.FAILED, PrecomputeState.RETIRED)
COLUMNS = ("number", "state", "version", "rows", "source", "trigger", "computed_at", "reason")


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command()(precompute)


def precompute(
    pipeline: PipelineArgument,
    number: Annotated[int | None, typer.Argument(help="Show this generation instead of making one.")] = None,
    *,
    dataset: Annotated[str | None, typer.Option(help="Score a dataset: its number, or `latest`.")] = None,
    split: Annotated[Literal["train", "test"] | None, typer.Option(help="One split of the dataset only.")] = None,
    keys_seen: Annotated[bool, typer.Option("--keys-seen", help="Score all keys seen.")] = False,
    since: Annotated[
        str | None, typer.Option(help="Of the keys seen, only those of the last so long, such as 30d.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Score the rows of a Parquet file.", exists=True, dir_okay=False)
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the generations instead of making one.")] = False,
    limit: LimitOption = 20,
    wait: WaitOption = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score many rows ahead, for lookups by key; without an option, those that the pipeline file names."""
    with connected(home) as client:
        if listing:
            print_list(client.generations(pipeline), COLUMNS, limit=limit, as_json=as_json)
            return
        if number is not None:
            print_item(client.generation(pipeline, number), as_json=as_json)
            return
        if file is not None:
            if dataset or split or keys_seen or since:
                raise BadInput("Give either a file or what else to score.")
            row = client.precompute_file(pipeline, file.read_bytes())
        else:
            row = client.precompute(pipeline, _source(dataset, split, keys_seen or since is not None, since))
        if wait:
            made: int = row["number"]
            row = watch(row, lambda: client.generation(pipeline, made), OVER, f"Generation {made}")
        print_item(row, as_json=as_json, fields=COLUMNS)
        if row["state"] == PrecomputeState.FAILED:
            raise typer.Exit(1)


def _source(dataset: str | None, split: str | None, keys_seen: bool, since: str | None) -> Json:
    if dataset is not None and keys_seen:
        raise BadInput("Give either --dataset or --keys-seen.")
    if split is not None and dataset is None:
        raise BadInput("--split belongs to --dataset.")
    if keys_seen:
        return {"keys_seen": {} if since is None else {"since": since}}
    if dataset is None:
        return {}
    if dataset != "latest" and not dataset.isdecimal():
        raise BadInput("--dataset must be a number, or latest.")
    wanted: Json = {"dataset": dataset if dataset == "latest" else int(dataset)}
    return wanted if split is None else {**wanted, "split": split}

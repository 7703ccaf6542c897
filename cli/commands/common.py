"""What the commands share: the options, the connection, and one way to print and to fail."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cli.addresses import NoAddresses, find
from cli.client import Client, Json
from cli.transport import CallFailed
from cli.wait import StillGoing, wait_for

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="Folder of a local stack. Default: the services that RELEVO_*_URL and RELEVO_API_KEY name, else .relevo.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many to list, newest first.")]
PipelineArgument = Annotated[str, typer.Argument(help="Name of the pipeline.", show_default=False)]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")]

DEADLINE_S = 6 * 3600.0
"""The longest that a command waits for a dataset or a cycle."""


class BadInput(Exception):
    """A file or an option cannot be used; the message says why."""


@contextmanager
def connected(home: Path | None) -> Iterator[Client]:
    """A client for the block. What goes wrong in it becomes one sentence on standard error and exit status 1."""
    try:
        with Client(find(home)) as client:
            yield client
    except (NoAddresses, CallFailed, StillGoing, BadInput) as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


def moment(text: str) -> datetime:
    """A time option: ISO 8601 with an offset.

    Raises:
        typer.BadParameter: it is not.
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be ISO 8601, such as 2013-03-01T08:00:00Z") from None
    if value.tzinfo is None:
        raise typer.BadParameter("must say its offset from UTC, such as 2013-03-01T08:00:00Z")
    return value


def read_rows(path: Path) -> list[Json]:
    """JSON objects from a file, or from standard input for `-`: one object, an array, or one object on each line.

    Raises:
        BadInput: it cannot be read as any of these.
    """
    try:
        body = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from None
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            found = [orjson.loads(line) for line in body.splitlines() if line.strip()]
        except orjson.JSONDecodeError as error:
            raise BadInput(f"{path} is neither JSON nor one JSON object on each line: {error}.") from None
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path} must hold JSON objects: one, an array of them, or one on each line.")
    return rows


def print_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def print_item(item: Json, *, as_json: bool, fields: Sequence[str] = ()) -> None:
    """Print one answer: as JSON, or a line for each of `fields` (default: all) that it has."""
    if as_json:
        print_json(item)
        return
    lines = Table(box=None, pad_edge=False, show_header=False)
    lines.add_column(style="bold")
    lines.add_column(overflow="fold")
    for name in fields or item:
        if item.get(name) not in (None, "", [], {}):
            lines.add_row(name.replace("_", " "), shown(item[name]))
    Console().print(lines, markup=False)


def print_list(items: Iterator[Json], columns: Sequence[str], *, limit: int, as_json: bool) -> None:
    """Print the first items of a list: as a JSON array, or as a table of `columns`."""
    rows = list(islice(items, limit))
    if as_json:
        print_json(rows)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(shown(row.get(name)) for name in columns))
    Console().print(table if rows else "None yet.", markup=False)


def shown(value: object) -> str:
    """A JSON value as text for a table: figures short, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return str(value)


def watch(row: Json, read: Callable[[], Json], over: Collection[str], what: str) -> Json:
    """Wait for a row with a spinner on the terminal, and return it when it is over."""
    with Console(stderr=True).status(what) as status:
        return wait_for(row, read, over, lambda state: status.update(f"{what}: {state}"), deadline_s=DEADLINE_S)

"""`relevo keys create`, `list` and `revoke`: API keys from the terminal."""

from datetime import datetime
from typing import Annotated

import typer

from cli.client import Json
from cli.commands.common import HomeOption, JsonOption, LimitOption, connected, moment, print_item, print_list
from shared.contracts.scopes import Scope

KEY_COLUMNS = ("id", "name", "scopes", "pipelines", "created_by", "created_at", "expires_at", "revoked_at")


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    group = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
    group.command()(create)
    group.command("list")(list_all)
    group.command()(revoke)
    app.add_typer(group, name="keys")


def create(
    name: Annotated[str, typer.Argument(help="Whom or what it is for.")],
    *,
    scope: Annotated[list[Scope], typer.Option(help="What it may do; give it several times for several.")],
    pipeline: Annotated[
        list[str] | None, typer.Option(help="Limit it to this pipeline; several times for several.")
    ] = None,
    expires: Annotated[datetime | None, typer.Option(parser=moment, metavar="TIME", help="When it ends.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. Its text is shown this once."""
    with connected(home) as client:
        body: Json = {"name": name, "scopes": scope}
        if pipeline:
            body["pipelines"] = pipeline
        if expires is not None:
            body["expires_at"] = expires
        print_item(client.create_key(body), as_json=as_json, fields=("key", *KEY_COLUMNS))


def list_all(*, limit: LimitOption = 50, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List keys, newest first, revoked ones too."""
    with connected(home) as client:
        print_list(client.keys(), KEY_COLUMNS, limit=limit, as_json=as_json)


def revoke(
    key_id: Annotated[str, typer.Argument(help="The 12 digits after rlv_.")],
    *,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a key for good, everywhere within about two seconds."""
    with connected(home) as client:
        print_item(client.revoke_key(key_id), as_json=as_json, fields=KEY_COLUMNS)

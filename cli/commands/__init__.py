"""The commands that call the services: each parses its options, makes one call, and prints the answer."""

import typer

from cli.commands import data, keys, live, loop, offline


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    for module in (data, loop, live, offline, keys):
        module.register(app)

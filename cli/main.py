"""The `relevo` command: the root that each module of commands adds itself to."""

import typer

from cli import commands as service_commands
from cli.demo.command import demo
from cli.stack import commands as stack_commands

app = typer.Typer(
    name="relevo",
    help="Keeps machine-learning models fresh: data, training, validation, release and serving in one closed loop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stack_commands.register(app)
service_commands.register(app)
app.command()(demo)


if __name__ == "__main__":
    app()

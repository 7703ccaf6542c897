"""`relevo up`, `down`, `status` and `logs`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import psutil  # type: ignore[import-untyped]
import typer
from rich.console import Console

from cli import ending
from cli.addresses import DEFAULT_HOME
from cli.stack import display, follow, ports, strays
from cli.stack import home as homes
from cli.stack import snapshot as snapshots
from cli.stack.decide import Whole
from cli.stack.errors import StackError, last_lines
from cli.stack.home import Home
from cli.stack.snapshot import Snapshot

DEFAULT_PORT_BASE = 8000
LOOK_S = 0.1
"""Between two looks at what the supervisor publishes."""

HomeOption = Annotated[
    Path, typer.Option("--home", help="Folder of the stack: data, logs, secrets.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(logs)


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once all is ready, and leave it running.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    port_base: Annotated[
        int, typer.Option("--port-base", help="Ports: serving here, data +1, trainer +2, validator +3.")
    ] = DEFAULT_PORT_BASE,
    serving_workers: Annotated[
        int | None,
        typer.Option(
            "--serving-workers", min=1, max=64, help="Processes of serving; default: SERVING_WORKERS, else 1."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start PostgreSQL, Valkey, the four services and their workers, and wait until all are ready.

    DATABASE_URL and REDIS_URL in the environment use servers of your own instead of the embedded ones.
    """
    place = homes.locate(home)
    out, err = Console(), Console(stderr=True)
    if serving_workers is not None:
        os.environ["SERVING_WORKERS"] = str(serving_workers)
    try:
        seen = _detached(place, port_base, err) if detach else _attached(place, port_base, out, err, as_json=as_json)
    except StackError as error:
        _fail(err, str(error))
    if seen.whole is Whole.FAILED:
        _fail(err, seen.error)
    if detach:
        _announce(out, place, as_json=as_json)


def down(home: HomeOption = DEFAULT_HOME) -> None:
    """Stop everything, in reverse order. The data stays; a stack that does not run is fine."""
    place = homes.locate(home)
    out, err = Console(), Console(stderr=True)
    try:
        ran = _stop(place, err)
        left = _sweep(place) if place.root.exists() else 0
    except StackError as error:
        _fail(err, str(error))
    if ran:
        out.print(f"Stopped. The data stays in {place.root}.", highlight=False, markup=False, soft_wrap=True)
    elif left:
        out.print(f"Stopped {left} processes that an earlier run left.", highlight=False)
    else:
        out.print(f"Nothing runs in {place.root}.", highlight=False, markup=False, soft_wrap=True)


def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show each part. Exits with 0 when all are ready, else with 1."""
    place = homes.locate(home)
    out = Console()
    try:
        running = homes.holder(place) is not None
    except StackError as error:
        _fail(Console(stderr=True), str(error))
    seen = snapshots.read(place)
    stack = homes.read_stack(place.root) if running else None
    if as_json:
        sys.stdout.write(json.dumps(_status_json(seen if running else None, stack), indent=2) + "\n")
    elif running and seen is not None:
        out.print(f"[bold]{seen.whole}[/]" + (f": {seen.note}" if seen.note else ""))
        out.print(display.table(seen, now=time.time()))
        if stack is not None:
            display.addresses(out, stack, str(place.root))
    else:
        out.print(f"Nothing runs in {place.root}.", highlight=False, markup=False, soft_wrap=True)
        if seen is not None and seen.error:
            out.print(f"The last start failed: {seen.error}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(0 if running and display.is_up(seen) else 1)


def logs(
    name: Annotated[str | None, typer.Argument(help="One part; all when left out.")] = None,
    home: HomeOption = DEFAULT_HOME,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines of each part.")] = 20,
) -> None:
    """Show what the parts wrote."""
    place = homes.locate(home)
    paths = sorted(place.logs.glob("*.log"))
    names = [path.stem for path in paths]
    if name is not None:
        if name not in names:
            known = ", ".join(names) or "none yet"
            _fail(Console(stderr=True), f"There is no log of {name!r} in {place.logs}. There are: {known}.")
        paths = [place.log(name)]
    elif not paths:
        _fail(Console(stderr=True), f"There are no logs in {place.logs}: nothing has been started there.")
    try:
        follow.show(paths, lines, sys.stdout, labelled=name is None, following=following)
    except (KeyboardInterrupt, BrokenPipeError):
        # The reader has gone: nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _attached(home: Home, port_base: int, out: Console, err: Console, *, as_json: bool) -> Snapshot:
    """Run the stack in this process until Ctrl-C."""
    from cli.stack import launch  # the drivers of both engines: a second that the other commands do not need

    announced = False
    with display.Progress(err) as progress:

        def show(seen: Snapshot) -> None:
            nonlocal announced
            progress.show(seen)
            if seen.whole is Whole.READY and not announced:
                announced = True
                progress.close()
                _announce(out, home, as_json=as_json)
                err.print("Ctrl-C stops the stack.", style="dim")

        return launch.run(home, port_base, os.environ, show=show)


def _detached(home: Home, port_base: int, err: Console) -> Snapshot:
    """Start a supervisor with a session of its own and wait until all is ready, or it has given up."""
    ports.service_ports(port_base)
    homes.prepare(home)
    if homes.holder(home) is not None:
        raise homes.already_runs(home)
    log = home.log("supervisor")
    began = log.stat().st_size if log.exists() else 0
    signal.signal(signal.SIGTERM, _interrupt)
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "cli.stack.launch", str(home.root), str(port_base)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        seen = _first_settled(home, supervisor, log, began, err)
    except BaseException as error:
        if supervisor.poll() is None:
            err.print("Stopping what has been started.")
            ending.end(supervisor)
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(130) from None
        raise
    if seen.whole is Whole.READY:
        supervisor.returncode = 0  # it goes on without this process, which has no more to do with it
    return seen


def _first_settled(home: Home, supervisor: "subprocess.Popen[bytes]", log: Path, began: int, err: Console) -> Snapshot:
    """Show what the supervisor publishes until all is ready, or it has given up and ended.

    Args:
        began: where in its log, in bytes, this supervisor's lines begin.

    Raises:
        StackError: it ended without saying why in its snapshot.
    """
    with display.Progress(err) as progress:
        while True:
            ended = supervisor.poll() is not None
            seen = snapshots.read(home)
            if seen is not None and seen.supervisor == supervisor.pid:
                progress.show(seen)
                if seen.whole is Whole.READY or (ended and seen.error):
                    return seen
            if supervisor.returncode == 0:
                raise StackError("The stack was stopped before it was ready.")
            if ended:
                homes.prepare(home)  # on a full disk it could not even write why
                said = "\n".join(last_lines(log, 15, since=began)) or f"It wrote nothing to {log}."
                raise StackError(f"The supervisor ended with status {supervisor.returncode}:\n{said}")
            time.sleep(LOOK_S)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _stop(home: Home, err: Console) -> bool:
    """Ask the supervisor to stop and wait until it has ended; kill it when it does not. Whether there was one.

    Raises:
        StackError: it may not be signalled, or cannot be ended.
    """
    pid = homes.holder(home) if home.root.exists() else None
    if pid is None:
        return False
    with display.Progress(err, known=snapshots.read(home)) as progress:
        try:
            supervisor = psutil.Process(pid)
            for send, within_s in ((supervisor.terminate, ending.STOP_WITHIN_S), (supervisor.kill, 10.0)):
                send()
                deadline = time.monotonic() + within_s
                while time.monotonic() < deadline:
                    seen = snapshots.read(home)
                    if seen is not None and seen.supervisor == pid:
                        progress.show(seen)
                    if not strays.runs(supervisor):
                        return True
                    time.sleep(LOOK_S)
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            raise StackError(f"The supervisor (pid {pid}) is another user's: run relevo down as that user.") from None
    raise StackError(f"The supervisor (pid {pid}) does not end, not even when killed.")


def _sweep(home: Home) -> int:
    """End what a killed supervisor left, and its files about a stack that is up; how many processes there were."""
    with homes.locked(home):
        left = strays.find(home)
        strays.end(left)
        home.stack.unlink(missing_ok=True)
        home.status.unlink(missing_ok=True)
    return len(left)


def _announce(out: Console, home: Home, *, as_json: bool) -> None:
    stack = homes.read_stack(home.root)
    if stack is None:
        return
    if as_json:
        sys.stdout.write(json.dumps(stack, indent=2) + "\n")
        sys.stdout.flush()
    else:
        display.addresses(out, stack, str(home.root))


def _status_json(seen: Snapshot | None, stack: homes.Stack | None) -> dict[str, Any]:
    now = time.time()
    return {
        "state": str(seen.whole) if seen else "stopped",
        "supervisor": seen.supervisor if seen else None,
        "addresses": {name: stack[name] for name in ("serving", "data", "trainer", "validator")} if stack else None,
        "parts": [
            {
                "name": part.name,
                "pid": part.pid,
                "state": str(part.phase),
                "ready": part.settled,
                "restarts": part.restarts,
                "uptime_s": round(now - part.since, 1) if part.since is not None else None,
                "reason": part.reason,
            }
            for part in (seen.parts if seen else ())
        ],
    }


def _fail(err: Console, message: str) -> NoReturn:
    err.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)

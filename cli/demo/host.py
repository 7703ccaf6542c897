"""The stack that a replay runs on: one that is up in the home already, or one started for it and stopped with it."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cli.addresses import Addresses, of_stack
from cli.demo.errors import DemoFailed
from cli.stack import home as homes


@contextlib.contextmanager
def stack(home: Path, port_base: int, *, keep: bool) -> Iterator[Addresses]:
    """Addresses of a stack in `home` while the block runs.

    One that was up before goes on afterwards; one started here is stopped, however the block ends, unless it is kept.

    Raises:
        DemoFailed: it does not start; `relevo up` has said why.
    """
    _stop_on_termination()
    if homes.holder(homes.locate(home)) is not None:
        yield of_stack(home)
        return
    try:
        if _relevo("up", "--detach", "--home", str(home), "--port-base", str(port_base)) != 0:
            raise DemoFailed("The stack did not start, so there is nothing to replay the flights against.")
        yield of_stack(home)
    except BaseException:
        _relevo("down", "--home", str(home))
        raise
    if not keep:
        _relevo("down", "--home", str(home))


def _relevo(*words: str) -> int:
    """Run the command as its own program: its progress goes to the terminal, its output not into the demo's."""
    return subprocess.run([sys.executable, "-m", "cli.main", *words], stdout=subprocess.DEVNULL, check=False).returncode


def _stop_on_termination() -> None:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that nothing is left running."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)

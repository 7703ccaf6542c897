"""The stack that a replay runs on: one that is up in the home already, or one started for it and stopped with it."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cli import ending
from cli.addresses import Addresses, of_stack
from cli.demo.errors import DemoFailed
from cli.stack import home as homes

RELEVO = (sys.executable, "-m", "cli.main")


@contextlib.contextmanager
def stack(home: Path, port_base: int, *, keep: bool) -> Iterator[Addresses]:
    """Addresses of a stack in `home` while the block runs.

    One that was up before goes on afterwards; one started here is stopped, however the block ends, unless it is kept.

    Raises:
        DemoFailed: it does not start; `relevo up` has said why.
    """
    _stop_on_termination()
    place = homes.locate(home)
    if homes.holder(place) is not None:
        yield of_stack(home)
        return
    # One that does not come up has stopped what it started; what runs then is somebody else's.
    if _relevo("up", "--detach", "--home", str(home), "--port-base", str(port_base)) != 0:
        raise DemoFailed("The stack did not start, so there is nothing to replay the flights against.")
    ours = homes.holder(place)
    kept = False
    try:
        yield of_stack(home)
        kept = keep
    finally:
        if not kept and homes.holder(place) in (ours, None):  # None: it died, and may have left something
            _relevo("down", "--home", str(home))


def _relevo(*words: str) -> int:
    """Run the command as its own program: its progress goes to the terminal, its output not into the demo's.

    Ctrl-C does not reach it in its own session. It is told by a signal, and waited for: `up` stops what it has started.
    """
    program = subprocess.Popen([*RELEVO, *words], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        return program.wait()
    except BaseException:
        ending.end(program, within_s=ending.STOP_WITHIN_S + 30)  # `up` itself takes so long to end what it started
        raise


def _stop_on_termination() -> None:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that nothing is left running."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)

"""Ending a program that this one started: asked, and in the end made to, whatever the user presses meanwhile."""

import subprocess
import time

STOP_WITHIN_S = 120.0
"""Longer than all parts of a stack may take to stop, one after the other; then the program is killed, and they with it."""


def end(process: "subprocess.Popen[bytes]", *, within_s: float = STOP_WITHIN_S) -> None:
    """Send SIGTERM and wait for the end; after `within_s`, kill it.

    Ctrl-C while it waits asks again, which `relevo` programs take as: by force.
    """
    deadline = time.monotonic() + within_s
    while process.poll() is None:
        if time.monotonic() >= deadline:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(max(deadline - time.monotonic(), 1.0))
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            continue

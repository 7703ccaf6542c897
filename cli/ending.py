"""Ending a program that this one started: asked until it has ended, whatever the user presses meanwhile."""

import subprocess


def end(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM and wait for the end. Ctrl-C while it waits asks again, which `relevo` programs take as: by force."""
    while process.poll() is None:
        process.terminate()
        try:
            process.wait()
        except KeyboardInterrupt:
            continue

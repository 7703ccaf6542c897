"""Showing the end of several logs, and going on as they grow."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from cli.stack.errors import last_lines

LOOK_S = 0.3


class Tail:
    """Reads on where it stopped; begins again when the log was cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size
        self._rest = b""

    def new_lines(self) -> list[str]:
        """Whole lines written since the last call."""
        try:
            with self._path.open("rb") as log:
                if log.seek(0, 2) < self._at:
                    self._at, self._rest = 0, b""
                log.seek(self._at)
                read = log.read()
        except FileNotFoundError:
            return []
        self._at += len(read)
        *whole, self._rest = (self._rest + read).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


def show(paths: Sequence[Path], lines: int, out: TextIO, *, labelled: bool, following: bool) -> None:
    """Write the last `lines` of each log, then (when `following`, without end) what is added.

    Args:
        labelled: put the part's name before each line.
    """
    width = max(len(path.stem) for path in paths)

    def write(path: Path, text: str) -> None:
        out.write(f"{path.stem:<{width}} | {text}\n" if labelled else f"{text}\n")

    tails = [(path, Tail(path)) for path in paths] if following else []
    for path in paths:
        for line in last_lines(path, lines) if lines else []:
            write(path, line)
    out.flush()
    while following:
        for path, tail in tails:
            for line in tail.new_lines():
                write(path, line)
        out.flush()
        time.sleep(LOOK_S)

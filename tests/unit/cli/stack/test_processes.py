"""The list of parts: what needs what, which commands, which environment."""

import itertools
import sys
from pathlib import Path

import pytest

from cli.stack import ports, processes
from cli.stack.home import Home, Secrets
from cli.stack.strays import MARK

HOME = Home(Path("/srv/relevo"))
SECRETS = Secrets("pg word", "valkey", "rlv_admin", "rlv_service", "p" * 64)
SERVICES = ports.service_ports(9000)


def product(inherited: dict[str, str] | None = None, cpus: int = 2) -> dict[str, processes.Child]:
    inherited = inherited or {}
    engines = processes.choose_engines(SECRETS, inherited, itertools.count(20_000))
    environment = processes.environment_of(HOME, SECRETS, engines, SERVICES, inherited)
    parts = processes.product_parts(
        environment,
        SERVICES,
        engines=("postgres", "valkey"),
        free=itertools.count(21_000),
        cpus=cpus,
        inherited=inherited,
    )
    return {part.name: part for part in parts}


def test_every_part_comes_after_what_it_needs() -> None:
    parts = product()
    seen = {"postgres", "valkey"}
    for part in parts.values():
        assert set(part.wanted.needs) <= seen
        seen.add(part.name)
    assert list(parts) == [
        "migrate", "serving", "data", "trainer", "validator",
        "data-worker", "serving-worker", "validator-worker", "trainer-worker", "cycle-worker", "background",
    ]  # fmt: skip


def test_services_take_the_ports_from_the_base_on() -> None:
    parts = product()
    for name, port in {"serving": 9000, "data": 9001, "trainer": 9002, "validator": 9003}.items():
        command = " ".join(parts[name].command)
        module = "services.serving" if name == "serving" else f"uvicorn services.{name}.app:create_app --factory"
        assert command.startswith(f"{sys.executable} -m {module} --host 127.0.0.1 --port {port}")
        assert parts[name].environment[f"RELEVO_{name.upper()}_URL"] == f"http://127.0.0.1:{port}"


def test_each_worker_takes_one_queue_and_has_a_page_of_its_own() -> None:
    parts = product()
    queues = {}
    for name in processes.WORKERS:
        command = parts[name].command
        queues[name] = command[command.index("-Q") + 1]
        assert command[command.index("-n") + 1] == f"{name}@%h"
    assert queues == {
        "data-worker": "data", "serving-worker": "precompute", "validator-worker": "validate", "trainer-worker": "train",
        "cycle-worker": "cycles",
    }  # fmt: skip
    pages = [parts[name].environment["RELEVO_METRICS_PORT"] for name in (*processes.WORKERS, "background")]
    assert len(set(pages)) == 6
    assert "RELEVO_METRICS_PORT" not in parts["serving"].environment


def test_the_environment_carries_addresses_places_and_secrets() -> None:
    environment = product()["serving"].environment
    assert environment["DATABASE_URL"] == "postgresql://relevo:pg%20word@127.0.0.1:20000/relevo"
    assert environment["REDIS_URL"] == "redis://:valkey@127.0.0.1:20001/0"
    assert environment["RELEVO_ARTIFACTS_URL"] == "file:///srv/relevo/artifacts"
    assert environment["SERVING_SPOOL_DIR"] == "/srv/relevo/spool"
    assert environment["RELEVO_ADMIN_KEY"] == "rlv_admin"
    assert environment[MARK] == "/srv/relevo"
    assert environment["DO_NOT_TRACK"] == "1"


def test_the_users_secrets_and_places_win_but_not_addresses_of_another_stack() -> None:
    environment = product(
        {
            "RELEVO_ADMIN_KEY": "rlv_mine",
            "RELEVO_ARTIFACTS_URL": "s3://bucket/prefix",
            "RELEVO_SERVING_URL": "http://elsewhere",
            MARK: "/other",
        }
    )["data"].environment
    assert environment["RELEVO_ADMIN_KEY"] == "rlv_mine"
    assert environment["RELEVO_ARTIFACTS_URL"] == "s3://bucket/prefix"
    assert environment["RELEVO_SERVING_URL"] == "http://127.0.0.1:9000"
    assert environment[MARK] == "/srv/relevo"


@pytest.mark.parametrize(
    ("inherited", "embedded"),
    [
        ({}, ["postgres", "valkey"]),
        ({"DATABASE_URL": ""}, ["postgres", "valkey"]),
        ({"DATABASE_URL": "postgresql://u:p@db:5432/r"}, ["valkey"]),
        ({"REDIS_URL": "redis://:p@queue:6379/0"}, ["postgres"]),
        ({"DATABASE_URL": "postgresql://u:p@db:5432/r", "REDIS_URL": "redis://:p@queue:6379/0"}, []),
    ],
)
def test_servers_named_by_the_user_are_not_embedded(inherited: dict[str, str], embedded: list[str]) -> None:
    engines = processes.choose_engines(SECRETS, inherited, itertools.count(20_000))
    parts = processes.engine_parts(HOME, engines, inherited)
    assert [part.name for part in parts] == embedded
    for name, url in inherited.items():
        if url:
            assert engines.database_url == url or engines.redis_url == url, name


def test_no_secret_stands_in_an_argument_list() -> None:
    engines = processes.choose_engines(SECRETS, {}, itertools.count(20_000))
    parts = [*processes.engine_parts(HOME, engines, {}), *product().values()]
    words = " ".join(itertools.chain.from_iterable(part.command for part in parts))
    for secret in ("pg word", "pg%20word", "rlv_admin", "rlv_service", "p" * 64, ":valkey@"):
        assert secret not in words
    assert all("rlv_admin" not in repr(part) for part in parts)


@pytest.mark.parametrize(
    ("cpus", "computes", "inherited", "threads"),
    [
        (2, False, {}, "1"),
        (2, True, {}, "1"),
        (8, True, {}, "4"),
        (1, True, {}, "1"),
        (64, True, {}, "8"),
        (64, True, {"OMP_NUM_THREADS": "32"}, "32"),
    ],
)
def test_threads_fit_the_machine(cpus: int, computes: bool, inherited: dict[str, str], threads: str) -> None:
    limits = processes.thread_limits(cpus, computes=computes, inherited=inherited)
    assert limits["OMP_NUM_THREADS"] == limits["OPENBLAS_NUM_THREADS"] == limits["MKL_NUM_THREADS"] == threads

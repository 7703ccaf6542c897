"""The parts of the product as data: engines, migration, services, workers, background; their commands and environments."""

import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cli.stack import ports, postgres, probes, valkey
from cli.stack.child import Child
from cli.stack.decide import Wanted
from cli.stack.home import Home, Secrets
from cli.stack.strays import MARK

WORKERS = {
    "data-worker": ("services.data.worker", "data"),
    "serving-worker": ("services.serving.worker", "precompute"),
    "validator-worker": ("services.validator.worker", "validate"),
    "trainer-worker": ("services.trainer.worker", "train"),
    "cycle-worker": ("services.trainer.worker", "cycles"),
}
"""Celery application and queue of each."""
BACKGROUND = "background"
MOST_THREADS = 8


@dataclass(frozen=True)
class Engines:
    """What runs embedded, and where the servers are; a port of None: the user's own server is used."""

    database_url: str
    redis_url: str
    postgres_port: int | None
    valkey_port: int | None
    postgres_leash: tuple[str, ...] = ()


def choose_engines(secrets: Secrets, environment: Mapping[str, str], free: Iterator[int]) -> Engines:
    """The user's servers where DATABASE_URL and REDIS_URL name them, else embedded ones on free ports."""
    postgres_port = None if environment.get("DATABASE_URL") else next(free)
    valkey_port = None if environment.get("REDIS_URL") else next(free)
    return Engines(
        database_url=environment.get("DATABASE_URL") or postgres.url(postgres_port or 0, secrets.postgres_password),
        redis_url=environment.get("REDIS_URL") or valkey.url(valkey_port or 0, secrets.valkey_password),
        postgres_port=postgres_port,
        valkey_port=valkey_port,
    )


def addresses(services: Mapping[str, int]) -> dict[str, str]:
    """URL of each service."""
    return {name: f"http://{ports.LOOPBACK}:{port}" for name, port in services.items()}


def environment_of(
    home: Home, secrets: Secrets, engines: Engines, services: Mapping[str, int], inherited: Mapping[str, str]
) -> dict[str, str]:
    """What every part of the product finds in its environment.

    Secrets and places that the user's environment sets win over the generated ones; addresses never do, because they
    name this very stack.
    """
    defaults = {
        "RELEVO_ARTIFACTS_URL": home.artifacts.as_uri(),
        "RELEVO_CACHE_DIR": str(home.cache),
        "SERVING_SPOOL_DIR": str(home.spool),
        "RELEVO_PREDICTION_SECRET": secrets.prediction_secret,
        "RELEVO_SERVICE_KEY": secrets.service_key,
        "RELEVO_ADMIN_KEY": secrets.admin_key,
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    fixed = {f"RELEVO_{name.upper()}_URL": url for name, url in addresses(services).items()}
    fixed |= {"DATABASE_URL": engines.database_url, "REDIS_URL": engines.redis_url, MARK: str(home.root)}
    return {**defaults, **{name: value for name, value in inherited.items() if value}, **fixed}


def thread_limits(cpus: int, *, computes: bool, inherited: Mapping[str, str]) -> dict[str, str]:
    """How many threads numeric libraries start in one process.

    Their own default, a thread a core in each of nine processes, has them spin against each other on a small machine. What
    computes (a worker) may use half the cores, at most `MOST_THREADS`: the other half answers requests meanwhile, and a
    network of this size gains little from more. What answers requests uses one. Waiting threads sleep and do not spin.
    OMP_NUM_THREADS in the user's environment wins.
    """
    chosen = inherited.get("OMP_NUM_THREADS") or str(max(1, min(cpus // 2, MOST_THREADS)) if computes else 1)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {"OMP_WAIT_POLICY": "PASSIVE", **{name: inherited.get(name) or chosen for name in names}}


def engine_parts(home: Home, engines: Engines, inherited: Mapping[str, str]) -> list[Child]:
    """The embedded servers that are to run."""
    environment = {name: inherited[name] for name in ("PATH", "HOME", "TMPDIR") if name in inherited} | {
        MARK: str(home.root)
    }
    parts = []
    if engines.postgres_port is not None:
        parts.append(
            Child(
                Wanted("postgres", grace_s=30),
                tuple(postgres.server(home.postgres, engines.postgres_port)),
                environment,
                not_ready=functools.partial(postgres.not_ready, engines.database_url),
                leash=engines.postgres_leash,
                stop_signal=postgres.STOP_SIGNAL,
                death_signal=postgres.STOP_SIGNAL,
            )
        )
    if engines.valkey_port is not None:
        parts.append(
            Child(
                Wanted("valkey", grace_s=20),
                tuple(valkey.server()),
                environment,
                not_ready=functools.partial(valkey.not_ready, engines.redis_url),
                folder=home.valkey,
                stop_signal=valkey.STOP_SIGNAL,
                death_signal=valkey.STOP_SIGNAL,
            )
        )
    return parts


def product_parts(
    environment: Mapping[str, str],
    services: Mapping[str, int],
    *,
    engines: tuple[str, ...],
    free: Iterator[int],
    cpus: int,
    inherited: Mapping[str, str],
) -> list[Child]:
    """Migration, services, workers and background process, in start order.

    Workers and the background process start after the services, which they call, and so stop before them.

    Args:
        environment: of every part, as `environment_of` gives it.
        engines: names of the embedded engines, which the migration needs.
        free: ports for the health and metrics pages of workers and background process.
    """
    answering = {**environment, **thread_limits(cpus, computes=False, inherited=inherited)}
    computing = {**environment, **thread_limits(cpus, computes=True, inherited=inherited)}
    migrate = _python("shared.registry.migrate")
    parts = [Child(Wanted("migrate", needs=engines, once=True, ready_within_s=300), migrate, answering)]
    for name, port in services.items():
        service = _python(_server(name, f"--host {ports.LOOPBACK} --port {port}"))
        wanted = Wanted(name, needs=(*engines, "migrate"), grace_s=15)
        ready = probes.http(f"http://{ports.LOOPBACK}:{port}/readyz")
        parts.append(Child(wanted, service, answering, not_ready=ready))
    for name, (application, queue) in WORKERS.items():
        worker = _python(f"celery -A {application} worker -Q {queue} --pool solo -n {name}@%h")
        parts.append(_watched(name, worker, computing, tuple(services), next(free)))
    background = _python("services.trainer.background")
    parts.append(_watched(BACKGROUND, background, answering, tuple(services), next(free)))
    return parts


def _server(name: str, address: str) -> str:
    """What runs a service: serving starts its own server, in as many processes as SERVING_WORKERS says."""
    if name == "serving":
        return f"services.serving {address}"
    return (
        f"uvicorn services.{name}.app:create_app --factory {address} --loop uvloop --http httptools --no-access-log "
        "--no-proxy-headers --no-server-header --timeout-graceful-shutdown 8"
    )


def _python(line: str) -> tuple[str, ...]:
    """Run a module with this interpreter."""
    return (sys.executable, "-m", *line.split())


def _watched(
    name: str, command: tuple[str, ...], environment: Mapping[str, str], needs: tuple[str, ...], port: int
) -> Child:
    """A part without an API, which answers /readyz on a port of its own."""
    return Child(
        Wanted(name, needs=needs, grace_s=10),
        command,
        {**environment, "RELEVO_METRICS_PORT": str(port), "RELEVO_METRICS_HOST": ports.LOOPBACK},
        not_ready=probes.http(f"http://{ports.LOOPBACK}:{port}/readyz"),
    )

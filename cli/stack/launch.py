"""One life of a stack: check, prepare the engines, run the parts, publish what is seen, clean up.

Also the program of the detached supervisor: `python -m cli.stack.launch HOME PORT_BASE`.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cli.stack import account, ports, postgres, processes, strays, valkey
from cli.stack import home as homes
from cli.stack import snapshot as snapshots
from cli.stack.child import Child
from cli.stack.decide import Whole
from cli.stack.errors import StackError
from cli.stack.home import Home
from cli.stack.snapshot import Snapshot
from cli.stack.supervisor import Supervisor
from shared.cpus import usable_cpus

Publish = Callable[[Snapshot], None]
Product = Callable[..., list[Child]]
"""As `processes.product_parts`."""


def run(
    home: Home,
    port_base: int,
    environment: Mapping[str, str],
    *,
    show: Publish = lambda _: None,
    product: Product = processes.product_parts,
) -> Snapshot:
    """Run a stack in the home until a signal stops it, or until a part fails to come up.

    Args:
        product: lists the parts that run beside the engines.
        show: called with each snapshot, beside writing it to `status.json`.

    Returns:
        The last snapshot. Nothing runs any more, and `stack.json` is gone.

    Raises:
        StackError: the stack could not even begin; nothing was changed that another stack uses.
    """
    os.umask(0o077)
    services = ports.service_ports(port_base)
    homes.prepare(home)
    with homes.locked(home):
        begun = Snapshot(whole=Whole.STARTING, supervisor=os.getpid(), since=time.time())

        def publish(seen: Snapshot) -> None:
            try:
                snapshots.write(home, seen)
            except StackError as error:  # a full disk must not take down what runs
                sys.stderr.write(f"{home.status}: {error}\n")
            show(seen)

        try:
            publish(replace(begun, note="looking for what an earlier run left"))
            home.stack.unlink(missing_ok=True)
            strays.end(strays.find(home))
            parts, contact = plan(home, services, environment, product, lambda text: publish(replace(begun, note=text)))
        except StackError as error:
            publish(replace(begun, whole=Whole.FAILED, error=str(error)))
            raise
        try:
            return asyncio.run(supervise(home, parts, begun, publish, contact))
        finally:
            strays.end(strays.find(home))  # what a part started in a session of its own, and did not end itself


def plan(
    home: Home,
    services: Mapping[str, int],
    environment: Mapping[str, str],
    product: Product,
    note: Callable[[str], None],
) -> tuple[list[Child], dict[str, str]]:
    """Prepare the engines' folders. The home is locked.

    Returns:
        The parts in start order, and what clients need: address of each service and `admin_key`.

    Raises:
        StackError: a port is taken, an engine is missing or its folder cannot be used.
    """
    ports.require_free(services)
    secrets = homes.load_secrets(home)
    free = ports.free_ports(avoid=set(services.values()))
    engines = processes.choose_engines(secrets, environment, free)
    if engines.postgres_port is not None:
        note("preparing PostgreSQL")
        user = account.for_engine(home.root, postgres.programs() / "postgres")
        postgres.initialise(home.postgres, secrets.postgres_password, user)
        engines = replace(engines, postgres_leash=user.options)
    if engines.valkey_port is not None:
        valkey.configure(home.valkey, engines.valkey_port, secrets.valkey_password)
    embedded = processes.engine_parts(home, engines, environment)
    common = processes.environment_of(home, secrets, engines, services, environment)
    parts = embedded + product(
        common,
        services,
        engines=tuple(part.name for part in embedded),
        free=free,
        cpus=usable_cpus(),
        inherited=environment,
    )
    return parts, {**processes.addresses(services), "admin_key": common["RELEVO_ADMIN_KEY"]}


async def supervise(
    home: Home, parts: list[Child], begun: Snapshot, publish: Publish, contact: Mapping[str, str]
) -> Snapshot:
    """Run the parts; keep `stack.json` true while they are up: written when all are ready, renewed with each new pid.

    Args:
        contact: what `stack.json` says beside the pids.
    """

    def tell(seen: Snapshot) -> None:
        if seen.whole is Whole.READY or (seen.whole is Whole.DEGRADED and home.stack.exists()):
            with contextlib.suppress(StackError):
                homes.write_json(home.stack, {**contact, "pids": seen.pids})
        elif seen.whole is not Whole.DEGRADED:
            home.stack.unlink(missing_ok=True)
        publish(seen)

    supervisor = Supervisor(parts, home.logs, snapshot=begun, publish=tell)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    try:
        return await supervisor.run()
    finally:
        home.stack.unlink(missing_ok=True)


def main(words: list[str]) -> int:
    """The detached supervisor. Its errors are in `status.json`, and on standard error, which is its log."""
    home, port_base = Home(Path(words[0])), int(words[1])
    try:
        last = run(home, port_base, os.environ)
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if last.error:
        sys.stderr.write(f"{last.error}\n")
    return 1 if last.whole is Whole.FAILED else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The real stack with real engines and small processes in place of the product's: python -m ... HOME PORT_BASE"""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from cli.stack import launch, probes
from cli.stack.child import Child
from cli.stack.decide import Wanted
from cli.stack.home import Home


def parts(
    environment: Mapping[str, str],
    services: Mapping[str, int],
    *,
    engines: tuple[str, ...],
    free: Iterator[int],
    **_: object,
) -> list[Child]:
    """A service that needs the engines, and a worker that needs the service and starts a process of its own."""
    stand_in = (sys.executable, "-m", "tests.integration.cli.stand_in")
    port, page = services["serving"], next(free)
    return [
        Child(
            Wanted("serving", needs=engines),
            (*stand_in, str(port)),
            environment,
            not_ready=probes.http(f"http://127.0.0.1:{port}/readyz"),
        ),
        Child(
            Wanted("worker", needs=("serving",)),
            (*stand_in, str(page), "--child", "--runaway"),
            environment,
            not_ready=probes.http(f"http://127.0.0.1:{page}/readyz"),
        ),
    ]


if __name__ == "__main__":
    last = launch.run(Home(Path(sys.argv[1])), int(sys.argv[2]), os.environ, product=parts)
    sys.exit(1 if last.error else 0)

"""`python -m services.serving`: the service in one process, or in several that share its address (`--workers N`)."""

import argparse
import os
import sys

from services.serving.config import MOST_WORKERS, ServingSettings

APP = "services.serving.app:create_app"


def main() -> int:
    """Serve until SIGTERM or SIGINT. Status 3: nothing could be started."""
    parser = argparse.ArgumentParser(prog="python -m services.serving", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--workers", type=_workers, default=None, help="processes that share the address; default: SERVING_WORKERS"
    )
    options = parser.parse_args()
    if options.workers is not None:
        os.environ["SERVING_WORKERS"] = str(options.workers)  # every process divides the cores by it
    settings = ServingSettings()
    if settings.workers == 1:
        return _alone(options.host, options.port)
    from services.serving.workers.supervisor import serve

    return serve(options.host, options.port, settings)


def _alone(host: str, port: int) -> int:
    """The server in this process: nothing stands before it."""
    from uvicorn.config import STARTUP_FAILURE

    from services.serving.server import Server, make_config

    server = Server(make_config(APP, host=host, port=port))
    server.run()
    return 0 if server.started else STARTUP_FAILURE


def _workers(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"must be between 1 and {MOST_WORKERS}")
    return number


if __name__ == "__main__":
    sys.exit(main())

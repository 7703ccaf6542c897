"""The shipper's process: `python -m services.serving.prediction_log.ship FOLDER ...`, started by serving and gone with it.

A process of its own because shipping is work in batches of thousands of records: in a thread it would hold up answers for
milliseconds at a time. It runs at low priority, imports little, and tells serving its progress as lines of JSON on stdout.

It ends when serving says so on stdin, or is gone. Serving starts it with SIGTERM and SIGINT blocked: service managers and
terminals send them to every process, and predictions go on being answered, and shipped, while serving drains.
"""

import argparse
import os
import select
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import orjson

from services.serving.prediction_log.shipper import END, Progress, Shipper
from services.serving.prediction_log.store import PredictionStore
from shared.observability.logging import configure_logging

NICENESS = 15
"""Under full load the shipper gets a few percent of a core, which is still thousands of records a second."""
WATCH_PARENT_S = 0.5
"""The pipe tells at once that serving is gone, unless another process has inherited its end."""


def main() -> None:
    """Ship until stdin says to end, or until the process that started this one is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sealed-below", type=int, required=True)
    parser.add_argument("--interval-s", type=float, required=True)
    parser.add_argument("--flush-s", type=float, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    stopping = threading.Event()
    configure_logging(
        os.environ.get("RELEVO_LOG_LEVEL", "INFO"), os.environ.get("RELEVO_LOG_FORMAT", "json"), "serving-shipper"
    )
    os.nice(NICENESS)
    threading.Thread(target=_watch, args=(options.parent, stopping), daemon=True).start()
    store = PredictionStore(os.environ["DATABASE_URL"])
    shipper = Shipper(
        options.folder.parent,
        options.folder,
        store,
        _tell,
        sealed_below=options.sealed_below,
        interval_s=options.interval_s,
    )
    try:
        shipper.run(stopping, options.flush_s)
    except BrokenPipeError:
        os._exit(1)  # nobody listens: serving is gone
    finally:
        store.close()


def _tell(progress: Progress) -> None:
    sys.stdout.buffer.write(orjson.dumps(asdict(progress)) + b"\n")
    sys.stdout.buffer.flush()


def _watch(parent: int, stopping: threading.Event) -> None:
    """Hear on stdin when to end; end at once when serving was killed, since the next process on the folder begins anew."""
    while os.getppid() == parent:
        if select.select([sys.stdin], [], [], WATCH_PARENT_S)[0]:
            if not os.read(sys.stdin.fileno(), len(END)):
                break
            stopping.set()
    os._exit(1)


if __name__ == "__main__":
    main()

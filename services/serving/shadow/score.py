"""The shadow's process: `python -m services.serving.shadow.score FOLDER ...`, started by serving when there is a shadow.

A process of its own, at the lowest priority: in a thread it would take its turns of Python's global lock from the answers, and one
of low priority that holds the lock while others have the core would hold them up for longer still. What a broken model does to
its process, it does to this one. It reads log records on stdin, ends with it, and reports on stdout.
"""

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import orjson

from services.serving.models import state_file
from services.serving.models.catalogue import Catalogue
from services.serving.models.loader import Loader
from services.serving.models.recent import RecentRequests
from services.serving.shadow.comparing import Comparing, Comparison
from services.serving.shadow.frames import Frame, Frames
from services.serving.shadow.report import Outcome, Report
from services.serving.shadow.store import ComparisonStore
from shared.artifacts import open_store
from shared.observability.logging import configure_logging

NICENESS = 19
FLUSH_S = 0.5
MOST_UNSTORED = 256
PRUNE_EVERY_S = 3600.0
READ_BYTES = 1 << 18


class Scoring:
    """Compares what comes, and stores and reports it in batches."""

    def __init__(self, comparing: Comparing, store: ComparisonStore, tell: Callable[[Report], None]) -> None:
        self._comparing = comparing
        self._store = store
        self._tell = tell
        self._report = Report()
        self._waiting: list[tuple[str, Comparison]] = []
        self._flush_due_s = time.monotonic()
        self._prune_due_s = time.monotonic()

    def take(self, frame: Frame) -> None:
        """Compare one request."""
        found = self._comparing.compare(frame)
        if isinstance(found, Outcome):
            self._report.outcomes[frame.model, found] += 1
        else:
            self._waiting.append((frame.model, found))
        if len(self._waiting) >= MOST_UNSTORED or time.monotonic() >= self._flush_due_s:
            self.flush()

    def flush(self) -> None:
        """Store and report what there is."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            stored = self._store.store([comparison for _, comparison in waiting])
            for name, comparison in waiting:
                self._report.outcomes[name, Outcome.COMPARED if stored else Outcome.UNSTORED] += 1
                self._report.largest.append((name, comparison.largest))
        if self._report.outcomes:
            self._tell(self._report)
            self._report = Report()
        if time.monotonic() >= self._prune_due_s:
            self._store.prune()
            self._prune_due_s = time.monotonic() + PRUNE_EVERY_S
        self._flush_due_s = time.monotonic() + FLUSH_S


def main() -> None:
    """Compare until stdin ends: serving closes it, or is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--keep-d", type=int, required=True)
    parser.add_argument("--max-instances", type=int, required=True)
    options = parser.parse_args()
    configure_logging(
        os.environ.get("RELEVO_LOG_LEVEL", "INFO"), os.environ.get("RELEVO_LOG_FORMAT", "json"), "serving-shadow"
    )
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; serving says when to end
    # It answers nobody, so that it has nothing to rehearse but the trainer's golden vectors.
    artifacts = open_store(os.environ["RELEVO_ARTIFACTS_URL"])
    loader = Loader(artifacts, options.cache, threads=1, recent=RecentRequests(0), max_instances=options.max_instances)
    store = ComparisonStore(os.environ["DATABASE_URL"], keep=timedelta(days=options.keep_d))
    scoring = Scoring(Comparing(loader.load, partial(_catalogue, options.folder)), store, _tell)
    frames = Frames()
    try:
        while True:
            if not select.select([sys.stdin], [], [], FLUSH_S)[0]:
                scoring.flush()
                continue
            data = os.read(sys.stdin.fileno(), READ_BYTES)
            if not data:
                break
            for frame in frames.feed(data):
                scoring.take(frame)
        scoring.flush()
    except BrokenPipeError:
        os._exit(1)  # nobody listens: serving is gone
    finally:
        store.close()


def _catalogue(folder: Path) -> Catalogue:
    saved = state_file.load(folder)
    return Catalogue() if saved is None else saved[0]


def _tell(report: Report) -> None:
    sys.stdout.buffer.write(orjson.dumps(report.to_document()) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

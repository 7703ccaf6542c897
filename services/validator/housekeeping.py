"""The validator service's background thread: nudges monitoring and due alerts, and renews the gauges.

It decides nothing and holds nothing: several replicas at once, or a look that is missed, do no harm.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping

import structlog
from sqlmodel import Session

from services.validator import metrics, monitoring_repository, repository
from shared.contracts.tasks import TaskName
from shared.jobs.outbox import enqueue
from shared.registry.session import Sessions

log = structlog.get_logger(__name__)

RENUDGE_S = 60.0
"""A nudge about a row that stands as before is not repeated sooner: a busy worker would find a heap of them."""


class Housekeeper:
    """Looks every `every_s` seconds between `start` and `stop`."""

    def __init__(
        self, sessions: Sessions, *, every_s: float, webhook: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sessions = sessions
        self._every_s = every_s
        self._webhook = webhook
        self._clock = clock
        self._nudged: dict[uuid.UUID, tuple[object, float]] = {}
        """For each row nudged: how it stood then, and when that was."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a look in flight is waited for up to five seconds."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def look(self) -> None:
        """Once: write the nudges that are due and set the gauges."""
        with self._sessions.begin() as session:
            news = monitoring_repository.pipelines_with_news(session)
            self._nudge(session, TaskName.MONITOR, news)
            alerts = repository.due_alerts(session) if self._webhook else {}
            self._nudge(session, TaskName.DELIVER_ALERT, alerts)
            self._nudged = {row: nudged for row, nudged in self._nudged.items() if row in news or row in alerts}
            metrics.show(monitoring_repository.live_pipelines(session))

    def _nudge(self, session: Session, task: TaskName, due: Mapping[uuid.UUID, object]) -> None:
        now = self._clock()
        for row, standing in due.items():
            last = self._nudged.get(row)
            if last is None or last[0] != standing or now - last[1] >= RENUDGE_S:
                self._nudged[row] = (standing, now)
                enqueue(session, task, row)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self.look()
                self._failing = False
            except Exception as error:  # noqa: BLE001 - whatever it was, the next look may do better
                if not self._failing:
                    log.warning("housekeeping failed, trying again", error=type(error).__name__)
                self._failing = True

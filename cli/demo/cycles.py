"""One pass through the loop, started and waited for: over when it is released, held, rejected or failed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cli.client import Client, Json
from cli.demo.errors import DemoFailed
from cli.wait import POLL_S, StillGoing, wait_for
from shared.registry.states import CycleState, ValidationState

DEADLINE_S = 1800.0
"""A cycle that takes longer than this is taken to hang."""
LOG_DEADLINE_S = 120.0
"""Serving ships its prediction log within about a second; longer than this and it is taken to have failed."""
SWITCH_DEADLINE_S = 60.0
"""Serving follows a release within about a second; longer than this and it is taken to have failed."""
OVER = frozenset({CycleState.RELEASED, CycleState.HELD, CycleState.REJECTED, CycleState.FAILED, CycleState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cycle ended."""

    state: str
    reason: str
    verdict: str | None
    """The validation's state: passed, inconclusive, rejected, failed; None when it never came to one."""
    version: int | None
    """Number of the model that came of it."""

    @property
    def unsettled(self) -> bool:
        """Whether it was released by policy: the rows could not settle whether it is better or worse."""
        return self.state == CycleState.RELEASED and self.verdict == ValidationState.INCONCLUSIVE

    @property
    def text(self) -> str:
        """The state, with a star when the release was not settled."""
        return f"{self.state}*" if self.unsettled else self.state

    @property
    def released_version(self) -> int:
        """Number of the released model.

        Raises:
            DemoFailed: the cycle released none.
        """
        if self.state != CycleState.RELEASED or self.version is None:
            raise DemoFailed(f"The first model was not released; its cycle ended as {self.state}: {self.reason}")
        return self.version


def run_cycle(client: Client, pipeline: str, as_of: datetime, show: Callable[[str], None]) -> Outcome:
    """Start a cycle as of a simulated moment and wait for its end, and for serving to follow a release.

    Args:
        show: told each state that the cycle is in.

    Raises:
        DemoFailed: it did not end, serving did not follow, or its log did not reach the registry, in time.
    """
    _await_log(client)
    started = client.start_cycle(pipeline, as_of)
    try:
        cycle = wait_for(started, lambda: client.cycle(pipeline, started["id"]), OVER, show, deadline_s=DEADLINE_S)
    except StillGoing as error:
        raise DemoFailed(f"The cycle hangs: {error}") from None
    outcome = _outcome(client, pipeline, cycle)
    if outcome.state == CycleState.RELEASED and outcome.version is not None:
        _await_switch(client, pipeline, outcome.version)
    return outcome


def _outcome(client: Client, pipeline: str, cycle: Json) -> Outcome:
    validation_id = cycle.get("validation_id")
    validation = client.validation(pipeline, validation_id) if validation_id else {}
    return Outcome(
        state=cycle["state"],
        reason=cycle.get("reason") or validation.get("sentence") or "no reason given",
        verdict=validation.get("state"),
        version=cycle.get("version"),
    )


def _await_log(client: Client) -> None:
    """A month of flights passes in seconds here: let the log of its predictions arrive, which takes about one."""
    deadline = time.monotonic() + LOG_DEADLINE_S
    while client.log_waiting_bytes():
        if time.monotonic() > deadline:
            raise DemoFailed("The predictions do not reach the registry. See `relevo logs serving`.")
        time.sleep(POLL_S)


def _await_switch(client: Client, pipeline: str, version: int) -> None:
    deadline = time.monotonic() + SWITCH_DEADLINE_S
    while client.deployment(pipeline)["applied_version"] != version:
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"Version {version} was released, but serving does not answer with it. See `relevo logs serving`."
            )
        time.sleep(POLL_S)

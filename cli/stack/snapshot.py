"""What the supervisor tells the world, and `status.json` holds: one line a part, and where the whole stands."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from cli.stack.decide import SETTLED, Phase, Whole
from cli.stack.home import Home, write_json


@dataclass(frozen=True)
class Part:
    """One part as last seen."""

    name: str
    phase: Phase
    pid: int | None = None
    restarts: int = 0
    since: float | None = None
    """When the present run was started, Unix seconds; for showing an uptime only."""
    reason: str = ""

    @property
    def settled(self) -> bool:
        """Ready, or done with what it had to do."""
        return self.phase in SETTLED


@dataclass(frozen=True)
class Snapshot:
    """The stack as last seen."""

    whole: Whole
    supervisor: int
    since: float
    """When the supervisor began, Unix seconds."""
    note: str = ""
    """What is being done before any part is started."""
    error: str = ""
    """Why the stack did not come up, with the cure."""
    parts: tuple[Part, ...] = ()

    @property
    def pids(self) -> dict[str, int]:
        """Pid of the supervisor and of each part that runs."""
        return {"supervisor": self.supervisor} | {part.name: part.pid for part in self.parts if part.pid is not None}


def write(home: Home, snapshot: Snapshot) -> None:
    """Publish it."""
    write_json(home.status, asdict(snapshot), durable=False)


def read(home: Home) -> Snapshot | None:
    """The last one published; None when there is none, or none that this release reads."""
    try:
        found: dict[str, Any] = json.loads(home.status.read_text())
        parts = tuple(Part(**{**part, "phase": Phase(part["phase"])}) for part in found.pop("parts"))
        return Snapshot(**{**found, "whole": Whole(found["whole"]), "parts": parts})
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""What is in force on this replica, pipeline by pipeline: compiled when the registry says something new, read by requests as one
attribute.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import structlog
from pydantic import TypeAdapter, ValidationError

from services.serving.models.catalogue import Pipeline, StagesOrder
from services.serving.postprocessing.plan import Plan
from services.serving.postprocessing.removals import Removals
from shared.spec.postprocessing import Stage, Stages

log = structlog.stdlib.get_logger(__name__)

_STAGES: TypeAdapter[list[Stage]] = TypeAdapter(Stages)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Stages and removal list that are in force together."""

    stages: tuple[Stage, ...]
    number: int | None
    """Number of the order whose stages they are; None: they are a spec's."""
    spec_version: int | None
    """Version of that spec; None: they were ordered."""
    removals: Removals
    plan: Plan
    newest: int = 0
    """Number of the newest order, also one that names the spec's stages; 0 when there is none."""
    problem: str | None = None
    """Why newer stages than these are not in force."""


NOTHING = Configuration((), None, 0, Removals(), Plan((), {}))
"""Before a pipeline is known."""


class Current:
    """What is in force for one pipeline. The attributes are replaced whole, by the follower's thread."""

    __slots__ = ("all", "single")

    def __init__(self) -> None:
        self.all = NOTHING
        self.single: Configuration | None = None
        """The same, or None when it leaves single scores alone."""

    def put(self, configuration: Configuration) -> None:
        """From now on."""
        self.all = configuration
        self.single = configuration if configuration.plan.touches_singles else None


Reached = Callable[[Configuration], bool]


class Configurations:
    """All pipelines' configurations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: dict[str, Current] = {}
        self._seen: dict[str, tuple[int, StagesOrder | None, Removals]] = {}
        self._waiting: dict[str, list[tuple[Reached, Future[None]]]] = {}

    def of(self, name: str) -> Current:
        """What is in force for a pipeline, now and later."""
        with self._lock:
            return self._current.setdefault(name, Current())

    def follow(self, pipeline: Pipeline) -> None:
        """Put in force what the registry says. Before the first answer from what it says otherwise."""
        given = (pipeline.spec_version, pipeline.stages_order, pipeline.removals)
        seen = self._seen.get(pipeline.name)
        if seen is not None and all(new is old or new == old for new, old in zip(given, seen, strict=True)):
            return
        current = self.of(pipeline.name)
        configuration = _configuration(pipeline, current.all)
        current.put(configuration)
        self._seen[pipeline.name] = given
        log.info(
            "post-processing is in force",
            model=pipeline.name,
            number=configuration.number,
            spec_version=configuration.spec_version,
            removals=configuration.removals.sequence,
        )
        with self._lock:
            waiting = self._waiting.pop(pipeline.name, [])
            self._waiting[pipeline.name] = [(reached, done) for reached, done in waiting if not reached(configuration)]
        for reached, done in waiting:
            if reached(configuration) and done.set_running_or_notify_cancel():
                done.set_result(None)

    def when(self, name: str, reached: Reached) -> "Future[None]":
        """Done when what is in force fulfils a condition."""
        current, done = self.of(name), Future[None]()
        with self._lock:
            if not reached(current.all):
                self._waiting.setdefault(name, []).append((reached, done))
                return done
        done.set_result(None)
        return done


def _configuration(pipeline: Pipeline, before: Configuration) -> Configuration:
    order = pipeline.stages_order
    ordered = order is not None and order.stages is not None
    documents = (
        order.stages if order is not None and order.stages is not None else pipeline.spec.get("postprocessing", ())
    )
    number = order.number if order is not None and ordered else None
    spec_version = None if ordered else pipeline.spec_version
    removals, problem = pipeline.removals, None
    try:
        stages = tuple(_STAGES.validate_python(list(documents)))
        plan = Plan(stages, removals.items)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the stages, the removal list never waits for them
        # Written by a newer release, most likely: the stages before stay in force.
        stages, number, spec_version = before.stages, before.number, before.spec_version
        plan = Plan(stages, removals.items)
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else type(error).__name__
        problem = f"The newest stages are not known to this release ({reason})."
        log.error("stages are not known to this release; those before stay in force", model=pipeline.name)
    newest = 0 if order is None else order.number
    return Configuration(stages, number, spec_version, removals, plan, newest, problem)
